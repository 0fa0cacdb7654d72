//! What a job's shell reads: command, arguments and variables, as data.
//!
//! They lie in files of the job's folder (0600), one value a line, encoded so that a line is plain ASCII; a constant
//! script ([`RUN`]) decodes them with builtins of the shell only, since an image may hold nothing but `sh`, and runs the
//! command. So no value is ever part of a script, of a scheduler's options, of a container engine's options, or of the
//! arguments that other users of a machine can list.

use super::Failure;
use crate::executor::spec::Command;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

/// Where a container sees the folder that [`write()`] makes.
pub const INSIDE: &str = "/.pollinator";
/// In that folder: the names of the machines that the job runs on, where they are known, in a line, with commas between.
pub const NODES: &str = "nodes";
/// The script's name in that folder.
pub const SCRIPT: &str = "run";

/// Runs one process of a job. Arguments: the payload folder as it is seen here, the process's rank, its rank among those
/// of its node, the rank of its node.
///
/// Variables come first, so that `init-cmd` has them, too; `init-cmd` is evaluated in this very shell, so that what it
/// exports holds for the command. That the command began is told by the file `init-done.RANK`.
pub const RUN: &str = r#"# Made by pollinator: runs one process of a job from the data beside this file.
pollinator_dir=$1
pollinator_mark=init-done.$2
while IFS= read -r pollinator_line; do
  pollinator_value=$(printf '%b.' "${pollinator_line#*=}")
  command export "${pollinator_line%%=*}=${pollinator_value%.}" || :
done < "$pollinator_dir/env"
export POLLINATOR_RANK="$2" POLLINATOR_LOCAL_RANK="$3" POLLINATOR_NODE_RANK="$4"
if [ "${HOME-}" = /.home ] && [ -d "/.home/$2" ]; then export HOME="/.home/$2"; fi
if [ -r "$pollinator_dir/nodes" ]; then
  IFS= read -r POLLINATOR_NODES < "$pollinator_dir/nodes"
  export POLLINATOR_NODES
fi
IFS= read -r pollinator_line < "$pollinator_dir/cmd"
pollinator_cmd=$(printf '%b.' "$pollinator_line")
IFS= read -r pollinator_line < "$pollinator_dir/init"
pollinator_init=$(printf '%b.' "$pollinator_line")
set --
while IFS= read -r pollinator_line; do
  pollinator_value=$(printf '%b.' "$pollinator_line")
  set -- "$@" "${pollinator_value%.}"
done < "$pollinator_dir/args"
pollinator_init=${pollinator_init%.}
pollinator_cmd=${pollinator_cmd%.}
if [ -n "$pollinator_init" ]; then eval "$pollinator_init" || exit $?; fi
: > "$pollinator_dir/$pollinator_mark"
unset pollinator_line pollinator_value pollinator_init pollinator_dir pollinator_mark
eval "$pollinator_cmd"
"#;

/// The payload's folder in a job's folder.
pub fn folder(job_folder: &Path) -> PathBuf {
    job_folder.join("payload")
}

/// Writes the payload of a job; gives its folder. Doing it twice gives the same.
///
/// # Errors
/// Those of the file system.
pub fn write(job_folder: &Path, env: &BTreeMap<String, String>, command: &Command) -> Result<PathBuf, Failure> {
    let folder = folder(job_folder);
    let made = std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&folder);
    made.map_err(Failure::io("cannot make the folder of the command", &folder))?;
    let variables = env.iter().map(|(name, value)| format!("{name}={}\n", encode(value))).collect::<String>();
    let args = command.args.iter().map(|word| encode(word) + "\n").collect::<String>();
    let cmd = with_arguments(&command.cmd, !command.args.is_empty());
    let files = [
        ("env", variables),
        ("args", args),
        ("cmd", encode(&cmd) + "\n"),
        ("init", encode(&command.init) + "\n"),
        (SCRIPT, RUN.into()),
    ];
    for (name, text) in files {
        private_file(&folder.join(name), text.as_bytes())?;
    }
    Ok(folder)
}

/// Writes a file that only its owner can read.
///
/// # Errors
/// Those of the file system.
pub fn private_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = || Failure::io("cannot write in the folder of the job", path);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed())?;
    file.write_all(bytes).map_err(failed())
}

