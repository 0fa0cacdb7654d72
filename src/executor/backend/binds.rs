//! Which folders of the file area a container sees, and where.
//!
//! Below the mount point the same paths as in the file area. A job sees the folder of its project (`PROJECT_DIR`) and the
//! folders that its specification names, not those of other projects; snapshots cannot be written, since later jobs use
//! them, too.

use super::Failure;
use super::Task;
use super::environment;
use crate::executor::place::Inside;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One folder that a container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// On this machine.
    pub host: PathBuf,
    /// In the container.
    pub inside: String,
    /// Whether it cannot be written there.
    pub read_only: bool,
}

/// What of the file area a container sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Sees {
    /// The folder of its project, and others that the specification names.
    #[default]
    Project,
    /// All of it, with the files of all projects.
    Everything,
}

/// The binds of a job, outer folders before those within them; none where it has no files.
pub fn of(task: &Task, sees: Sees) -> Vec<Bind> {
    let job = &task.job;
    if job.mount.is_empty() {
        return Vec::new();
    }
    let mut folders: BTreeMap<Option<Inside>, bool> = BTreeMap::new();
    match (sees, project(task)) {
        (Sees::Everything, _) => _ = folders.insert(None, false),
        (Sees::Project, Some(project)) => _ = folders.insert(Some(project), false),
        (Sees::Project, None) => {}
    }
    for dir in &job.dirs {
        folders.insert(Some(dir.dir.clone()), false);
    }
    for snapshot in &job.snapshots {
        // A folder that is both is one to send back.
        folders.entry(Some(snapshot.dir.clone())).or_insert(true);
    }
    let bind = |(folder, read_only): (&Option<Inside>, &bool)| match folder {
        None => Bind { host: task.fs_dir.clone(), inside: job.mount.clone(), read_only: *read_only },
        Some(folder) => {
            Bind { host: task.fs_dir.join(folder.as_str()), inside: format!("{}/{folder}", job.mount), read_only: *read_only }
        }
    };
    let covered = |folder: &Option<Inside>, read_only: bool| {
        let Some(folder) = folder else { return false };
        let above = |other: &Option<Inside>| match other {
            None => true,
            Some(other) => folder.as_str().strip_prefix(other.as_str()).is_some_and(|rest| rest.starts_with('/')),
        };
        // The innermost of those around it decides.
        folders.iter().rfind(|(other, _)| above(other)).is_some_and(|(_, outer)| *outer == read_only)
    };
    folders.iter().filter(|(folder, read_only)| !covered(folder, **read_only)).map(bind).collect()
}

/// Makes sure that the folders are no links to elsewhere, and lie below none: what a job can write, another may be shown a
/// moment later. An engine resolves the names once more after this; the span between is what it needs to start.
///
/// # Errors
/// Which one is not what it was.
pub fn check(task: &Task, sees: Sees) -> Result<(), Failure> {
    for bind in of(task, sees) {
        let real = bind.host.canonicalize().map_err(Failure::io("cannot look at a folder of the job", &bind.host))?;
        if real != bind.host {
            let reason = format!("{} is a link to elsewhere: it is not shown to a job", bind.inside);
            return Err(Failure::Unsupported { field: "fs".into(), reason });
        }
    }
    Ok(())
}

/// The folder of the job's project, below the file area.
pub fn project(task: &Task) -> Option<Inside> {
    let dir = task.job.env.get(environment::PROJECT_DIR)?;
    let below = dir.strip_prefix(task.job.mount.as_str())?;
    (below.starts_with('/')).then(|| Inside::read(below).ok())?
}

