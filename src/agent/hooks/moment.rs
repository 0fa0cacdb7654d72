//! Whether git is in the middle of something. A rebase of twenty commits calls the hook twenty times, and only the last of the
//! commits is one that somebody meant.

use std::path::Path;

/// Commands of a rebase that make a commit.
const COMMITS: [&str; 12] = ["pick", "p", "reword", "r", "edit", "e", "squash", "s", "fixup", "f", "merge", "m"];

/// Whether further commits follow without anybody's doing: in a rebase or a series of picked commits, except at its last, and
/// while a merge is open or patches are applied. `git_dir` is that of the work tree.
pub fn more_commits_follow(git_dir: &Path) -> bool {
    let text = |name: &str| std::fs::read_to_string(git_dir.join(name)).ok();
    if git_dir.join("rebase-apply").exists() || git_dir.join("MERGE_HEAD").exists() {
        return true;
    }
    // The list of a rebase is without the commit that was just made; that of `cherry-pick` and `revert` is with it.
    let rebase = text("rebase-merge/git-rebase-todo").map_or(0, |todo| commits_in(&todo));
    let series = text("sequencer/todo").map_or(0, |todo| todo.lines().filter(|line| is_command(line)).count());
    rebase > 0 || series > 1
}

fn commits_in(todo: &str) -> usize {
    todo.lines().filter(|line| line.split_whitespace().next().is_some_and(|word| COMMITS.contains(&word))).count()
}

fn is_command(line: &str) -> bool {
    !line.trim().is_empty() && !line.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn at(files: &[(&str, &str)]) -> bool {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        more_commits_follow(folder.path())
    }

    #[test]
    fn the_last_commit_of_a_rebase_counts_and_those_before_do_not() {
        assert!(!at(&[]));
        assert!(at(&[("rebase-merge/git-rebase-todo", "pick abc last # one\n\n# Rebase a..b onto c\n")]));
        assert!(at(&[("rebase-merge/git-rebase-todo", "exec make\nf abc\n")]));
        assert!(!at(&[("rebase-merge/git-rebase-todo", "exec make\nupdate-ref refs/heads/x\n# pick abc\n")]));
        assert!(!at(&[("rebase-merge/git-rebase-todo", "")]));
        assert!(at(&[("sequencer/todo", "pick abc one\npick def two\n")]));
        assert!(!at(&[("sequencer/todo", "pick def two\n")]));
        assert!(at(&[("rebase-apply/next", "1\n")]));
        assert!(at(&[("MERGE_HEAD", "abc\n")]));
    }
}