/// A text as one line of plain ASCII that `printf %b` gives back byte for byte.
pub fn encode(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'\\' => line.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => _ = write!(line, "\\0{byte:03o}"),
        }
    }
    line
}

/// The command as it is evaluated: its arguments follow as literal words, whatever they hold.
pub fn with_arguments(cmd: &str, has_arguments: bool) -> String {
    // Trailing space would put the arguments on a line of their own, and an empty `"$@"` alone is a successful command.
    let cmd = cmd.trim_end();
    if has_arguments { format!("{cmd} \"$@\"") } else { cmd.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Output;
    use std::process::Stdio;

    fn run(shell: &[&str], env: &[(&str, &str)], command: &Command) -> Output {
        let folder = tempfile::tempdir().unwrap();
        let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let payload = write(folder.path(), &env, command).unwrap();
        let mut child = std::process::Command::new(shell[0]);
        child.args(&shell[1..]).arg(payload.join(SCRIPT)).arg(&payload).args(["3", "1", "0"]);
        child.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).output().unwrap()
    }

    fn command(cmd: &str, args: &[&str], init: &str) -> Command {
        Command { cmd: cmd.into(), args: args.iter().map(|a| a.to_string()).collect(), init: init.into() }
    }

    /// Each shell that this machine has, and the one that it calls `sh`.
    fn shells() -> Vec<Vec<&'static str>> {
        std::iter::once(vec!["/bin/sh"]).chain(crate::executor::backend::pipe::tests::shells()).collect()
    }

    #[test]
    fn values_arrive_byte_for_byte() {
        let odd = [
            "",
            " ",
            "a b",
            "$(touch /tmp/x)`id`$HOME",
            "\"'\\ \\n \\0101",
            "\n\nx\n\n",
            "ü ñ 漢字",
            "-n",
            "*?[a]",
            "%s%b",
            "\t\r\x01\x7f",
        ];
        for shell in shells() {
            for value in odd {
                let out = run(&shell, &[("V", value)], &command("printf '<%s>' \"$V\"", &[value, "end"], ""));
                let want = format!("<{value}><{value}><end>");
                // The variable is one of the words that `printf` repeats its format for.
                assert_eq!(String::from_utf8_lossy(&out.stdout), want, "{shell:?} {value:?} {out:?}");
            }
        }
    }

    #[test]
    fn the_command_knows_its_place_and_its_status_is_passed_on() {
        for shell in shells() {
            let out =
                run(&shell, &[], &command("echo $POLLINATOR_RANK $POLLINATOR_LOCAL_RANK $POLLINATOR_NODE_RANK; exit 7", &[], ""));
            assert_eq!((out.status.code(), &*String::from_utf8_lossy(&out.stdout)), (Some(7), "3 1 0\n"), "{shell:?}");
        }
    }

    #[test]
    fn init_exports_for_the_command_and_its_failure_ends_it() {
        for shell in shells() {
            let out = run(&shell, &[("A", "1")], &command("echo $B", &[], "export B=$A$A"));
            assert_eq!(String::from_utf8_lossy(&out.stdout), "11\n", "{shell:?} {out:?}");
            let out = run(&shell, &[], &command("echo never", &[], "false"));
            assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0), "{shell:?}");
        }
    }

    #[test]
    fn a_variable_that_a_shell_keeps_for_itself_stops_nothing() {
        for shell in shells() {
            let out = run(&shell, &[("PPID", "1"), ("UID", "1"), ("Z", "z")], &command("echo $Z", &[], ""));
            assert_eq!((out.status.code(), &*String::from_utf8_lossy(&out.stdout)), (Some(0), "z\n"), "{shell:?} {out:?}");
        }
    }

    #[test]
    fn files_are_their_owners_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let payload = write(folder.path(), &BTreeMap::new(), &command("true", &[], "")).unwrap();
        for entry in std::fs::read_dir(payload).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn any_text_survives_the_shell(value in "[^\\x00]{0,40}") {
            let out = run(&["/bin/sh"], &[("V", &value)], &command("printf '%s' \"$V\"", &[], ""));
            prop_assert_eq!(String::from_utf8_lossy(&out.stdout), value.as_str());
        }
    }
}
