//! Trees and the colony: what goes over, what comes back, what is removed, and what must never be lost.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

#[path = "common/sides.rs"]
mod sides;

use pollinator::cfs::Error;
use pollinator::cfs::Policy;
use pollinator::cfs::SyncOptions;
use pollinator::event::Direction;
use pollinator::event::Event;
use pollinator::event::Events;
use pollinator::event::Tree;
use pollinator::index::RelPath;
use sides::Colony;
use sides::heard;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

fn path(text: &str) -> RelPath {
    RelPath::parse(text).unwrap()
}

/// Contents as [`sides::content`] gives them.
fn contents(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[tokio::test]
async fn names_of_all_kinds_empty_files_and_empty_folders_go_over_and_come_back() {
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    let names =
        ["plain", "with space", "ünï cödé", "100%_x", "a/b_c/%d", "-rf", ".hidden", "back\\slash", "new\nline", "'\"$(x)`"];
    for name in names {
        here.write(Tree::Data, name, name);
    }
    here.write(Tree::Data, "empty file", "");
    std::fs::create_dir_all(here.path(Tree::Data, "empty folder/below")).unwrap();
    let sent = here.sync(Tree::Data).await;
    assert_eq!(sent.uploaded.0, names.len() as u64 + 2);
    let fetched = there.sync(Tree::Data).await;
    assert_eq!((fetched.uploaded.0, fetched.downloaded.0), (0, sent.uploaded.0));
    assert_eq!(there.content(Tree::Data), here.content(Tree::Data));
    assert!(there.path(Tree::Data, "empty folder/below").is_dir());
    for side in [&here, &there] {
        let again = side.sync(Tree::Data).await;
        assert!(again.plan.is_empty(), "{:?}", again.plan);
    }
}

#[tokio::test]
async fn rows_carry_no_keys_and_name_the_server_as_other_clients_do() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    here.write(Tree::Src, "sub/main.py", "print()");
    here.sync(Tree::Src).await;
    let row = here.cfs.client.latest_file("/pollinator/p/src/sub", "main.py").await.unwrap().unwrap();
    let object = &row.reference.s3object;
    assert_eq!((row.checksumalg.as_str(), row.reference.protocol.as_str()), ("SHA256", "s3"));
    assert_eq!(format!("{}:{}", object.server, object.port), colony.store.endpoint);
    assert!(object.accesskey.is_empty() && object.secretkey.is_empty());
    let random = object.object.strip_prefix("pollinator/p/").unwrap();
    assert!(random.len() == 32 && random.bytes().all(|b| b.is_ascii_hexdigit()), "{random}");
}

#[tokio::test]
async fn a_tree_of_only_folders_has_something_in_its_root_for_the_server_to_find() {
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    here.write(Tree::Data, "a/b/file", "x");
    here.sync(Tree::Data).await;
    assert_eq!(here.remote_names(Tree::Data).await, [".pollinator-folder", "a/b/file"]);
    there.sync(Tree::Data).await;
    assert_eq!(there.content(Tree::Data), contents(&[("a/", ""), ("a/b/", ""), ("a/b/file", "x")]));
}

#[tokio::test]
async fn the_executable_bit_goes_over_and_comes_back_and_a_change_of_it_is_a_change() {
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    here.write(Tree::Data, "run.sh", "#!/bin/sh");
    here.chmod(Tree::Data, "run.sh", 0o755);
    here.write(Tree::Data, "secret", "s");
    here.chmod(Tree::Data, "secret", 0o640);
    here.sync(Tree::Data).await;
    there.sync(Tree::Data).await;
    assert_eq!((there.mode(Tree::Data, "run.sh"), there.mode(Tree::Data, "secret")), (0o755, 0o640));
    let before = here.sync(Tree::Data).await.tree_digest;
    here.chmod(Tree::Data, "run.sh", 0o644);
    let changed = here.sync(Tree::Data).await;
    assert_eq!(changed.uploaded.0, 1);
    assert_ne!(changed.tree_digest, before);
    assert!(here.sync(Tree::Data).await.plan.is_empty());
}

