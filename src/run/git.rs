//! Asking git, without disturbing what a person does with the same repository.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How long git may take to answer a question. Checking files out may take as long as it needs.
const ANSWER: Duration = Duration::from_secs(20);
/// What git tells its hooks about the repository they run for: a command in a hook is to find its own.
const OF_HOOKS: [&str; 9] = [
    "GIT_DIR",
    "GIT_COMMON_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_LITERAL_PATHSPECS",
];
/// Settings of the user that would have git write, or start programs, beside what it is asked for.
const PLAIN: [&str; 5] = [
    "core.fsmonitor=false",
    "core.splitIndex=false",
    "core.sparseCheckout=false",
    "index.sparse=false",
    "core.hooksPath=/dev/null",
];

/// Why git gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It cannot be started.
    #[error("git cannot be started: {0}")]
    NotStarted(std::io::Error),
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// It did not answer in time.
    #[error("git did not answer within {} s", ANSWER.as_secs())]
    Hung,
}

/// Git, as it is asked in one folder.
#[derive(Clone, Debug)]
pub(super) struct Git {
    folder: PathBuf,
    settings: &'static [&'static str],
    variables: Vec<(&'static str, OsString)>,
    limit: Option<Duration>,
}

impl Git {
    /// About the repository that this folder is in.
    pub(super) fn at(folder: &Path) -> Git {
        Git { folder: folder.to_owned(), settings: &[], variables: Vec::new(), limit: Some(ANSWER) }
    }

    /// About the files in `tree`, which is a working tree of the repository at `git_dir` for the time being, with an index of its
    /// own: neither the user's index nor the user's files are touched.
    pub(super) fn apart(git_dir: &Path, tree: &Path, index: &Path) -> Git {
        let variables = [("GIT_DIR", git_dir), ("GIT_WORK_TREE", tree), ("GIT_INDEX_FILE", index)];
        let variables = variables.map(|(name, path)| (name, path.as_os_str().to_owned())).into();
        Git { folder: tree.to_owned(), settings: &PLAIN, variables, limit: None }
    }

    /// What it answers.
    pub(super) async fn ask<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Vec<u8>, Failure> {
        self.tell(arguments, Vec::new()).await
    }

    /// One line that it answers, without its end.
    pub(super) async fn line<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String, Failure> {
        let text = String::from_utf8(self.ask(arguments).await?);
        let text = text.map_err(|_| Failure::Refused("a path in git's answer is not UTF-8".into()))?;
        Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }

    /// What it answers to `input`.
    pub(super) async fn tell<S: AsRef<OsStr>>(&self, arguments: &[S], input: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let mut child = self.command(arguments).spawn().map_err(Failure::NotStarted)?;
        let stdin = child.stdin.take();
        let talk = async {
            let write = async {
                // Where git ends before it has read all, what it says tells why.
                if let Some(mut stdin) = stdin {
                    let _ = stdin.write_all(&input).await;
                }
            };
            tokio::join!(write, child.wait_with_output()).1
        };
        let output = match self.limit {
            Some(limit) => tokio::time::timeout(limit, talk).await.map_err(|_| Failure::Hung)?,
            None => talk.await,
        };
        let output = output.map_err(Failure::NotStarted)?;
        if output.status.success() { Ok(output.stdout) } else { Err(Failure::Refused(said(&output.stderr))) }
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new("git");
        for name in OF_HOOKS {
            command.env_remove(name);
        }
        command
            .arg("-C")
            .arg(&self.folder)
            .args(self.settings.iter().flat_map(|setting| ["-c", setting]))
            .args(arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// Git's words, without the marks before them.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.trim_start_matches("fatal: ").trim_start_matches("error: ").trim())
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() { "git said nothing about it".into() } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::said;

    #[test]
    fn what_git_says_is_one_line() {
        assert_eq!(said(b"fatal: Needed a single revision\n"), "Needed a single revision");
        assert_eq!(said(b"error: a\n\nfatal: b\n"), "a; b");
        assert_eq!(said(b""), "git said nothing about it");
    }
}
