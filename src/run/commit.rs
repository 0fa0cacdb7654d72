//! A project as it is in a git commit: resolved, its settings read, its src tree laid out in a folder of our own.
//!
//! The files are those of a clean checkout: git writes them, with the filters, line ends, executable bits and links that it
//! would write into a working tree, but with an index of its own, so that neither the user's index nor the user's files are
//! touched and no hook is run. What `.cfsignore` leaves out is left out here, too, by the files of that name in the commit.
//!
//! Not handled, and refused by name: submodules below `cfs/src`, and files whose content is in Git LFS while git cannot fetch it.
//! `export-ignore` does not count: it is about archives, and a checkout has those files.

use super::Error;
use super::git::Failure;
use super::git::Git;
use crate::cfs;
use crate::index::ignore::FILE_NAME as IGNORE_FILE;
use crate::index::ignore::Rules;
use crate::project;
use crate::project::FILE_NAME;
use crate::project::ProjectFile;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

/// The tree of a project that is run.
const SRC: &str = "cfs/src";
/// How the content of a file begins that stands for one in Git LFS.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";
/// Most bytes that such a file has.
const LARGEST_POINTER: u64 = 1024;
/// Mode of a submodule in git's trees.
const SUBMODULE: &[u8] = b"160000";

/// A commit, and where in it the project lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its full id.
    pub id: String,
    /// The project's folder.
    folder: PathBuf,
    git_dir: PathBuf,
    /// Way from the top of the repository to the project's folder; empty, or with a slash at its end.
    prefix: String,
}

/// A commit's src tree, laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// What stands for the project's folder: ignore rules count from here down.
    pub project: PathBuf,
    /// The src tree.
    pub src: PathBuf,
}

/// What a revision means in the repository that a project's folder is in.
///
/// # Errors
/// [`Error::NoRepository`], and [`Error::UnknownRevision`] where it means no commit there.
pub async fn resolve(folder: &Path, revision: &str) -> Result<Commit, Error> {
    let git = Git::at(folder);
    let outside = |failure: Failure| Error::NoRepository { folder: folder.to_owned(), reason: failure.to_string() };
    let git_dir = git.line(&["rev-parse", "--absolute-git-dir"]).await.map_err(outside)?;
    let prefix = git.line(&["rev-parse", "--show-prefix"]).await.map_err(outside)?;
    let unknown = |reason: String| Error::UnknownRevision { revision: revision.to_owned(), reason };
    if revision.is_empty() || revision.starts_with('-') {
        return Err(unknown("it is no name of a revision".into()));
    }
    // In two steps, since `:/words` would take whatever follows for words.
    let id = git.line(&["rev-parse", "--verify", revision]).await.map_err(|e| unknown(e.to_string()))?;
    let id = git.line(&["rev-parse", "--verify", &format!("{id}^{{commit}}")]).await.map_err(|e| unknown(e.to_string()))?;
    Ok(Commit { id, folder: folder.to_owned(), git_dir: git_dir.into(), prefix })
}

impl Commit {
    /// The beginning of its id, for people.
    pub fn short(&self) -> &str {
        &self.id[..self.id.len().min(12)]
    }

    /// What `project.yaml` says in it, with what a person should know about that; none where it is not tracked.
    pub async fn settings(&self) -> Result<Option<(ProjectFile, Vec<String>)>, Error> {
        let git = Git::at(&self.folder);
        let path = format!("{}{FILE_NAME}", self.prefix);
        let failed = |failure| self.failed(failure);
        let listed = git.ask(&["ls-tree", "--full-tree", "-z", &self.id, "--", &path]).await.map_err(failed)?;
        if listed.is_empty() {
            return Ok(None);
        }
        if !listed.starts_with(b"100") {
            return Err(Error::NotInCommit { commit: self.id.clone(), what: format!("{path} is no file") });
        }
        let bytes = git.ask(&["cat-file", "blob", &format!("{}:{path}", self.id)]).await.map_err(failed)?;
        let name = format!("{FILE_NAME} in commit {}", self.short());
        Ok(Some(project::parse(&bytes, Path::new(&name))?))
    }

    /// Lays the src tree out in `to`, a folder that is there and holds nothing. What fails half-way leaves what it made in it:
    /// the folder is one that goes with its owner.
    pub async fn extract(&self, to: &Path) -> Result<Extracted, Error> {
        let local = |source| Error::Local { what: format!("cannot lay commit {} out in {}", self.short(), to.display()), source };
        let to = to.canonicalize().map_err(local)?;
        let (tree, index) = (to.join("tree"), to.join("index"));
        std::fs::create_dir(&tree).map_err(local)?;
        let git = Git::apart(&self.git_dir, &tree, &index);
        let failed = |failure| self.failed(failure);
        git.ask(&["read-tree", &self.id]).await.map_err(failed)?;
        let wanted = [SRC, IGNORE_FILE, &format!("cfs/{IGNORE_FILE}")].map(|path| format!("{}{path}", self.prefix));
        let mut listing = vec!["--literal-pathspecs", "ls-files", "--stage", "--full-name", "-z", "--"];
        listing.extend(wanted.iter().map(String::as_str));
        let listed = git.ask(&listing).await.map_err(failed)?;
        let (submodules, files): (Vec<Tracked<'_>>, Vec<Tracked<'_>>) = tracked(&listed).partition(|file| file.mode == SUBMODULE);
        let src = format!("{}/", wanted[0]);
        if !files.iter().chain(&submodules).any(|file| file.path.starts_with(src.as_bytes())) {
            let what = format!("there is no folder {}", wanted[0]);
            return Err(Error::NotInCommit { commit: self.id.clone(), what });
        }
        let paths: Vec<u8> = files.iter().flat_map(|file| [file.path, &b"\0"[..]].concat()).collect();
        git.tell(&["checkout-index", "--force", "-z", "--stdin"], paths).await.map_err(failed)?;
        let extracted = Extracted { project: tree.join(&self.prefix), src: tree.join(&wanted[0]) };
        let mut lacking = self.not_checked_out(&tree, &files);
        lacking.extend(left_out_submodules(&tree, &extracted, &submodules)?);
        lacking.extend(self.pointers(&git, &tree, &files).await?);
        match lacking.is_empty() {
            true => Ok(extracted),
            false => Err(Error::NotWhole { commit: self.id.clone(), problems: lacking }),
        }
    }

