//! A repository as git tells of it. Git is asked instead of imitated: it alone knows about linked work trees, submodules and
//! `core.hooksPath` in all its spellings.

use super::Error;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

/// A work tree and where its hooks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// Top of the work tree.
    pub top: PathBuf,
    /// The git folder that all its work trees share.
    pub common: PathBuf,
    /// Where git looks for hooks.
    pub hooks: PathBuf,
}

/// Whom a folder of hooks serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// This repository; git keeps it to itself.
    Repository,
    /// This repository; git carries it to others like any file.
    Tracked,
    /// Any repository whose `core.hooksPath` names it.
    Shared,
}

impl Repository {
    /// The one that a folder lies in.
    pub fn of(folder: &Path) -> Result<Repository, Error> {
        let path = |arguments: &[&str], base: &Path| -> Result<PathBuf, Error> { Ok(base.join(said(base, arguments)?)) };
        let canonical = |path: PathBuf| path.canonicalize().unwrap_or(path);
        let top = canonical(path(&["rev-parse", "--show-toplevel"], folder)?);
        // From the top: a relative `core.hooksPath` counts from there.
        let common = canonical(path(&["rev-parse", "--git-common-dir"], &top)?);
        let hooks = path(&["rev-parse", "--git-path", "hooks"], &top)?;
        Ok(Repository { common, hooks: canonical(hooks), top })
    }

    /// Where git looks for hooks unless `core.hooksPath` says otherwise.
    pub fn usual_hooks(&self) -> PathBuf {
        self.common.join("hooks")
    }

    /// Whom the hooks serve.
    pub fn reach(&self) -> Reach {
        if self.hooks.starts_with(&self.common) {
            Reach::Repository
        } else if self.hooks.starts_with(&self.top) {
            Reach::Tracked
        } else {
            Reach::Shared
        }
    }

    /// A folder from the top of the work tree, as a hook names it: `.`, `./a/b`.
    pub fn below_top(&self, folder: &Path) -> Result<String, Error> {
        let outside = || Error::Outside { folder: folder.to_owned(), top: self.top.clone() };
        let folder = folder.canonicalize().map_err(|_| outside())?;
        let below = folder.strip_prefix(&self.top).map_err(|_| outside())?;
        let below = as_text(below)?;
        Ok(if below.is_empty() { ".".into() } else { format!("./{below}") })
    }
}

/// A path as a script can name it.
pub fn as_text(path: &Path) -> Result<&str, Error> {
    path.to_str().filter(|text| !text.contains(char::is_control)).ok_or_else(|| Error::OddPath(path.to_owned()))
}

/// What is checked out in a folder, as git names commits.
pub fn head(folder: &Path) -> Result<String, Error> {
    Ok(said_of(folder, &["rev-parse", "--verify", "HEAD^{commit}"])?.to_string_lossy().into_owned())
}

/// The git folder of a work tree.
pub fn git_dir(folder: &Path) -> Result<PathBuf, Error> {
    Ok(said_of(folder, &["rev-parse", "--absolute-git-dir"])?.into())
}

/// The newest of these commits: none is older than one that it descends from, whatever their clocks said.
pub fn newest(folder: &Path, commits: &[&str]) -> Result<String, Error> {
    let arguments = [&["rev-list", "--date-order", "--max-count=1"], commits].concat();
    Ok(said_of(folder, &arguments)?.to_string_lossy().into_owned())
}

/// Takes away the variables that git sets for hooks: they would make any git that is started below work on the repository of
/// the hook, with its index, wherever it is started.
pub fn leave(command: &mut Command) {
    // A git that cannot be started has set nothing.
    let Ok(names) = said(Path::new("."), &["rev-parse", "--local-env-vars"]) else { return };
    for name in names.to_string_lossy().lines() {
        command.env_remove(name);
    }
}

/// What git says, where a folder is meant and not the repository of the hook that asks.
fn said_of(folder: &Path, arguments: &[&str]) -> Result<OsString, Error> {
    let mut git = Command::new("git");
    leave(&mut git);
    ask(git, folder, arguments)
}

/// What git says, in the repository that a person means.
fn said(folder: &Path, arguments: &[&str]) -> Result<OsString, Error> {
    ask(Command::new("git"), folder, arguments)
}

/// What git says, without the end of its last line.
fn ask(mut git: Command, folder: &Path, arguments: &[&str]) -> Result<OsString, Error> {
    git.arg("-C").arg(folder).args(arguments).stdin(Stdio::null());
    let output = git.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoGit(io::Error::new(error.kind(), "there is none in PATH")),
        _ => Error::NoGit(error),
    })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let first = words.lines().next().unwrap_or_default().trim_start_matches("fatal: ").to_owned();
        return Err(Error::NoRepository { folder: folder.to_owned(), reason: first });
    }
    let bytes = output.stdout.strip_suffix(b"\n").unwrap_or(&output.stdout);
    Ok(OsStr::from_bytes(bytes).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_a_folder_of_hooks_serves() {
        let at = |hooks: &str| Repository { top: "/r/w".into(), common: "/r/w/.git".into(), hooks: hooks.into() }.reach();
        assert_eq!(at("/r/w/.git/hooks"), Reach::Repository);
        assert_eq!(at("/r/w/.husky"), Reach::Tracked);
        assert_eq!(at("/home/me/.githooks"), Reach::Shared);
        assert_eq!(at("/r/w.git/hooks"), Reach::Shared);
    }

    #[test]
    fn a_path_that_no_script_can_name_is_refused() {
        assert_eq!(as_text(Path::new("/a b/é")).unwrap(), "/a b/é");
        for odd in [&b"/a\nb"[..], b"/a\xff"] {
            assert!(matches!(as_text(Path::new(OsStr::from_bytes(odd))), Err(Error::OddPath(_))));
        }
    }
}
