//! Git hooks put in and taken out, with real git: beside others, wherever git looks for them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod desk;
mod lab;

use desk::Desk;
use desk::contents;
use desk::script;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Said for each project of a push that finds no colony.
const CALLED: &str = "the push goes on, but the trees were not brought over";

/// How often the hooks of projects were called.
fn calls(output: &str) -> usize {
    output.matches(CALLED).count()
}

#[test]
fn what_was_there_comes_back_to_the_byte() {
    let desk = Desk::without_colony();
    let project = desk.project("p", "onCommit: off");
    let hooks = project.join(".git/hooks");
    // No text, and no end of its last line.
    script(&hooks.join("post-commit"), b"#!/bin/sh\n: \xff\xfe\necho earlier >> \"$HOME/seen\"");
    fs::set_permissions(hooks.join("post-commit"), fs::Permissions::from_mode(0o751)).unwrap();
    // A link to a script of the work tree.
    script(&project.join("tools/check"), "#!/bin/sh\necho \"checked $1\" >> \"$HOME/seen\"\n");
    std::os::unix::fs::symlink("../../tools/check", hooks.join("pre-push")).unwrap();
    let before = contents(&hooks);

    let installed = desk.hook(&project, &["install"]).expect_code(0);
    assert!(installed.stdout.contains("after pre-push.before-pollinator"), "{}", installed.stdout);
    assert!(installed.stdout.contains("onCommit is off, onPush is sync"), "{}", installed.stdout);
    let after = contents(&hooks);
    assert_eq!(after["post-commit.before-pollinator"], before["post-commit"]);
    assert_eq!(after["pre-push.before-pollinator"], before["pre-push"]);
    assert_eq!(after["pre-push"].0 & 0o777, 0o755);

    // The same again changes nothing.
    let again = desk.hook(&project, &["install", "--json"]).expect_code(0).json();
    assert!(again["hooks"].as_array().unwrap().iter().all(|hook| hook["change"] == "unchanged"), "{again}");
    assert_eq!(contents(&hooks), after);

    desk.commit(&project, "with hooks");
    assert_eq!(calls(&desk.push(&project).expect_code(0).stderr), 1);
    assert_eq!(fs::read_to_string(desk.lab.home().join("seen")).unwrap(), "earlier\nchecked origin\n");

    let gone = desk.hook(&project, &["uninstall"]).expect_code(0);
    assert!(gone.stdout.contains("is again what it was"), "{}", gone.stdout);
    assert_eq!(contents(&hooks), before);
    let nothing = desk.hook(&project, &["uninstall"]).expect_code(0);
    assert!(nothing.stdout.contains("there was none"), "{}", nothing.stdout);
    assert_eq!(contents(&hooks), before);
}

#[test]
fn an_earlier_hook_hears_all_that_git_says_and_its_refusal_holds() {
    let desk = Desk::without_colony();
    let project = desk.project("p", "");
    let deep = project.join("deep");
    fs::create_dir(&deep).unwrap();
    let hook = project.join(".git/hooks/pre-push");
    let told = desk.lab.home().join("told");
    fs::create_dir(&told).unwrap();
    let text = |end: &str| {
        format!(
            "#!/bin/sh\ncd . && pwd > $HOME/told/where\ncat > $HOME/told/input\nprintf '%s\\n' \"$@\" > $HOME/told/arguments\nenv | grep -c ^GIT_ > $HOME/told/git\n{end}\n"
        )
    };
    script(&hook, text("exit 7"));
    desk.hook(&project, &["install"]).expect_code(0);

    let refused = desk.push(&deep);
    assert_ne!(refused.code, Some(0), "{}", refused.stderr);
    assert_eq!((calls(&refused.stderr), desk.pushed(&project)), (0, None));
    let read = |name: &str| fs::read_to_string(told.join(name)).unwrap();
    assert_eq!(read("where").trim(), project.canonicalize().unwrap().to_str().unwrap());
    let (head, zeros) = (desk.head(&project), "0".repeat(40));
    assert_eq!(read("input"), format!("HEAD {head} refs/heads/main {zeros}\n"));
    assert_eq!(read("arguments"), format!("origin\n{}\n", project.with_extension("git").display()));
    assert_ne!(read("git").trim(), "0", "git's variables are for the earlier hook, too");

    // One that does not read what git says, and lets it pass.
    script(&hook.with_extension("before-pollinator"), "#!/bin/sh\nexit 0\n");
    let passed = desk.push(&deep).expect_code(0);
    assert_eq!((calls(&passed.stderr), desk.pushed(&project)), (1, Some(head)));
    // One that is not executable, git does not run, and neither does ours.
    fs::set_permissions(hook.with_extension("before-pollinator"), fs::Permissions::from_mode(0o644)).unwrap();
    let status = desk.hook(&project, &["status"]).expect_code(0);
    assert!(status.stdout.contains("is not executable and does not run"), "{}", status.stdout);
}

