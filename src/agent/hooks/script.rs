//! The file that git starts, as text: made, and read back. Pure.
//!
//! A seal in its last line tells a file that is as it was written from one that somebody edited, whichever version wrote it.

use super::Hook;

/// Ending of the name under which an earlier hook is kept.
pub const KEPT: &str = ".before-pollinator";
/// Begins the second line of every hook of ours.
const MARK: &str = "# Pollinator's hook";
/// Begins the last line.
const SEAL: &str = "# sealed ";
/// Begins the line of a project.
const RUN: &str = "run ";

/// A project that a hook serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its folder, from the top of the work tree: `.`, `./a/b`.
    pub project: String,
    /// The push is refused where it cannot be checked.
    pub gate: bool,
    /// Git folder of the repository, where the hook is shared with others.
    pub repository: Option<String>,
    /// Profile of the config file.
    pub profile: Option<String>,
}

impl Entry {
    /// Whether both mean the same project.
    pub fn is_same(&self, other: &Entry) -> bool {
        self.project == other.project && self.repository == other.repository
    }
}

/// A hook of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Which.
    pub hook: Hook,
    /// The program that it calls, by its absolute path.
    pub program: String,
    /// The projects, in the order of their installation.
    pub entries: Vec<Entry>,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Ours, as it was written.
    Ours(Script),
    /// Ours, but not as it was written.
    Edited,
    /// Somebody else's.
    Others,
}

impl Script {
    /// The same with a project added, or changed.
    pub fn with(mut self, entry: Entry) -> Script {
        match self.entries.iter_mut().find(|there| there.is_same(&entry)) {
            Some(there) => *there = entry,
            None => self.entries.push(entry),
        }
        self
    }

    /// Its text. `None` where a path has a NUL in it, which no path has.
    pub fn text(&self) -> Option<String> {
        let name = self.hook.name();
        let program = shlex::try_quote(&self.program).ok()?;
        let (take, give) = match self.hook {
            Hook::PostCommit => ("", ""),
            // Each that is called gets all that git says on standard input, to the byte.
            Hook::PrePush => ("refs=$(cat; echo .)\nrefs=${refs%.}\n", "printf %s \"$refs\" | "),
        };
        let mut text = format!(
            r#"#!/bin/sh
{MARK}, version 1. `pollinator hook install` writes it, `pollinator hook uninstall` takes it away. Do not edit:
# lines of your own belong into the executable file {name}{KEPT} beside it, which runs first.
pollinator={program}
{take}if [ -x "$0{KEPT}" ]; then
    {give}"$0{KEPT}" "$@" || exit
fi
[ -x "$pollinator" ] || {{ pollinator=$(command -v pollinator) && "$pollinator" hook --help; }} >/dev/null 2>&1 || pollinator=
git_dir=$(git rev-parse --absolute-git-dir)
common=$(CDPATH= cd "$(git rev-parse --git-common-dir)" && pwd -P)
top=$(git rev-parse --show-toplevel 2>/dev/null) && cd "$top" || exit 0
unset $(git rev-parse --local-env-vars)
# run PROJECT GATE REPOSITORY PROFILE: a hook that several repositories share serves each project in its own only.
run() {{
    project=$1 gate=$2 repository=$3 profile=$4
    shift 4
    [ -z "$repository" ] || [ "$repository" = "$common" ] || return 0
    if [ -n "$pollinator" ]; then
        {give}"$pollinator" hook run {name} --git-dir "$git_dir" --project "$project" ${{gate:+--gate}} \
            ${{profile:+--profile "$profile"}} -- "$@" || exit
    elif [ -n "$gate" ]; then
        echo "pollinator is gone, so this push cannot be checked: install it, or push with --no-verify" >&2
        exit 1
    else
        echo "pollinator is gone, so its {name} hook does nothing: install it, or remove $0" >&2
    fi
}}
"#
        );
        for entry in &self.entries {
            let gate = if entry.gate { "gate" } else { "" };
            let (repository, profile) = (entry.repository.as_deref(), entry.profile.as_deref());
            let words = [entry.project.as_str(), gate, repository.unwrap_or_default(), profile.unwrap_or_default()];
            text.push_str(&format!("{RUN}{} \"$@\"\n", shlex::try_join(words).ok()?));
        }
        text.push_str("exit 0\n");
        Some(sealed(text))
    }

    /// Reads a file back.
    pub fn read(hook: Hook, bytes: &[u8]) -> Reading {
        let text = String::from_utf8_lossy(bytes);
        if !text.lines().any(|line| line.starts_with(MARK)) {
            return Reading::Others;
        }
        let unsealed = text.rfind(SEAL).map(|at| text[..at].to_owned());
        match unsealed.filter(|body| sealed(body.clone()) == text) {
            Some(body) => parse(hook, &body).map_or(Reading::Edited, Reading::Ours),
            None => Reading::Edited,
        }
    }
}

fn sealed(mut text: String) -> String {
    let seal = blake3::hash(text.as_bytes()).to_hex();
    text.push_str(&format!("{SEAL}{}\n", &seal[..16]));
    text
}

fn parse(hook: Hook, body: &str) -> Option<Script> {
    let program = body.lines().find_map(|line| line.strip_prefix("pollinator="))?;
    let program = shlex::split(program)?.into_iter().next()?;
    let entries = body.lines().filter_map(|line| line.strip_prefix(RUN)).map(entry).collect::<Option<_>>()?;
    Some(Script { hook, program, entries })
}