    /// Earlier versions of git do not tell by their exit code that a file could not be written.
    fn not_checked_out(&self, tree: &Path, files: &[Tracked<'_>]) -> Vec<(String, String)> {
        let missing = files.iter().filter(|file| file.under(tree).symlink_metadata().is_err());
        missing.map(|file| (file.shown(), "git did not write it".into())).collect()
    }

    /// Files that stand for others in Git LFS, by the commit's attributes.
    async fn pointers(&self, git: &Git, tree: &Path, files: &[Tracked<'_>]) -> Result<Vec<(String, String)>, Error> {
        let candidates: Vec<u8> =
            files.iter().filter(|file| is_pointer(&file.under(tree))).flat_map(|file| [file.path, &b"\0"[..]].concat()).collect();
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let answer = git.tell(&["check-attr", "--cached", "--stdin", "-z", "filter"], candidates).await;
        let answer = answer.map_err(|failure| self.failed(failure))?;
        let fields: Vec<&[u8]> = answer.split(|byte| *byte == 0).collect();
        let in_lfs = fields.chunks_exact(3).filter(|field| field[2] == b"lfs");
        let why = "its content is in Git LFS, and git did not fetch it";
        Ok(in_lfs.map(|field| (String::from_utf8_lossy(field[0]).into_owned(), why.to_owned())).collect())
    }

    fn failed(&self, failure: Failure) -> Error {
        Error::Git { commit: self.id.clone(), reason: failure.to_string() }
    }
}

/// A file of git's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tracked<'a> {
    mode: &'a [u8],
    path: &'a [u8],
}

impl Tracked<'_> {
    fn under(&self, tree: &Path) -> PathBuf {
        tree.join(OsStr::from_bytes(self.path))
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(self.path).into_owned()
    }
}

/// Reads what `git ls-files --stage -z` says: `<mode> <object> <stage>\t<path>`.
fn tracked(listed: &[u8]) -> impl Iterator<Item = Tracked<'_>> {
    listed.split(|byte| *byte == 0).filter_map(|entry| {
        let tab = entry.iter().position(|byte| *byte == b'\t')?;
        let mode = entry.split(|byte| *byte == b' ').next()?;
        Some(Tracked { mode, path: &entry[tab + 1..] })
    })
}

/// Submodules that no rule leaves out.
fn left_out_submodules(tree: &Path, extracted: &Extracted, submodules: &[Tracked<'_>]) -> Result<Vec<(String, String)>, Error> {
    let mut lacking = Vec::new();
    let mut rules = Rules::new(&extracted.src, Some(&extracted.project)).map_err(cfs::Error::from)?;
    for submodule in submodules {
        let verdict = rules.explain_as(&submodule.under(tree), true).map_err(cfs::Error::from)?;
        if !verdict.ignored {
            lacking.push((submodule.shown(), "is a submodule, and its files are not part of the commit".into()));
        }
    }
    Ok(lacking)
}

fn is_pointer(path: &Path) -> bool {
    let may_be = path.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() <= LARGEST_POINTER);
    may_be && std::fs::read(path).is_ok_and(|content| content.starts_with(POINTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gits_listing_is_read_with_any_name() {
        let listed = b"100755 abc 0\ta b\tc\xff\n.sh\x00160000 def 0\tsub\x00";
        let all: Vec<Tracked<'_>> = tracked(listed).collect();
        assert_eq!(all.iter().map(|file| file.path).collect::<Vec<_>>(), [&b"a b\tc\xff\n.sh"[..], b"sub"]);
        assert_eq!(all.iter().map(|file| file.mode).collect::<Vec<_>>(), [&b"100755"[..], SUBMODULE]);
        assert!(tracked(b"").next().is_none());
    }

    #[test]
    fn a_pointer_is_told_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text, expected) in [
            ("pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n".to_owned(), true),
            ("text", "version 1\n".to_owned(), false),
            ("large", format!("version https://git-lfs.github.com/spec/v1\n{}", "x".repeat(2000)), false),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
            assert_eq!(is_pointer(&folder.path().join(name)), expected, "{name}");
        }
        assert!(!is_pointer(folder.path()) && !is_pointer(&folder.path().join("none")));
    }
}