#[tokio::test]
async fn a_file_stored_by_another_client_gets_its_executable_bit() {
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    here.write(Tree::Src, "run.sh", "#!/bin/sh");
    here.sync(Tree::Src).await;
    // The other machine has the same bytes and knows nothing of what was stored with them.
    there.write(Tree::Src, "run.sh", "#!/bin/sh");
    there.chmod(Tree::Src, "run.sh", 0o755);
    assert_eq!(there.sync(Tree::Src).await.uploaded.0, 1);
    assert!(there.sync(Tree::Src).await.plan.is_empty());
    let object = there.remote(Tree::Src).await.files[&path("run.sh")].object.clone();
    let stored = there.cfs.store.head(&object).await.unwrap().unwrap();
    assert_eq!(stored.metadata["pollinator-mode"], "755");
}

#[tokio::test]
async fn deletions_go_over_and_come_over_and_nothing_comes_back() {
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    for name in ["kept", "gone here", "sub/gone there"] {
        here.write(Tree::Data, name, name);
    }
    here.sync(Tree::Data).await;
    there.sync(Tree::Data).await;
    here.remove(Tree::Data, "gone here");
    assert_eq!(here.sync(Tree::Data).await.downloaded.0, 0);
    assert!(!here.path(Tree::Data, "gone here").exists());
    there.sync(Tree::Data).await;
    assert!(!there.path(Tree::Data, "gone here").exists());
    // What this machine wrote is not deleted because somebody else deleted it: it goes over again.
    there.remove(Tree::Data, "sub/gone there");
    there.sync(Tree::Data).await;
    assert_eq!(here.remote_names(Tree::Data).await, ["kept", "sub/.pollinator-folder"]);
    assert!(here.sync(Tree::Data).await.uploaded.0 > 0);
    assert!(here.path(Tree::Data, "sub/gone there").exists());
}

#[tokio::test]
async fn edits_on_both_sides_are_joined_by_what_was_there_before() {
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    for name in ["mine", "theirs", "both", "edited and deleted"] {
        here.write(Tree::Data, name, "1");
    }
    here.sync(Tree::Data).await;
    there.sync(Tree::Data).await;
    there.write(Tree::Data, "theirs", "2 there");
    there.write(Tree::Data, "both", "2 there");
    there.write(Tree::Data, "edited and deleted", "2 there");
    there.write(Tree::Data, "new there", "there");
    there.sync(Tree::Data).await;
    here.write(Tree::Data, "mine", "2 here");
    here.write(Tree::Data, "both", "2 here");
    here.write(Tree::Data, "new here", "here");
    here.remove(Tree::Data, "edited and deleted");
    here.sync(Tree::Data).await;
    let joined = contents(&[
        ("mine", "2 here"),
        ("theirs", "2 there"),
        ("both", "2 here"),
        ("edited and deleted", "2 there"),
        ("new here", "here"),
        ("new there", "there"),
    ]);
    assert_eq!(here.content(Tree::Data), joined);
    there.sync(Tree::Data).await;
    assert_eq!(there.content(Tree::Data), joined);
    // The revision that lost is still in the colony.
    let revisions = here.cfs.client.file_revisions("/pollinator/p/data", "both").await.unwrap();
    assert_eq!(revisions.len(), 3);
}

#[tokio::test]
async fn src_is_a_mirror_of_this_machine() {
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    here.write(Tree::Src, "main.py", "1");
    here.write(Tree::Src, "old.py", "1");
    here.sync(Tree::Src).await;
    there.write(Tree::Src, "main.py", "2");
    let report = there.sync(Tree::Src).await;
    assert_eq!((report.uploaded.0, report.downloaded.0, report.plan.foreign.len()), (1, 0, 1));
    assert_eq!(report.files.keys().map(RelPath::as_str).collect::<Vec<_>>(), ["main.py"]);
    assert_eq!(there.content(Tree::Src), contents(&[("main.py", "2")]));
    assert_eq!(there.remote_names(Tree::Src).await, ["main.py", "old.py"]);
}

