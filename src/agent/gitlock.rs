//! Whether git is rewriting a project's files just now: then what it writes is one change, however long it takes.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

/// A lock that is older was left behind by a git that died, or by a person who thinks about a commit message.
const STALE: Duration = Duration::from_secs(600);

/// Whether git holds the lock of the index of the repository that a folder is in. Git takes it for all that writes a working tree.
pub fn is_working(folder: &Path) -> bool {
    let lock = git_folder(folder).map(|git| git.join("index.lock"));
    let made = lock.and_then(|lock| lock.metadata().ok()?.modified().ok());
    made.and_then(|made| made.elapsed().ok()).is_some_and(|age| age < STALE)
}

/// Where git keeps the index: beside the working tree, or where a file there says (a worktree, a submodule).
fn git_folder(folder: &Path) -> Option<PathBuf> {
    let (top, git) = folder.ancestors().map(|top| (top, top.join(".git"))).find(|(_, git)| git.exists())?;
    if git.is_dir() {
        return Some(git);
    }
    let text = std::fs::read_to_string(&git).ok()?;
    Some(top.join(text.strip_prefix("gitdir:")?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn git_works_while_it_holds_its_lock() {
        let home = tempfile::tempdir().unwrap();
        let (project, elsewhere) = (home.path().join("repository/p"), home.path().join("elsewhere"));
        fs::create_dir_all(&project).unwrap();
        assert!(!is_working(&project), "no repository");
        let git = home.path().join("repository/.git");
        fs::create_dir(&git).unwrap();
        assert!(!is_working(&project));
        let lock = fs::File::create(git.join("index.lock")).unwrap();
        assert!(is_working(&project));
        lock.set_modified(std::time::SystemTime::now() - STALE).unwrap();
        assert!(!is_working(&project), "left behind");
        // A worktree.
        fs::create_dir(&elsewhere).unwrap();
        fs::write(project.join(".git"), "gitdir: ../../elsewhere\n").unwrap();
        assert!(!is_working(&project));
        fs::write(elsewhere.join("index.lock"), "").unwrap();
        assert!(is_working(&project));
    }
}
