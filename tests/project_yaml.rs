//! `project.yaml` as people write it: what is read, what is refused and where, what is warned of.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use pollinator::project;
use pollinator::project::OnCommit;
use pollinator::project::OnPush;
use pollinator::project::OnSave;
use pollinator::project::Project;
use pollinator::project::ResultsHome;
use pollinator::project::WhenBusy;
use std::path::Path;
use std::time::Duration;

const WHOLE: &str = "\
projectname: p
conditions:
  executorNames:
  - lumi-std
  nodes: 2
  processesPerNode: 1
  cpu: 1000m
  mem: 1000Mi
  walltime: 600
  gpu:
    count: 0
    name: \"\"
environment:
  docker: python:3.12-rc-bookworm
  rebuildImage: false
  init-cmd: pip3 install numpy
  cmd: python3
  source: main.py
";

fn read(bytes: &[u8]) -> Result<(Project, Vec<String>), project::Error> {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("project.yaml"), bytes).unwrap();
    project::load(home.path())
}

fn taken(text: &str) -> (Project, Vec<String>) {
    read(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn quietly(text: &str) -> Project {
    let (project, warnings) = taken(text);
    assert!(warnings.is_empty(), "{warnings:?}\n{text}");
    project
}

fn refused(text: &str) -> String {
    match read(text.as_bytes()) {
        Ok(_) => panic!("not refused:\n{text}"),
        Err(error) => error.to_string(),
    }
}

/// The file with one line replaced.
fn with(line: &str, new: &str) -> String {
    assert!(WHOLE.contains(line));
    WHOLE.replace(line, new)
}

#[test]
fn a_file_of_todays_tool_means_the_same() {
    // As the example that is published with it: no source, trailing blanks, a tunnel.
    let (project, warnings) = taken(
        "projectname: jupyter\nconditions:\n  executorNames:\n  - lumi-std \n  nodes: 1\n  processesPerNode: 1\n  cpu: 1000m\n  \
         mem: 1000Mi\n  walltime: 200 \n  gpu:\n    count: 0\n    name: \"\"\nenvironment:\n  docker: enccs/notebook\n  \
         rebuildImage: false\n  cmd: jupyter lab --ip 0.0.0.0 --NotebookApp.token=secret\ntunnel:\n  user: USER\n  jumpHost: HOST\n  \
         jumpHostPort: 22\n  sshKey: XXX/.ssh/id_lumi_rsa\n  localPort: 38888 \n  remotePort: 8888 \n",
    );
    let settings = project.settings;
    assert_eq!((settings.projectname.as_str(), settings.executor_names.as_slice()), ("jupyter", &["lumi-std".to_owned()][..]));
    assert_eq!((settings.walltime, settings.source, settings.init_cmd.as_str()), (200, None, ""));
    assert_eq!(settings.tunnel.unwrap().local_port, 38888);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn texts_stay_as_they_are_written() {
    // YAML makes numbers and truth values of these; today's tool keeps their text.
    for name in ["1.10", "007", "1e3", "0x1f", "True", "2026-11-23", "12345678901234567890123"] {
        assert_eq!(quietly(&with("projectname: p", &format!("projectname: {name}"))).settings.projectname, name);
    }
    assert_eq!(quietly(&with("cpu: 1000m", "cpu: 2")).settings.cpu, "2000m");
    assert_eq!(quietly(&with("cpu: 1000m", "cpu: 0.50")).settings.cpu, "500m");
    assert_eq!(quietly(&with("mem: 1000Mi", "mem: \"16Gi\"")).settings.mem, "16384Mi");
    let command = "cmd: |\n    echo \"a: b\" # no comment\n    ls";
    assert_eq!(quietly(&with("cmd: python3", command)).settings.cmd, "echo \"a: b\" # no comment\nls\n");
}

#[test]
fn what_is_left_empty_has_its_usual_value() {
    let bare = "projectname: p\nconditions:\n  walltime: 60\n  gpu:\n  executorNames:\nenvironment:\n  cmd: ls\n  source: a\n  docker: ~\ntunnel:\n";
    let settings = quietly(bare).settings;
    assert_eq!((settings.nodes, settings.processes_per_node, settings.gpu.count), (1, 1, 0));
    assert_eq!((settings.cpu.as_str(), settings.mem.as_str(), settings.docker.as_str()), ("1000m", "1000Mi", ""));
    assert!(settings.executor_names.is_empty() && settings.tunnel.is_none());
}

#[test]
fn truth_has_many_words() {
    for (word, is) in
        [("yes", true), ("On", true), ("true", true), ("no", false), ("off", false), ("\"false\"", false), ("", false)]
    {
        let settings = quietly(&with("rebuildImage: false", &format!("rebuildImage: {word}"))).settings;
        assert_eq!(settings.rebuild_image, is, "{word}");
    }
}

#[test]
fn anchors_and_merge_keys_are_read() {
    let text = "base: &base\n  nodes: 3\n  walltime: 60\nprojectname: p\nconditions:\n  <<: *base\n  walltime: 70\nenvironment: {cmd: ls, source: a}\n";
    let (project, warnings) = taken(text);
    assert_eq!((project.settings.nodes, project.settings.walltime), (3, 70));
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("unknown key `base` at project.yaml:1:1 is not used"), "{warnings:?}");
}

#[test]
fn errors_name_the_place_the_key_and_what_was_expected() {
    let cases = [
        (with("600", "ten"), "`walltime` must be a number of seconds above 0, found \"ten\" at project.yaml:9:13"),
        (with("600", "6.5"), "`walltime` must be a number of seconds above 0, found 6.5 at project.yaml:9:13"),
        (with("600", "-1"), "`walltime` must be a number of seconds above 0, found -1 at project.yaml:9:13"),
        (with("600", "[1]"), "`walltime` must be a number of seconds above 0, found a list at project.yaml:9:13"),
        (with("nodes: 2", "nodes: 0"), "`nodes` must be a number from 1 to 127, found 0 at project.yaml:5:10"),
        (with("count: 0", "count: many"), "`count` must be a number, 0 or above, found \"many\" at project.yaml:11:12"),
        (
            with("    count: 0\n    name: \"\"\n", "    - v100\n"),
            "`gpu` must hold keys and values, found a list at project.yaml:11:5",
        ),
        (
            with("  gpu:\n    count: 0\n    name: \"\"\n", "  gpu: 2\n"),
            "`gpu` must hold keys and values, found 2 at project.yaml:10:8",
        ),
        (
            with("\n  - lumi-std", " lumi-std"),
            "`executorNames` must be a list of names, each in a line of its own after a `-`, found \"lumi-std\" at project.yaml:3:18",
        ),
        (
            with("- lumi-std", "- a\n  - name: b"),
            "each of `executorNames` must be a name, found keys and values at project.yaml:5:5",
        ),
        (
            with("source: main.py", "source: a/../../main.py"),
            "`source` must be a path below cfs/src, without `..`, found \"a/../../main.py\" at project.yaml:18:11",
        ),
        (with("  cmd: python3\n", ""), "the key `cmd` is missing below `environment` at project.yaml:13:1"),
        (with("cmd: python3", "cmd:"), "`cmd` must be a command, found nothing at project.yaml:17:7"),
        (with("cmd: python3", "cmd: \" \""), "`cmd` must be a command, found \" \" at project.yaml:17:8"),
        (with("projectname: p\n", ""), "the key `projectname` is missing at project.yaml:1:1"),
        (
            with("projectname: p", "projectname: ../p"),
            "`projectname` must be a name without / and control characters, at most 200 characters long, found \"../p\" at project.yaml:1:14",
        ),
        ("- a\n- b\n".into(), "the file must hold keys and values, such as `projectname: my-project` at project.yaml:1:1"),
        ("just text\n".into(), "the file must hold keys and values, such as `projectname: my-project` at project.yaml:1:1"),
        (String::new(), "the file must hold keys and values, such as `projectname: my-project` at project.yaml:1:1"),
    ];
    for (text, expected) in cases {
        assert_eq!(refused(&text), expected, "\n{text}");
        // A Windows editor changes no place.
        let windows = format!("\u{feff}{}", text.replace('\n', "\r\n"));
        assert_eq!(refused(&windows), expected, "with CRLF and BOM\n{text}");
    }
}

#[test]
fn what_is_no_yaml_says_where_and_what_helps() {
    let tab = refused(&with("  nodes", "\tnodes"));
    assert!(tab.contains("indented with spaces, not with tabs at project.yaml:5:"), "{tab}");
    let open = refused(&with("cmd: python3", "cmd: \"python3"));
    assert!(open.contains("at project.yaml:"), "{open}");
    let colon = refused(&with("cmd: python3", "cmd: echo a: b"));
    assert!(colon.contains("at project.yaml:17:"), "{colon}");
    let latin = read(b"projectname: p\nconditions: \xe5\n").unwrap_err().to_string();
    assert_eq!(latin, "the text is not UTF-8 at project.yaml:2:13");
    let tagged = refused(&with("cmd: python3", "cmd: !x python3"));
    assert!(tagged.contains("at project.yaml:17:8"), "{tagged}");
    let bomb: String = (0..30)
        .map(|n| format!("k{n}: &a{n} [{}]\n", format!("*a{},", n.max(1) - 1).repeat(if n == 0 { 0 } else { 9 })))
        .collect();
    assert!(refused(&bomb).contains("project.yaml:"), "an explosion of aliases is refused");
}

#[test]
fn unknown_keys_are_named_with_the_nearest_and_their_line() {
    let warned = |text: String| taken(&text).1;
    assert_eq!(
        warned(with("processesPerNode", "processesPernode"))[0],
        "unknown key `processesPernode` at project.yaml:6:3 is not used; did you mean `processesPerNode`?"
    );
    assert_eq!(
        warned(with("init-cmd", "initCmd"))[0],
        "unknown key `initCmd` at project.yaml:16:3 is not used; did you mean `init-cmd`?"
    );
    // The same word in two places: the line is that of the unknown one.
    assert_eq!(
        warned(with("  nodes: 2\n", "  nodes: 2\n  docker: x\n"))[0],
        "unknown key `docker` at project.yaml:6:3 is not used; did you mean `docker`, below `environment`?"
    );
    assert_eq!(warned(format!("{WHOLE}zzz: 1\n"))[0], "unknown key `zzz` at project.yaml:19:1 is not used");
    let sweep = format!("{WHOLE}agent:\n  onSave: sync\nsweep:\n  lr: [1]\n");
    let array = |text: &str| text.replace("  nodes: 2\n", "  nodes: 2\n  array: 4\n");
    assert_eq!((warned(sweep.clone()).len(), warned(array(WHOLE)).len()), (0, 0));
    let both = read(array(&sweep).as_bytes()).unwrap_err().to_string();
    assert!(both.contains("`array` and `sweep` cannot stand in one file"), "{both}");
}

#[test]
fn what_stands_twice_is_warned_of_and_the_last_holds() {
    let (project, warnings) = taken(&format!("{WHOLE}conditions:\n  nodes: 4\n"));
    // As today's tool reads it: the second section adds to the first.
    assert_eq!((project.settings.nodes, project.settings.walltime), (4, 600));
    assert!(
        warnings.iter().any(|w| w == "the key `nodes` stands more than once; the one at project.yaml:20:3 holds"),
        "{warnings:?}"
    );
    let (project, warnings) = taken(&format!("{WHOLE}---\nprojectname: q\n"));
    assert_eq!(project.settings.projectname, "p");
    assert!(warnings[0].contains("first document"), "{warnings:?}");
}

#[test]
fn legal_and_surprising_is_said() {
    assert!(taken(&with("projectname: p", "projectname: a_b")).1[0].contains("`_` in `projectname`"));
    assert!(taken(&with("projectname: p", "projectname: 100%")).1[0].contains("`%` in `projectname`"));
    assert!(taken(&with("  walltime: 600\n", "")).1[0].contains("names no `walltime`"));
    assert!(taken(&with("  source: main.py\n", "")).1[0].contains("names no `source`"));
}

#[test]
fn a_project_is_found_from_below() {
    let home = tempfile::tempdir().unwrap();
    let deep = home.path().join("p/cfs/src/deep");
    std::fs::create_dir_all(&deep).unwrap();
    let lost = project::find(&deep).unwrap_err();
    assert!(matches!(lost, project::Error::NotFound { .. }) && lost.hint().is_some(), "{lost}");
    std::fs::write(home.path().join("p/project.yaml"), WHOLE).unwrap();
    let (project, _) = project::find(&deep).unwrap();
    assert_eq!(project.folder, home.path().join("p").canonicalize().unwrap());
    assert!(project::find(Path::new("/nonexistent/folder")).is_err());
}

#[test]
fn what_happens_by_itself_is_read() {
    let usual = quietly(WHOLE).settings.agent;
    assert_eq!(quietly(&format!("{WHOLE}agent:\n")).settings.agent, usual);
    assert_eq!((usual.on_save, usual.on_commit, usual.on_push), (OnSave::Sync, OnCommit::Off, OnPush::Sync));
    assert_eq!((usual.when_busy, usual.results, usual.notify), (WhenBusy::Queue, ResultsHome::Auto, true));
    assert_eq!((usual.quiet, usual.gate_timeout), (Duration::from_millis(300), Duration::from_secs(1800)));

    let all = "agent:\n  onSave: off\n  quiet: 2s\n  whenBusy: replace\n  onCommit: run\n  onPush: gate\n  results: ask\n  notify: no\n  gateTimeout: 90\n";
    let read = quietly(&format!("{WHOLE}{all}")).settings.agent;
    assert_eq!((read.on_save, read.on_commit, read.on_push), (OnSave::Off, OnCommit::Run, OnPush::Gate));
    assert_eq!((read.when_busy, read.results, read.notify), (WhenBusy::Replace, ResultsHome::Ask, false));
    assert_eq!((read.quiet, read.gate_timeout), (Duration::from_secs(2), Duration::from_secs(90)));
    // As programs leave it that take a bare `off` for what it once meant.
    let rewritten = quietly(&format!("{WHOLE}agent: {{onSave: false, onPush: \"off\", quiet: 0.5}}\n")).settings.agent;
    assert_eq!((rewritten.on_save, rewritten.on_push, rewritten.quiet), (OnSave::Off, OnPush::Off, Duration::from_millis(500)));

    let cases = [
        ("onPush: always", "`onPush` must be off, sync, run or gate, found \"always\" at project.yaml:20:11"),
        ("onSave: true", "`onSave` must be off, sync or run, found true at project.yaml:20:11"),
        ("whenBusy: [queue]", "`whenBusy` must be queue, replace or skip, found a list at project.yaml:20:13"),
        (
            "quiet: soon",
            "`quiet` must be a time up to an hour, such as 300ms, 2s or a number of seconds, found \"soon\" at project.yaml:20:10",
        ),
        (
            "gateTimeout: 0",
            "`gateTimeout` must be a time from 1s to 30d, such as 90s, 30m, 2h or a number of seconds, found 0 at project.yaml:20:16",
        ),
        ("notify: perhaps", "`notify` must be true or false, found \"perhaps\" at project.yaml:20:11"),
    ];
    for (line, expected) in cases {
        assert_eq!(refused(&format!("{WHOLE}agent:\n  {line}\n")), expected);
    }
    assert_eq!(
        refused(&format!("{WHOLE}agent: sync\n")),
        "`agent` must hold keys and values, found \"sync\" at project.yaml:19:8"
    );
    let warned = |line: &str| taken(&format!("{WHOLE}agent:\n  {line}\n")).1;
    assert_eq!(warned("onpush: run")[0], "unknown key `onpush` at project.yaml:20:3 is not used; did you mean `onPush`?");
}