#[tokio::test]
async fn an_edited_result_is_kept_beside_the_one_that_comes() {
    let colony = Colony::start().await;
    let (here, executor) = (colony.side("here"), colony.side("executor"));
    executor.write(Tree::Result, "out/r", "1");
    executor.write(Tree::Result, "untouched", "1");
    executor.sync_policy(Tree::Result, Policy::SendOnly { keep_local: true }).await;
    here.sync(Tree::Result).await;
    here.write(Tree::Result, "out/r", "my notes");
    executor.write(Tree::Result, "out/r", "2");
    executor.write(Tree::Result, "untouched", "2");
    executor.sync_policy(Tree::Result, Policy::SendOnly { keep_local: true }).await;
    let (events, all) = heard(|_| {});
    here.sync_as(&here.options(Tree::Result), &events).await.unwrap();
    let content = here.content(Tree::Result);
    assert_eq!((content["out/r"].as_str(), content["untouched"].as_str(), content.len()), ("2", "2", 4));
    let kept = content.keys().find(|name| name.starts_with("out/r.local-20") && name.ends_with('Z')).unwrap();
    assert_eq!(content[kept], "my notes");
    assert!(all.lock().unwrap().contains(&Event::FileKept { tree: Tree::Result, path: "out/r".into(), kept_as: kept.clone() }));
}

#[tokio::test]
async fn an_executor_does_not_send_back_what_somebody_replaced_meanwhile() {
    let colony = Colony::start().await;
    let (first, second) = (colony.side("first"), colony.side("second"));
    first.write(Tree::Result, "shared", "old");
    first.sync_policy(Tree::Result, Policy::SendOnly { keep_local: true }).await;
    second.sync_policy(Tree::Result, Policy::FetchOnly { keep_local: false }).await;
    first.write(Tree::Result, "shared", "new");
    first.sync_policy(Tree::Result, Policy::SendOnly { keep_local: true }).await;
    second.write(Tree::Result, "own", "x");
    second.sync_policy(Tree::Result, Policy::SendOnly { keep_local: true }).await;
    let stored = first.verified(Tree::Result).await;
    assert_eq!((stored["shared"].as_slice(), stored["own"].as_slice()), (&b"new"[..], &b"x"[..]));
}

#[tokio::test]
async fn a_missing_emptied_or_half_deleted_tree_is_an_error_and_no_deletion() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    for n in 0..120 {
        here.write(Tree::Src, &format!("f{n}"), n.to_string());
    }
    here.sync(Tree::Src).await;
    for n in 0..61 {
        here.remove(Tree::Src, &format!("f{n}"));
    }
    let error = here.try_sync(Tree::Src).await.unwrap_err();
    assert!(matches!(error, Error::ManyDeletions { deletions: 61, files: 120, .. }), "{error}");
    assert!(error.hint().unwrap().contains("--allow-deletes"));
    // What it would do can be looked at all the same.
    let dry = SyncOptions { dry_run: true, ..here.options(Tree::Src) };
    assert_eq!(here.sync_as(&dry, &Events::none()).await.unwrap().plan.remove_remote.len(), 61);
    for n in 61..120 {
        here.remove(Tree::Src, &format!("f{n}"));
    }
    let error = here.try_sync(Tree::Src).await.unwrap_err();
    assert!(matches!(error, Error::TreeEmptied { files: 120, .. }), "{error}");
    std::fs::remove_dir(here.root(Tree::Src)).unwrap();
    let error = here.try_sync(Tree::Src).await.unwrap_err();
    assert!(matches!(error, Error::TreeMissing { files: 120, .. }), "{error}");
    assert_eq!(here.remote_names(Tree::Src).await.len(), 120);
    std::fs::create_dir(here.root(Tree::Src)).unwrap();
    let allowed = SyncOptions { allow_deletes: true, ..here.options(Tree::Src) };
    here.sync_as(&allowed, &Events::none()).await.unwrap();
    assert_eq!(here.remote_names(Tree::Src).await, [".pollinator-folder"]);
}