fn entry(line: &str) -> Option<Entry> {
    let words = shlex::split(line)?;
    let [project, gate, repository, profile, _]: [String; 5] = words.try_into().ok()?;
    let some = |word: String| (!word.is_empty()).then_some(word);
    Some(Entry { project, gate: !gate.is_empty(), repository: some(repository), profile: some(profile) })
}

/// Whether a hook looks at its own name to know what to do, as those of some managers of hooks do. Under another name it
/// would do nothing, and say nothing.
pub fn goes_by_its_name(text: &str) -> bool {
    const SIGNS: [&str; 10] = [
        "basename \"$0\"",
        "basename -- \"$0\"",
        "basename $0",
        "${0##*/}",
        "basename(sys.argv[0])",
        "File.basename($0)",
        "OVERCOMMIT",
        // Files of husky that are read in, and do so: of version 9, and of those before 5.
        "dirname \"$0\")/h\"",
        "dirname -- \"$0\")/h\"",
        "dirname \"$0\")/husky.sh\"",
    ];
    SIGNS.iter().any(|sign| text.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn script(hook: Hook) -> Script {
        let entries = vec![
            Entry { project: ".".into(), ..Entry::default() },
            Entry {
                project: "./it's a/project".into(),
                gate: hook == Hook::PrePush,
                repository: Some("/home/me/a b/.git".into()),
                profile: Some("lumi".into()),
            },
        ];
        Script { hook, program: "/opt/my tools/pollinator".into(), entries }
    }

    #[test]
    fn the_hook_before_a_push_is_this() {
        insta::assert_snapshot!(script(Hook::PrePush).text().unwrap());
    }

    #[test]
    fn the_hook_after_a_commit_is_this() {
        insta::assert_snapshot!(script(Hook::PostCommit).text().unwrap());
    }

    #[test]
    fn what_was_edited_is_noticed() {
        let text = script(Hook::PrePush).text().unwrap();
        assert_eq!(Script::read(Hook::PrePush, text.as_bytes()), Reading::Ours(script(Hook::PrePush)));
        let edits = [
            text.replace("exit 0\n", "echo mine\nexit 0\n"),
            format!("{text}echo mine\n"),
            text.replace("/opt/", "/usr/"),
            text.trim_end().to_owned(),
            text.lines().take(10).collect::<Vec<_>>().join("\n"),
            text.replace("# sealed ", "# sealed 0"),
        ];
        for edited in edits {
            assert_eq!(Script::read(Hook::PrePush, edited.as_bytes()), Reading::Edited, "{edited}");
        }
        for others in [&b""[..], b"#!/bin/sh\necho pollinator hook run\n", b"\x7fELF\xff\xfe"] {
            assert_eq!(Script::read(Hook::PrePush, others), Reading::Others);
        }
    }

    #[test]
    fn a_project_stands_in_it_once() {
        let once = script(Hook::PrePush);
        let entry = Entry { gate: true, ..once.entries[0].clone() };
        let changed = once.clone().with(entry);
        assert_eq!((changed.entries.len(), changed.entries[0].gate), (2, true));
        // The same folder of another repository is another project.
        let elsewhere = Entry { repository: Some("/other/.git".into()), ..once.entries[0].clone() };
        assert_eq!(once.with(elsewhere).entries.len(), 3);
    }

    #[test]
    fn managers_whose_hooks_know_themselves_by_name_are_known() {
        for text in [
            "#!/usr/bin/env sh\n. \"$(dirname \"$0\")/h\"",
            "#!/bin/sh\n# husky\n. \"$(dirname \"$0\")/husky.sh\"\n",
            "hook=$(basename \"$0\")\n",
            "#!/usr/bin/env ruby\nif ENV['OVERCOMMIT_DISABLE'].to_i != 0\n  exit\nend\n",
        ] {
            assert!(goes_by_its_name(text), "{text}");
        }
        for text in [
            "",
            "#!/bin/sh\nmake test\n",
            // Version 8 of husky starts the file again as what it is called.
            "#!/usr/bin/env sh\n. \"$(dirname -- \"$0\")/_/husky.sh\"\n\nnpm test\n",
            // The framework called pre-commit.
            "#!/usr/bin/env bash\nHERE=\"$(cd \"$(dirname \"$0\")\" && pwd)\"\nARGS=(hook-impl --hook-type=pre-push)\n",
            "#!/bin/sh\ncommand -v git-lfs >/dev/null || exit 2\ngit lfs pre-push \"$@\"\n",
        ] {
            assert!(!goes_by_its_name(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(program in "/[^\\p{Cc}]{1,30}", project in "\\./[^\\p{Cc}]{1,30}", gate: bool,
                                        repository in prop::option::of("/[^\\p{Cc}]{1,30}"),
                                        profile in prop::option::of("[^\\p{Cc}]{1,10}")) {
            let entries = vec![Entry { project, gate, repository, profile }];
            let written = Script { hook: Hook::PrePush, program, entries };
            let text = written.text().unwrap();
            prop_assert_eq!(Script::read(Hook::PrePush, text.as_bytes()), Reading::Ours(written));
        }
    }
}
