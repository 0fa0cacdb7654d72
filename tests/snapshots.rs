//! Snapshots: a run sees exactly the tree that was brought over, whatever others do to the label.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

#[path = "common/sides.rs"]
mod sides;

use pollinator::cfs;
use pollinator::cfs::SyncReport;
use pollinator::colonies::Conditions;
use pollinator::colonies::Filesystem;
use pollinator::colonies::FunctionSpec;
use pollinator::colonies::Process;
use pollinator::colonies::Snapshot;
use pollinator::colonies::SnapshotMount;
use pollinator::event::Event;
use pollinator::event::Events;
use pollinator::event::Tree;
use pollinator::index::RelPath;
use sides::Colony;
use sides::Side;
use sides::content;
use sides::heard;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Now, as runs are dated.
fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap()
}

async fn freeze(side: &Side, report: &SyncReport, earlier: Option<(&str, i64)>) -> Snapshot {
    cfs::snapshot(&side.cfs, &side.label(Tree::Src), report, earlier).await.unwrap()
}

/// What an executor gets of a snapshot.
async fn fetched(side: &Side, snapshot: &Snapshot, folder: &Path) -> BTreeMap<String, String> {
    let tree = side.cfs.snapshot_tree(&snapshot.snapshotid, &snapshot.label).await.unwrap();
    assert!(tree.problems.is_empty(), "{:?}", tree.problems);
    let files: Vec<_> = tree.files.into_values().collect();
    let report = cfs::fetch(&side.cfs, &side.index, &files, folder, Tree::Src, 4, &Events::none()).await.unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    content(folder)
}

async fn submit(side: &Side, snapshot: &Snapshot) -> Process {
    let mount = SnapshotMount {
        snapshotid: snapshot.snapshotid.clone(),
        label: snapshot.label.clone(),
        dir: "/p/src".into(),
        ..SnapshotMount::default()
    };
    let spec = FunctionSpec {
        funcname: "execute".into(),
        maxwaittime: -1,
        maxexectime: -1,
        conditions: Conditions {
            colonyname: side.cfs.client.colony().into(),
            executornames: Some(vec!["nobody".into()]),
            executortype: "container-executor".into(),
            ..Conditions::default()
        },
        fs: Filesystem { mount: "/cfs".into(), snapshots: Some(vec![mount]), dirs: None },
        ..FunctionSpec::default()
    };
    side.cfs.client.submit(&spec).await.unwrap()
}

#[tokio::test]
async fn a_snapshot_holds_the_tree_and_is_brought_whole_once() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    here.write(Tree::Src, "main.py", "print()");
    here.write(Tree::Src, "bin/run.sh", "#!/bin/sh");
    here.chmod(Tree::Src, "bin/run.sh", 0o755);
    here.write(Tree::Src, "empty", "");
    std::fs::create_dir_all(here.path(Tree::Src, "out/here")).unwrap();
    let report = here.sync(Tree::Src).await;
    let snapshot = freeze(&here, &report, None).await;
    assert!(!snapshot.name.contains(':'));
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("not/there/yet");
    assert_eq!(fetched(&here, &snapshot, &folder).await, here.content(Tree::Src));
    let mode = |name: &str| std::fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("bin/run.sh"), mode("main.py")), (0o755, 0o644));
    // Damaged by a job, and not brought again but for that.
    std::fs::write(folder.join("main.py"), "damaged").unwrap();
    let tree = here.cfs.snapshot_tree(&snapshot.snapshotid, "").await.unwrap();
    let files: Vec<_> = tree.files.into_values().collect();
    let (events, all) = heard(|_| {});
    let again = cfs::fetch(&here.cfs, &here.index, &files, &folder, Tree::Src, 4, &events).await.unwrap();
    assert_eq!((again.fetched, again.present), (1, files.len() as u64 - 1));
    assert!(all.lock().unwrap().iter().any(|event| matches!(event, Event::FileDone { path, .. } if path == "main.py")));
    assert_eq!(content(&folder), here.content(Tree::Src));
}

#[tokio::test]
async fn a_tree_of_only_folders_and_an_empty_tree_can_be_frozen() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    let place = tempfile::tempdir().unwrap();
    let report = here.sync(Tree::Src).await;
    let snapshot = freeze(&here, &report, None).await;
    assert_eq!(snapshot.fileids.as_ref().map(Vec::len), Some(1));
    assert!(fetched(&here, &snapshot, &place.path().join("empty")).await.is_empty());
    here.write(Tree::Src, "a/b/c", "c");
    let report = here.sync(Tree::Src).await;
    let snapshot = freeze(&here, &report, None).await;
    // A file and the root's marker, without which the real server would find nothing.
    assert_eq!(snapshot.fileids.as_ref().map(Vec::len), Some(2));
    assert_eq!(fetched(&here, &snapshot, &place.path().join("folders")).await, here.content(Tree::Src));
}