#[tokio::test]
async fn files_that_are_missing_on_another_file_system_are_not_deleted_in_the_colony() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    here.write(Tree::Data, "a", "a");
    here.write(Tree::Data, "b", "b");
    here.sync(Tree::Data).await;
    // As if the folder had been on a disk that is not mounted now.
    let journal = rusqlite::Connection::open(here.home.join("state/journal.db")).unwrap();
    assert_eq!(journal.execute("UPDATE base_tree SET device = device + 1", []).unwrap(), 1);
    here.remove(Tree::Data, "a");
    let error = here.try_sync(Tree::Data).await.unwrap_err();
    assert!(matches!(error, Error::OtherFileSystem { missing: 1, .. }), "{error}");
    assert_eq!(here.remote_names(Tree::Data).await, ["a", "b"]);
    // With nothing missing it is a move to another disk, and that is that.
    here.write(Tree::Data, "a", "a");
    here.sync(Tree::Data).await;
    here.remove(Tree::Data, "a");
    here.sync(Tree::Data).await;
    assert_eq!(here.remote_names(Tree::Data).await, ["b"]);
}

#[tokio::test]
async fn a_folder_that_came_with_its_first_files_loses_what_is_deleted_in_it() {
    let colony = Colony::start().await;
    let (here, executor) = (colony.side("here"), colony.side("executor"));
    std::fs::remove_dir(here.root(Tree::Result)).unwrap();
    executor.write(Tree::Result, "r", "1");
    executor.write(Tree::Result, "s", "1");
    executor.sync_policy(Tree::Result, Policy::SendOnly { keep_local: true }).await;
    here.sync(Tree::Result).await;
    here.remove(Tree::Result, "r");
    here.sync(Tree::Result).await;
    assert_eq!(here.remote_names(Tree::Result).await, ["s"]);
}

#[tokio::test]
async fn results_that_vanished_in_the_colony_stay_here() {
    let colony = Colony::start().await;
    let (here, executor) = (colony.side("here"), colony.side("executor"));
    executor.write(Tree::Result, "r", "1");
    executor.sync_policy(Tree::Result, Policy::SendOnly { keep_local: true }).await;
    here.sync(Tree::Result).await;
    here.cfs.client.remove_file("/pollinator/p/result", "r").await.unwrap();
    here.sync(Tree::Result).await;
    assert_eq!(here.content(Tree::Result), contents(&[("r", "1")]));
}

#[tokio::test]
async fn what_the_rules_leave_out_is_neither_sent_nor_brought() {
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    here.write(Tree::Data, "model.ckpt", "x");
    here.write(Tree::Data, "cache/a", "x");
    here.write(Tree::Data, "kept", "x");
    here.sync(Tree::Data).await;
    // Another client's rows below .git would be code that runs on this machine.
    let hook = here.remote(Tree::Data).await.files[&path("kept")].clone();
    let row = here.cfs.client.latest_file("/pollinator/p/data", "kept").await.unwrap().unwrap();
    let evil = pollinator::colonies::File { label: "/pollinator/p/data/.git/hooks".into(), name: "post-checkout".into(), ..row };
    here.cfs.client.add_file(&evil).await.unwrap();
    assert_eq!(hook.size, 1);
    there.write(Tree::Data, ".cfsignore", "*.ckpt\ncache/\n");
    for _ in 0..2 {
        let report = there.sync(Tree::Data).await;
        assert!(report.plan.remove_remote.is_empty());
    }
    assert_eq!(there.content(Tree::Data), contents(&[(".cfsignore", "*.ckpt\ncache/\n"), ("kept", "x")]));
    assert!(there.sync(Tree::Data).await.plan.is_empty());
    // A mirrored tree is what it is here: what is left out by a new rule goes.
    here.write(Tree::Src, "main.py", "x");
    here.write(Tree::Src, "big.ckpt", "x");
    here.sync(Tree::Src).await;
    here.write(Tree::Src, ".cfsignore", "*.ckpt\n");
    here.sync(Tree::Src).await;
    assert_eq!(here.remote_names(Tree::Src).await, [".cfsignore", "main.py"]);
}