#[test]
fn core_hooks_path_is_where_they_go() {
    for (setting, place, said) in [
        (".husky", "p/.husky", "git tracks the hooks like any file"),
        ("~/my hooks", "my hooks", "which other repositories may use"),
        ("$HOME/others", "others", "which other repositories may use"),
    ] {
        let desk = Desk::without_colony();
        let (project, place) = (desk.project("p", ""), desk.lab.home().join(place));
        let value = setting.replace("$HOME", desk.lab.home().to_str().unwrap());
        desk.git(&project, &["config", "core.hooksPath", &value]);
        // From below: a relative path counts from the top.
        let installed = desk.hook(&project.join("cfs/src"), &["install"]).expect_code(0);
        assert!(installed.stderr.contains(said), "{}", installed.stderr);
        assert!(place.join("pre-push").is_file() && !project.join(".git/hooks/pre-push").exists());
        desk.commit(&project, "more");
        assert_eq!(calls(&desk.push(&project).expect_code(0).stderr), 1, "{setting}");
        let status = desk.hook(&project, &["status", "--json"]).expect_code(0).json();
        assert_eq!(status["hooks"][1]["state"], "installed");
        desk.hook(&project, &["uninstall"]).expect_code(0);
        assert!(contents(&place).is_empty(), "{setting}");
    }
}

#[test]
fn a_folder_of_hooks_that_repositories_share_serves_each_in_its_own() {
    let desk = Desk::without_colony();
    let (one, two, none) = (desk.project("one", ""), desk.project("two", ""), desk.project("none", ""));
    desk.git(&one, &["config", "--global", "core.hooksPath", "~/hooks"]);
    desk.hook(&one, &["install"]).expect_code(0);
    assert_eq!(calls(&desk.push(&none).expect_code(0).stderr), 0);
    let status = desk.hook(&two, &["status", "--json"]).expect_code(0).json();
    assert_eq!(status["hooks"][1]["state"], "missing", "{status}");
    desk.hook(&two, &["install"]).expect_code(0);
    desk.hook(&one, &["uninstall", "--all"]).expect_code(0);
    assert_eq!(calls(&desk.push(&one).expect_code(0).stderr), 0);
    assert_eq!(calls(&desk.push(&two).expect_code(0).stderr), 1);
    desk.hook(&two, &["uninstall"]).expect_code(0);
    assert!(contents(&desk.lab.home().join("hooks")).is_empty());
}

#[test]
fn hooks_that_a_later_core_hooks_path_hides_are_found_and_removed() {
    let desk = Desk::without_colony();
    let project = desk.project("p", "");
    let before = contents(&project.join(".git/hooks"));
    desk.hook(&project, &["install"]).expect_code(0);
    desk.git(&project, &["config", "core.hooksPath", "tools/hooks"]);
    let status = desk.hook(&project, &["status", "--json"]).expect_code(0).json();
    let hook = &status["hooks"][1];
    assert_eq!(hook["state"], "shadowed");
    assert!(hook["notes"][0].as_str().unwrap().contains("core.hooksPath was set afterwards"), "{hook}");
    assert_eq!(calls(&desk.push(&project).expect_code(0).stderr), 0);
    desk.hook(&project, &["install"]).expect_code(0);
    desk.commit(&project, "more");
    assert_eq!(calls(&desk.push(&project).expect_code(0).stderr), 1);
    desk.hook(&project, &["uninstall"]).expect_code(0);
    assert_eq!(contents(&project.join(".git/hooks")), before);
    assert!(contents(&project.join("tools/hooks")).is_empty());
}