#[tokio::test]
async fn the_snapshot_of_an_unchanged_tree_serves_again_unless_its_files_are_gone() {
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    here.write(Tree::Src, "main.py", "1");
    here.write(Tree::Src, "lib.py", "1");
    let report = here.sync(Tree::Src).await;
    let first = freeze(&here, &report, None).await;
    let made = now();
    let report = here.sync(Tree::Src).await;
    let second = freeze(&here, &report, Some((&first.snapshotid, made))).await;
    assert_eq!(second.snapshotid, first.snapshotid);
    // Somebody else removes a file, and with it breaks the snapshot; we bring the same file again.
    there.cfs.client.remove_file("/pollinator/p/src", "lib.py").await.unwrap();
    let report = here.sync(Tree::Src).await;
    let third = freeze(&here, &report, Some((&first.snapshotid, made))).await;
    assert_ne!(third.snapshotid, first.snapshotid);
    let place = tempfile::tempdir().unwrap();
    assert_eq!(fetched(&here, &third, place.path()).await, here.content(Tree::Src));
    // Also at the next run, when nothing is left to see of it.
    let report = here.sync(Tree::Src).await;
    let fourth = freeze(&here, &report, Some((&first.snapshotid, made))).await;
    assert_ne!(fourth.snapshotid, first.snapshotid);
    // One that was removed altogether.
    here.cfs.client.remove_snapshot(&fourth.snapshotid).await.unwrap();
    let fifth = freeze(&here, &report, Some((&fourth.snapshotid, now()))).await;
    assert_ne!(fifth.snapshotid, fourth.snapshotid);
}

#[tokio::test]
async fn files_of_others_in_the_label_are_not_in_the_run() {
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    there.write(Tree::Src, "theirs.py", "theirs");
    there.sync(Tree::Src).await;
    here.write(Tree::Src, "main.py", "mine");
    here.write(Tree::Src, "sub/run.sh", "#!/bin/sh");
    here.chmod(Tree::Src, "sub/run.sh", 0o755);
    let report = here.sync(Tree::Src).await;
    assert_eq!(report.plan.foreign.len(), 1);
    let snapshot = freeze(&here, &report, None).await;
    let own = format!("/pollinator/p/runs/{}-", &report.tree_digest[..16]);
    assert!(snapshot.label.starts_with(&own) && snapshot.label.ends_with("/src"), "{}", snapshot.label);
    let place = tempfile::tempdir().unwrap();
    assert_eq!(fetched(&here, &snapshot, place.path()).await, here.content(Tree::Src));
    let mode = std::fs::metadata(place.path().join("sub/run.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    // No two rows share an object, and a second run copies nothing.
    let objects = here.cfs.store.list("pollinator/p/").await.unwrap().len();
    let own = here.cfs.list(&snapshot.label).await.unwrap();
    let all = own.files.values().chain(report.files.values()).filter(|f| f.size > 0).map(|f| &f.object);
    assert_eq!((all.clone().count(), all.collect::<BTreeSet<_>>().len()), (4, 4));
    freeze(&here, &report, None).await;
    assert_eq!(here.cfs.store.list("pollinator/p/").await.unwrap().len(), objects);
}

#[tokio::test]
async fn a_file_that_another_machine_replaces_in_between_is_not_in_the_run() {
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    here.write(Tree::Src, "main.py", "mine");
    let report = here.sync(Tree::Src).await;
    there.write(Tree::Src, "main.py", "theirs");
    there.sync(Tree::Src).await;
    let snapshot = freeze(&here, &report, None).await;
    let place = tempfile::tempdir().unwrap();
    assert_eq!(fetched(&here, &snapshot, place.path()).await["main.py"], "mine");
    assert_eq!(there.remote(Tree::Src).await.files.len(), 1);
}

#[tokio::test]
async fn what_a_waiting_process_needs_is_removed_when_it_has_ended() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    here.write(Tree::Src, "main.py", "1");
    here.write(Tree::Src, "old.py", "1");
    let report = here.sync(Tree::Src).await;
    let snapshot = freeze(&here, &report, None).await;
    let process = submit(&here, &snapshot).await;
    here.remove(Tree::Src, "old.py");
    for _ in 0..2 {
        let report = here.sync(Tree::Src).await;
        assert_eq!(report.held, [RelPath::parse("old.py").unwrap()]);
        assert_eq!(report.files.keys().map(RelPath::as_str).collect::<Vec<_>>(), ["main.py"]);
        // The run that is started now does not see it.
        let new = freeze(&here, &report, None).await;
        let place = tempfile::tempdir().unwrap();
        assert_eq!(fetched(&here, &new, place.path()).await, here.content(Tree::Src));
    }
    let waiting = here.cfs.snapshot_tree(&snapshot.snapshotid, &snapshot.label).await.unwrap();
    assert!(waiting.problems.is_empty() && waiting.files.len() == 2);
    here.cfs.client.cancel(&process.processid).await.unwrap();
    let report = here.sync(Tree::Src).await;
    assert!(report.held.is_empty());
    assert_eq!(here.remote_names(Tree::Src).await, ["main.py"]);
}

#[tokio::test]
async fn a_snapshot_that_lists_removed_files_says_so() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    here.write(Tree::Src, "main.py", "1");
    here.write(Tree::Src, "gone.py", "1");
    let report = here.sync(Tree::Src).await;
    let snapshot = freeze(&here, &report, None).await;
    here.cfs.client.remove_file("/pollinator/p/src", "gone.py").await.unwrap();
    let tree = here.cfs.snapshot_tree(&snapshot.snapshotid, "").await.unwrap();
    assert_eq!(tree.files.keys().map(RelPath::as_str).collect::<Vec<_>>(), ["main.py"]);
    assert!(tree.problems.len() == 1 && tree.problems[0].1.contains("was removed"), "{:?}", tree.problems);
}