#[tokio::test]
async fn ten_thousand_small_files_go_over_and_an_unchanged_tree_sends_nothing() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    for n in 0..10_000 {
        here.write(Tree::Data, &format!("d{}/f{n}", n % 50), n.to_string());
    }
    let options = SyncOptions { jobs: 32, ..here.options(Tree::Data) };
    let (events, all) = heard(|_| {});
    let report = here.sync_as(&options, &events).await.unwrap();
    assert!(report.problems.is_empty());
    // And the marker of a root that holds only folders.
    assert_eq!(report.uploaded.0, 10_001);
    let done = all.lock().unwrap().iter().filter(|event| matches!(event, Event::FileDone { .. })).count();
    assert_eq!(done, 10_000);
    let (events, all) = heard(|_| {});
    let again = here.sync_as(&options, &events).await.unwrap();
    assert!(again.plan.is_empty() && again.plan.unchanged == 10_001, "{}", again.plan.unchanged);
    assert!(all.lock().unwrap().is_empty());
    assert_eq!(again.tree_digest, report.tree_digest);
}

#[tokio::test]
async fn a_synchronization_that_is_cut_off_is_taken_up_where_it_was() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    for n in 0..600 {
        here.write(Tree::Data, &format!("f{n:03}"), n.to_string());
    }
    let (cut, done) = (Arc::new(tokio::sync::Notify::new()), AtomicUsize::new(0));
    let notify = cut.clone();
    let (events, all) = heard(move |event| {
        if matches!(event, Event::FileDone { .. }) && done.fetch_add(1, Ordering::SeqCst) == 400 {
            notify.notify_one();
        }
    });
    let options = here.options(Tree::Data);
    tokio::select! {
        biased;
        () = cut.notified() => {}
        ended = here.sync_as(&options, &events) => panic!("it ended before it was cut off: {ended:?}"),
    }
    let confirmed: Vec<String> = all
        .lock()
        .unwrap()
        .iter()
        .filter_map(|event| match event {
            Event::FileDone { path, .. } => Some(path.clone()),
            _ => None,
        })
        .collect();
    // What was confirmed and then deleted is known to have been there: it is removed, not brought back.
    for name in &confirmed[..200] {
        here.remove(Tree::Data, name);
    }
    let report = here.sync(Tree::Data).await;
    assert_eq!((report.downloaded.0, report.plan.remove_remote.len()), (0, 200));
    assert!(report.uploaded.0 <= 200, "{} of 600 again", report.uploaded.0);
    assert_eq!(here.verified(Tree::Data).await.len(), 400);
    assert!(here.sync(Tree::Data).await.plan.is_empty());
}

#[tokio::test]
async fn events_tell_what_moves() {
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    here.write(Tree::Data, "a/file", vec![7; 100_000]);
    let (events, sent) = heard(|_| {});
    here.sync_as(&here.options(Tree::Data), &events).await.unwrap();
    let (events, fetched) = heard(|_| {});
    there.sync_as(&there.options(Tree::Data), &events).await.unwrap();
    for (direction, all) in [(Direction::Upload, sent), (Direction::Download, fetched)] {
        let all = all.lock().unwrap();
        let tree = Tree::Data;
        assert_eq!(all[0], Event::TransferStarted { tree, direction, files: 1, bytes: 100_000 });
        let end = Event::TransferFinished { tree, direction, files: 1, bytes: 100_000, travelled: 100_000, problems: 0 };
        assert_eq!(all.last(), Some(&end));
        let moved: u64 = all
            .iter()
            .map(|event| match event {
                Event::TransferProgress { bytes, path, .. } if path == "a/file" => *bytes,
                _ => 0,
            })
            .sum();
        assert_eq!(moved, 100_000);
        assert!(all.contains(&Event::FileDone { tree, direction, path: "a/file".into(), size: 100_000, travelled: 100_000 }));
    }
}