#[test]
fn a_linked_work_tree_and_a_submodule_have_hooks_like_any_other() {
    let desk = Desk::without_colony();
    let project = desk.project("p", "");
    let linked = desk.lab.home().join("linked tree");
    desk.git(&project, &["worktree", "add", "-q", "-b", "linked", linked.to_str().unwrap()]);
    desk.hook(&linked, &["install"]).expect_code(0);
    assert!(project.join(".git/hooks/pre-push").is_file());
    desk.commit(&linked, "there");
    assert_eq!(calls(&desk.push(&linked).expect_code(0).stderr), 1);
    assert_eq!(calls(&desk.push(&project).expect_code(0).stderr), 1);

    let above = desk.repository("above");
    desk.git(&above, &["submodule", "add", "-q", project.with_extension("git").to_str().unwrap(), "sub"]);
    let sub = above.join("sub");
    desk.git(&sub, &["checkout", "-q", "-b", "work", "origin/main"]);
    desk.hook(&sub, &["install"]).expect_code(0);
    assert!(above.join(".git/modules/sub/hooks/pre-push").is_file() && !above.join(".git/hooks/pre-push").exists());
    desk.commit(&sub, "in the submodule");
    assert_eq!(calls(&desk.push(&sub).expect_code(0).stderr), 1);
    assert_eq!(calls(&desk.push(&above).expect_code(0).stderr), 0);
}

#[test]
fn several_projects_of_a_repository_are_served_each() {
    let desk = Desk::without_colony();
    let all = desk.repository("all");
    let (one, two) = (all.join("deep/it's one"), all.join("two"));
    desk.project_in(&one, "one", "");
    desk.project_in(&two, "two", "onPush: off");
    desk.commit(&all, "projects");
    desk.hook(&one, &["install"]).expect_code(0);
    desk.hook(&all, &["install", "-C", "two"]).expect_code(0);
    assert_eq!(calls(&desk.push(&all).expect_code(0).stderr), 1, "one of them wants nothing");
    desk.agent(&two, "onPush: sync");
    desk.commit(&all, "both");
    assert_eq!(calls(&desk.push(&all).expect_code(0).stderr), 2);
    desk.hook(&two, &["uninstall"]).expect_code(0);
    let status = |folder: &Path| desk.hook(folder, &["status", "--json"]).expect_code(0).json()["hooks"][1]["state"].clone();
    assert_eq!((status(&one), status(&two)), (Value::from("installed"), Value::from("missing")));
    desk.commit(&all, "one");
    assert_eq!(calls(&desk.push(&all).expect_code(0).stderr), 1);
    // A branch without the project is pushed in silence.
    desk.git(&all, &["checkout", "-q", "-b", "without", "HEAD~3"]);
    assert_eq!(desk.push(&all).expect_code(0).stderr.matches("pollinator").count(), 0);
    // What is gone can be taken out: by its folder, or with all others.
    desk.hook(&all, &["uninstall", "--all"]).expect_code(0);
    assert!(!all.join(".git/hooks/pre-push").exists());
}

#[test]
fn an_edited_hook_is_left_alone() {
    let desk = Desk::without_colony();
    let project = desk.project("p", "");
    desk.hook(&project, &["install"]).expect_code(0);
    let hook = project.join(".git/hooks/pre-push");
    let edited = fs::read_to_string(&hook).unwrap().replace("#!/bin/sh\n", "#!/bin/sh\necho mine\n");
    fs::write(&hook, &edited).unwrap();
    let before = contents(&project.join(".git/hooks"));
    for command in [&["install"][..], &["uninstall"], &["uninstall", "--all"]] {
        let refused = desk.hook(&project, command).expect_code(2);
        assert!(
            refused.stderr.contains("was edited after") && refused.stderr.contains("hint: move your lines to"),
            "{}",
            refused.stderr
        );
    }
    assert_eq!(contents(&project.join(".git/hooks")), before);
    assert_eq!(desk.hook(&project, &["status", "--json"]).json()["hooks"][1]["state"], "edited");
}