/// Where the command begins in a container: in its project's folder, or where its files are, or at the top.
pub fn work_folder(task: &Task) -> String {
    match (project(task), task.job.mount.as_str()) {
        (_, "") => "/".into(),
        (Some(project), mount) => format!("{mount}/{project}"),
        (None, mount) => mount.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::backend::process::tests::task;
    use crate::executor::spec::DirSync;
    use crate::executor::spec::SnapshotIn;
    use serde_json::json;
    use std::sync::Arc;

    fn with(env: serde_json::Value, snapshots: &[&str], dirs: &[&str]) -> (tempfile::TempDir, Task) {
        let root = tempfile::tempdir().unwrap();
        let mut task = task(root.path(), "true", &[], env);
        let mut job = (*task.job).clone();
        let inside = |d: &&str| Inside::read(d).unwrap();
        job.snapshots = snapshots
            .iter()
            .map(|d| SnapshotIn { id: "s".into(), label: String::new(), dir: inside(d), keep_files: true, keep_snapshot: true })
            .collect();
        job.dirs = dirs
            .iter()
            .map(|d| DirSync {
                label: format!("/{d}"),
                dir: inside(d),
                keep_files: true,
                start_keeps_local: false,
                close_keeps_local: true,
            })
            .collect();
        task.job = Arc::new(job);
        (root, task)
    }

    fn seen(task: &Task, sees: Sees) -> Vec<(String, String, bool)> {
        let fs = task.fs_dir.to_string_lossy().into_owned();
        of(task, sees)
            .into_iter()
            .map(|b| {
                let host = b.host.to_string_lossy().into_owned();
                (host.strip_prefix(&fs).unwrap().to_owned(), b.inside, b.read_only)
            })
            .collect()
    }

    fn row(host: &str, inside: &str, read_only: bool) -> (String, String, bool) {
        (host.into(), inside.into(), read_only)
    }

    #[test]
    fn a_project_sees_its_own_folder_and_cannot_write_its_snapshot() {
        let (_root, task) = with(
            json!({ "PROJECT_DIR": "/cfs/pollinator/p" }),
            &["pollinator/p/s1/src"],
            &["pollinator/p/result", "pollinator/p/data"],
        );
        let want =
            [row("/pollinator/p", "/cfs/pollinator/p", false), row("/pollinator/p/s1/src", "/cfs/pollinator/p/s1/src", true)];
        assert_eq!(seen(&task, Sees::Project), want);
        let want = [row("", "/cfs", false), row("/pollinator/p/s1/src", "/cfs/pollinator/p/s1/src", true)];
        assert_eq!(seen(&task, Sees::Everything), want);
        assert_eq!(work_folder(&task), "/cfs/pollinator/p");
    }

    #[test]
    fn a_specification_of_another_tool_sees_what_it_names() {
        let (_root, task) = with(json!({ "PROJECT_DIR": "/elsewhere" }), &["a/src"], &["a/src/out", "b"]);
        let want = [row("/a/src", "/cfs/a/src", true), row("/a/src/out", "/cfs/a/src/out", false), row("/b", "/cfs/b", false)];
        assert_eq!(seen(&task, Sees::Project), want);
        assert_eq!(work_folder(&task), "/cfs");
    }

    #[test]
    fn a_link_in_the_place_of_a_folder_is_not_shown() {
        let (root, task) = with(json!({ "PROJECT_DIR": "/cfs/p" }), &["p/s1/src"], &[]);
        std::fs::create_dir_all(task.fs_dir.join("p/s1/src")).unwrap();
        check(&task, Sees::Project).unwrap();
        std::fs::rename(task.fs_dir.join("p/s1"), task.fs_dir.join("p/moved")).unwrap();
        std::os::unix::fs::symlink(root.path(), task.fs_dir.join("p/s1")).unwrap();
        std::fs::create_dir_all(root.path().join("src")).unwrap();
        assert!(check(&task, Sees::Project).unwrap_err().to_string().contains("/cfs/p/s1/src is a link to elsewhere"));
    }

    #[test]
    fn without_files_there_is_nothing_to_see() {
        let (_root, mut task) = with(json!({}), &[], &["a"]);
        let mut job = (*task.job).clone();
        job.mount = String::new();
        task.job = Arc::new(job);
        assert_eq!(seen(&task, Sees::Everything), []);
        assert_eq!(work_folder(&task), "/");
    }
}