#[test]
fn an_earlier_hook_that_cannot_be_kept_is_not_moved() {
    let desk = Desk::without_colony();
    let project = desk.project("p", "");
    let hooks = project.join(".git/hooks");
    // Something stands where it would be kept.
    script(&hooks.join("pre-push"), "#!/bin/sh\n");
    script(&hooks.join("pre-push.before-pollinator"), "#!/bin/sh\n: of old\n");
    let before = contents(&hooks);
    let refused = desk.hook(&project, &["install"]).expect_code(2);
    assert!(refused.stderr.contains("something stands there already"), "{}", refused.stderr);
    assert_eq!(contents(&hooks), before, "neither hook is installed");
    // The hooks of a manager that tells them apart by their names.
    let husky = project.join(".husky/_");
    script(&husky.join("pre-push"), "#!/usr/bin/env sh\n. \"$(dirname \"$0\")/h\"");
    desk.git(&project, &["config", "core.hooksPath", ".husky/_"]);
    let before = contents(&husky);
    let refused = desk.hook(&project, &["install"]).expect_code(2);
    assert!(refused.stderr.contains("pollinator hook run pre-push --project . -- \"$@\""), "{}", refused.stderr);
    assert_eq!(contents(&husky), before);
}

#[test]
fn a_manager_of_hooks_can_call_it_by_the_line_that_is_told() {
    let desk = Desk::without_colony();
    let all = desk.repository("all");
    desk.project_in(&all.join("sub/p"), "p", "onCommit: sync");
    desk.commit(&all, "project");
    for hook in ["post-commit", "pre-push"] {
        let line = format!("{} hook run {hook} --project ./sub/p -- \"$@\"", env!("CARGO_BIN_EXE_pollinator"));
        script(&all.join(".git/hooks").join(hook), format!("#!/bin/sh\nset -e\n{line}\n"));
    }
    // Nobody has taken git's variables away, and these mean something else from any other folder.
    let run = |arguments: &[&str]| {
        let mut git = desk.command("git", &all, arguments);
        git.env("GIT_DIR", ".git").env("GIT_WORK_TREE", ".").env("GIT_INDEX_FILE", ".git/index");
        lab::finish(git).expect_code(0)
    };
    let committed = run(&["commit", "-q", "--allow-empty", "-m", "by hand"]);
    let log = committed.stderr.split_once("its log: ").expect("it says where the log is").1.trim().to_owned();
    assert_eq!(calls(&run(&["push", "origin", "main", "HEAD~:refs/heads/older"]).stderr), 1);
    desk.agent(&all.join("sub/p"), "onPush: run");
    let passed = run(&["push", "origin", "main:refs/heads/a", "HEAD~:refs/heads/b"]);
    assert!(passed.stderr.contains("no run was started: cannot reach"), "{}", passed.stderr);
    lab::until("what the commit started has ended", || fs::read_to_string(&log).unwrap().contains("error: "));
}

#[test]
fn an_installation_that_was_cut_off_is_taken_up() {
    let desk = Desk::without_colony();
    let project = desk.project("p", "");
    let hooks = project.join(".git/hooks");
    script(&hooks.join("pre-push"), "#!/bin/sh\n: mine\n");
    let before = contents(&hooks);
    // Killed after the earlier hook was renamed.
    fs::rename(hooks.join("pre-push"), hooks.join("pre-push.before-pollinator")).unwrap();
    desk.hook(&project, &["install"]).expect_code(0);
    let status = desk.hook(&project, &["status", "--json"]).json();
    assert!(status["hooks"][1]["earlier"].as_str().unwrap().ends_with("pre-push.before-pollinator"), "{status}");
    fs::remove_file(hooks.join("pre-push")).unwrap();
    desk.hook(&project, &["uninstall"]).expect_code(0);
    assert_eq!(contents(&hooks), before);
}

#[test]
fn a_folder_of_hooks_is_made_and_one_that_cannot_be_is_told() {
    let desk = Desk::without_colony();
    let project = desk.project("p", "");
    fs::remove_dir_all(project.join(".git/hooks")).unwrap();
    desk.hook(&project, &["install"]).expect_code(0);
    desk.hook(&project, &["status"]).expect_code(0);
    assert_eq!(calls(&desk.push(&project).expect_code(0).stderr), 1);
    desk.git(&project, &["config", "core.hooksPath", "README/hooks"]);
    let refused = desk.hook(&project, &["install"]).expect_code(1);
    assert!(refused.stderr.contains("README/hooks") && refused.stderr.contains("hint: "), "{}", refused.stderr);
    let outside = desk.lab.project("outside", "pass\n");
    let refused = desk.hook(&outside, &["install"]).expect_code(2);
    assert!(refused.stderr.contains("knows no work tree") && refused.stderr.contains("git init"), "{}", refused.stderr);
}

#[test]
fn hooks_use_the_profile_that_they_were_installed_with() {
    let desk = Desk::new();
    let project = desk.project("p", "");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "[profile.far.colony]\nhost = \"127.0.0.1\"\nport = {port}\ntls = false\nname = \"far\"\nkey = \"{}\"\n\n[profile.far.store]\nendpoint = \"http://127.0.0.1:{port}\"\nbucket = \"b\"\naccess-key = \"a\"\nsecret-key = \"s\"\n",
        "1".repeat(64)
    );
    let file = desk.lab.home().join(".config/pollinator/config.toml");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, config).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    desk.hook(&project, &["install", "--profile", "far"]).expect_code(0);
    let pushed = desk.push(&project).expect_code(0);
    assert!(calls(&pushed.stderr) == 1 && pushed.stderr.contains(&format!("127.0.0.1:{port}")), "{}", pushed.stderr);
    assert!(!desk.lab.state().join("colony").exists(), "without the profile, the local colony would have been started");
}

#[test]
fn a_program_that_is_gone_stops_no_commit_and_only_a_gate() {
    let desk = Desk::without_colony();
    let project = desk.project("p", "onCommit: sync");
    let mine = desk.lab.home().join("bin/pollinator");
    desk::copy(env!("CARGO_BIN_EXE_pollinator"), &mine);
    let install = || lab::finish(desk.command(&mine, &project, &["hook", "install"])).expect_code(0);
    let aside = mine.with_extension("aside");
    install();
    fs::rename(&mine, &aside).unwrap();
    let one_line = |text: &str| text.lines().filter(|line| line.contains("pollinator is gone")).count() == 1;
    assert!(one_line(&desk.commit(&project, "more").stderr));
    assert!(one_line(&desk.push(&project).expect_code(0).stderr));
    let status = desk.hook(&project, &["status", "--json"]).expect_code(0).json();
    assert_eq!(status["hooks"][1]["program_is_gone"], true);
    // The one in PATH is called instead, if it knows hooks: an earlier tool of that name does not.
    let other = desk.lab.home().join("other");
    script(&other.join("pollinator"), "#!/bin/sh\necho 'unknown command' >&2\nexit 1\n");
    let path = format!("{}:{}", other.display(), std::env::var("PATH").unwrap());
    let push = || {
        let mut git = desk.command("git", &project, &["push", "origin", "HEAD"]);
        git.env("PATH", &path);
        lab::finish(git)
    };
    desk.commit(&project, "more");
    assert!(one_line(&push().expect_code(0).stderr));
    fs::remove_file(other.join("pollinator")).unwrap();
    desk::copy(&aside, &other.join("pollinator"));
    desk.commit(&project, "more");
    assert_eq!(calls(&push().expect_code(0).stderr), 1);

    desk.agent(&project, "onPush: gate");
    fs::rename(&aside, &mine).unwrap();
    let before = desk.hook(&project, &["status"]).expect_code(0);
    assert!(before.stdout.contains("onPush was changed to or from gate"), "{}", before.stdout);
    install();
    fs::remove_file(&mine).unwrap();
    desk.commit(&project, "gated");
    let pushed = desk.pushed(&project);
    let refused = desk.push(&project);
    assert!(refused.code != Some(0) && refused.stderr.contains("--no-verify"), "{}", refused.stderr);
    assert_eq!(desk.pushed(&project), pushed);
    desk.git(&project, &["push", "-q", "--no-verify", "origin", "HEAD"]);
}
