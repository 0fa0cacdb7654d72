//! The promises that synchronization makes, each as a test of its name, and what others may do to break them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod lab;
#[path = "common/sides.rs"]
mod sides;

use lab::Lab;
use pollinator::cfs;
use pollinator::cfs::Policy;
use pollinator::colonies::File;
use pollinator::event::Direction;
use pollinator::event::Event;
use pollinator::event::Tree;
use pollinator::index::RelPath;
use pollinator::index::ignore::Rules;
use sides::Colony;
use sides::Side;
use sides::content;
use sides::heard;
use sides::sha256;
use std::fs::File as Local;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

/// Writes into a file where it is, as a program does that keeps it open.
fn scribble(path: &Path, text: &[u8]) {
    let mut file = Local::options().write(true).open(path).unwrap();
    file.write_all(text).unwrap();
    file.seek(SeekFrom::End(-(text.len() as i64))).unwrap();
    file.write_all(text).unwrap();
}

fn is_upload_progress(event: &Event, name: &str) -> bool {
    matches!(event, Event::TransferProgress { path, direction: Direction::Upload, .. } if path == name)
}

#[tokio::test]
async fn promise_1_registered_bytes_have_the_registered_checksum() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    // One request, and many parts; both are written to while they are sent, once.
    for (name, size) in [("small", 200_000), ("large", 120 << 20)] {
        here.write(Tree::Data, name, vec![b'a'; size]);
        let (full, once) = (here.path(Tree::Data, name), AtomicBool::new(false));
        let (events, _) = heard(move |event| {
            if is_upload_progress(event, name) && !once.swap(true, Ordering::SeqCst) {
                scribble(&full, b"written meanwhile");
            }
        });
        let report = here.sync_as(&here.options(Tree::Data), &events).await.unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        let stored = here.verified(Tree::Data).await;
        assert_eq!(report.files[&RelPath::parse(name).unwrap()].sha256, sha256(&stored[name]), "{name}");
        // All of one moment: what was read before the change, or what is there now, never some of both.
        let all_old = stored[name].iter().all(|byte| *byte == b'a');
        assert!(all_old || stored[name] == std::fs::read(here.path(Tree::Data, name)).unwrap(), "{name}");
        assert!(!all_old || name == "small", "parts that are read after the change give it away");
        // The next look brings what was written.
        here.sync(Tree::Data).await;
        let stored = here.verified(Tree::Data).await;
        assert!(stored[name].starts_with(b"written meanwhile") && stored[name].ends_with(b"written meanwhile"));
        // The digest of the tree is that of what was sent, not of what was looked at.
        assert_eq!(here.sync(Tree::Data).await.uploaded.0, 0, "{name}");
    }
    // Objects of the attempts that were given up are not left behind: one of the large file, two revisions of the small one.
    let objects = here.cfs.store.list("pollinator/p/").await.unwrap();
    assert_eq!(objects.len(), 3, "{objects:?}");
}

#[tokio::test]
async fn a_file_that_never_stands_still_is_not_registered_and_is_listed() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    // Of one request, a file is read at one moment; one of many parts has to stand still while they are read.
    here.write(Tree::Data, "log", vec![b'a'; 120 << 20]);
    here.write(Tree::Data, "quiet", "x");
    let (full, count) = (here.path(Tree::Data, "log"), Mutex::new(0u32));
    let (events, _) = heard(move |event| {
        if is_upload_progress(event, "log") {
            let mut count = count.lock().unwrap();
            *count += 1;
            scribble(&full, count.to_string().as_bytes());
        }
    });
    let report = here.sync_as(&here.options(Tree::Data), &events).await.unwrap();
    assert_eq!(report.problems.len(), 1);
    assert!(report.problems[0].0 == "log" && report.problems[0].1.contains("again and again"), "{:?}", report.problems);
    assert_eq!(here.remote_names(Tree::Data).await, ["quiet"]);
    assert_eq!(here.sync(Tree::Data).await.uploaded.0, 1);
    assert_eq!(here.verified(Tree::Data).await.len(), 2);
}

/// Every content that stood on a machine, wherever it is now.
fn somewhere(side: &Side, tree: Tree, text: &str) -> bool {
    side.content(tree).values().any(|content| content == text)
}

#[tokio::test]
async fn promise_3_no_byte_is_lost_without_a_copy() {
    let colony = Colony::start().await;
    let (here, executor) = (colony.side("here"), colony.side("executor"));
    let send = Policy::SendOnly { keep_local: true };
    for name in ["edited", "saved meanwhile", "appears meanwhile", "deleted there"] {
        if name != "appears meanwhile" {
            executor.write(Tree::Result, name, format!("{name} 1"));
        }
    }
    executor.sync_policy(Tree::Result, send).await;
    here.sync(Tree::Result).await;
    for name in ["edited", "saved meanwhile", "appears meanwhile"] {
        executor.write(Tree::Result, name, format!("{name} 2"));
    }
    executor.remove(Tree::Result, "deleted there");
    executor.write(Tree::Result, "folder/file", "x");
    executor.sync_policy(Tree::Result, send).await;
    here.write(Tree::Result, "edited", "mine: edited");
    here.write(Tree::Result, "deleted there", "mine: deleted there");
    here.write(Tree::Result, "folder", "mine: a file where a folder comes");
    // A save between the look at the tree and the moment at which the new file is put in place.
    let root = here.root(Tree::Result);
    let (events, all) = heard(move |event| {
        if let Event::TransferStarted { direction: Direction::Download, .. } = event {
            std::fs::write(root.join("saved meanwhile"), "mine: saved meanwhile").unwrap();
            std::fs::write(root.join("appears meanwhile"), "mine: appears meanwhile").unwrap();
        }
    });
    let report = here.sync_as(&here.options(Tree::Result), &events).await.unwrap();
    for name in ["edited", "saved meanwhile", "appears meanwhile"] {
        assert!(somewhere(&here, Tree::Result, &format!("mine: {name}")), "{name}: {:?}", here.content(Tree::Result));
        assert!(somewhere(&here, Tree::Result, &format!("{name} 2")), "{name}");
    }
    let content = here.content(Tree::Result);
    assert_eq!(content["deleted there"], "mine: deleted there");
    assert_eq!(content["folder"], "mine: a file where a folder comes");
    let clash = ("folder/file".to_owned(), "is a file on one side and a folder on the other".to_owned());
    assert_eq!(report.problems, [clash]);
    let kept = all.lock().unwrap().iter().filter(|event| matches!(event, Event::FileKept { .. })).count();
    assert_eq!(kept, 3);
}

#[tokio::test]
async fn promise_6_results_are_visible_only_whole_and_verified() {
    let colony = Colony::start().await;
    let (here, executor) = (colony.side("here"), colony.side("executor"));
    let whole = vec![b'r'; 5 << 20];
    executor.write(Tree::Result, "whole", &whole);
    executor.write(Tree::Result, "torn", &whole);
    executor.sync_policy(Tree::Result, Policy::SendOnly { keep_local: true }).await;
    here.write(Tree::Result, "torn", "the last good one");
    // The store holds other bytes than were registered.
    let torn = executor.remote(Tree::Result).await.files[&RelPath::parse("torn").unwrap()].object.clone();
    let mut bytes = whole.clone();
    bytes[1 << 20] = b'!';
    executor.cfs.store.put_bytes(&torn, bytes.into(), &Default::default(), &|_| ()).await.unwrap();
    let (root, seen) = (here.root(Tree::Result), std::sync::Arc::new(Mutex::new(Vec::new())));
    let looked = seen.clone();
    let (events, _) = heard(move |event| {
        if let Event::TransferProgress { .. } = event {
            // While bytes come nothing half stands under its name.
            looked.lock().unwrap().extend(std::fs::metadata(root.join("whole")).map(|m| m.len()));
        }
    });
    let report = here.sync_as(&here.options(Tree::Result), &events).await.unwrap();
    assert_eq!(std::fs::read(here.path(Tree::Result, "whole")).unwrap(), whole);
    assert!(seen.lock().unwrap().iter().all(|size| *size == whole.len() as u64));
    assert!(report.problems.len() == 1 && report.problems[0].0 == "torn", "{:?}", report.problems);
    assert!(report.problems[0].1.contains("not what was registered"), "{:?}", report.problems);
    // What was there stands until something better is whole, and nothing unverified lies beside it.
    assert_eq!(here.content(Tree::Result)["torn"], "the last good one");
    assert_eq!(here.content(Tree::Result).len(), 2, "{:?}", here.content(Tree::Result).keys());
}

#[tokio::test]
async fn promise_8_one_bad_file_blocks_no_other() {
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    here.write(Tree::Data, "good", "good");
    here.write(Tree::Data, "vanishes", "x");
    symlink("good", here.path(Tree::Data, "link inside")).unwrap();
    symlink("nowhere", here.path(Tree::Data, "dangling")).unwrap();
    symlink(outside.path().join("secret"), here.path(Tree::Data, "out")).unwrap();
    symlink(outside.path(), here.path(Tree::Data, "out folder")).unwrap();
    symlink(".", here.path(Tree::Data, "loop")).unwrap();
    let vanishes = here.path(Tree::Data, "vanishes");
    let (events, all) = heard(move |event| {
        if let Event::TransferStarted { .. } = event {
            std::fs::remove_file(&vanishes).unwrap();
        }
    });
    let report = here.sync_as(&here.options(Tree::Data), &events).await.unwrap();
    assert_eq!(here.remote_names(Tree::Data).await, ["good", "link inside"]);
    assert!(report.problems.len() == 1 && report.problems[0].1.contains("vanished"), "{:?}", report.problems);
    let skipped: Vec<&str> = report.skipped.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(skipped, ["dangling", "loop", "out", "out folder"]);
    for bad in ["vanishes", "dangling", "loop", "out", "out folder"] {
        let told = |event: &Event| matches!(event, Event::FileProblem { path, .. } if path == bad);
        assert!(all.lock().unwrap().iter().any(told), "{bad}");
    }
    // Rows by whoever: names that lead elsewhere, bytes that are gone, sizes that cannot be.
    let good = here.cfs.client.latest_file("/pollinator/p/data", "good").await.unwrap().unwrap();
    let mut gone = good.clone();
    gone.reference.s3object.object = "pollinator/p/gone".into();
    for (label, name, row) in [
        ("/pollinator/p/data", "..", &good),
        ("/pollinator/p/data", "../escaped", &good),
        ("/pollinator/p/data", "/tmp/escaped", &good),
        ("/pollinator/p/data/../../..", "escaped", &good),
        ("/pollinator/p/data/a//b", "escaped", &good),
        ("/pollinator/p/data2", "another tree's", &good),
        ("/pollinator/p/data", "bytes are gone", &gone),
        ("/pollinator/p/data", "negative", &File { size: -1, ..good.clone() }),
    ] {
        let row = File { label: label.into(), name: name.into(), ..row.clone() };
        here.cfs.client.add_file(&row).await.unwrap();
    }
    // A link that is in the way of a folder leads nowhere for what comes.
    symlink(outside.path(), there.path(Tree::Data, "linked")).unwrap();
    let row = File { label: "/pollinator/p/data/linked".into(), name: "escaped".into(), ..good.clone() };
    here.cfs.client.add_file(&row).await.unwrap();
    let before = content(colony.folder.path()).into_keys().filter(|name| name.contains("escaped")).count();
    let report = there.try_sync(Tree::Data).await.unwrap();
    assert_eq!((report.downloaded.0, before), (2, 0), "{:?}", report.problems);
    assert_eq!(there.content(Tree::Data)["good"], "good");
    assert!(!content(colony.folder.path()).into_keys().any(|name| name.contains("escaped")));
    assert_eq!(content(outside.path()).len(), 1);
    let listed: Vec<&str> = report.problems.iter().map(|(path, _)| path.as_str()).collect();
    for bad in ["bytes are gone", "negative", "/pollinator/p/data/..", "/pollinator/p/data/../escaped"] {
        assert!(listed.contains(&bad), "{bad}: {listed:?}");
    }
}

#[tokio::test]
async fn an_unreadable_folder_is_listed_and_its_files_are_not_deleted_in_the_colony() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    here.write(Tree::Data, "sub/a", "a");
    here.write(Tree::Data, "b", "b");
    here.sync(Tree::Data).await;
    // A file that was there is a pipe now, and what was a folder is a link that leads nowhere.
    std::fs::rename(here.path(Tree::Data, "sub"), here.home.join("elsewhere")).unwrap();
    symlink("nowhere", here.path(Tree::Data, "sub")).unwrap();
    let report = here.try_sync(Tree::Data).await.unwrap();
    assert_eq!(report.skipped.len(), 1);
    assert_eq!(here.remote_names(Tree::Data).await, ["b", "sub/a"]);
    std::fs::remove_file(here.path(Tree::Data, "sub")).unwrap();
    std::fs::rename(here.home.join("elsewhere"), here.path(Tree::Data, "sub")).unwrap();
    assert!(here.sync(Tree::Data).await.plan.is_empty());
}

#[tokio::test]
async fn a_full_disk_ends_a_download_with_a_clear_error_and_leaves_nothing_half() {
    let lab = Lab::new();
    let (first, second) = (lab.project("first", ""), lab.project("second", ""));
    std::fs::write(first.join("cfs/data/large"), vec![1u8; 20 << 20]).unwrap();
    let settings = std::fs::read_to_string(first.join("project.yaml")).unwrap();
    std::fs::write(second.join("project.yaml"), settings).unwrap();
    lab.run_in(&first, ["sync", "data"]).expect_code(0);
    // No file of this process may grow beyond 8 MiB, which looks like a full disk.
    let program = lab.command(["sync", "data"]);
    let mut limited = std::process::Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\""]).arg(program.get_program()).args(program.get_args());
    limited
        .env_clear()
        .envs(program.get_envs().filter_map(|(name, value)| value.map(|value| (name, value))))
        .current_dir(&second);
    let ended = lab::finish(limited).expect_code(1);
    assert!(ended.stderr.contains("no space left for"), "{}", ended.all());
    assert!(content(&second.join("cfs/data")).is_empty());
    lab.run_in(&second, ["sync", "data"]).expect_code(0);
    assert_eq!(std::fs::metadata(second.join("cfs/data/large")).unwrap().len(), 20 << 20);
}

#[tokio::test]
async fn labels_with_wildcards_or_a_common_beginning_are_other_trees() {
    let colony = Colony::start().await;
    let (under, x, percent) = (colony.side_of("1", "my_proj"), colony.side_of("2", "myXproj"), colony.side_of("3", "my%"));
    for side in [&under, &x, &percent] {
        side.write(Tree::Src, "sub/whose", side.label(Tree::Src));
        side.sync(Tree::Src).await;
    }
    let row = under.cfs.client.latest_file("/pollinator/my_proj/src/sub", "whose").await.unwrap().unwrap();
    under.cfs.client.add_file(&File { label: "/pollinator/my_proj/src2".into(), name: "x".into(), ..row }).await.unwrap();
    for side in [&under, &x, &percent] {
        let stored = side.verified(Tree::Src).await;
        assert_eq!(stored.len(), 2, "{:?}", stored.keys());
        assert_eq!(stored["sub/whose"], side.label(Tree::Src).into_bytes());
        let report = side.sync(Tree::Src).await;
        let snapshot = cfs::snapshot(&side.cfs, &side.label(Tree::Src), &report, None).await.unwrap();
        let tree = side.cfs.snapshot_tree(&snapshot.snapshotid, &snapshot.label).await.unwrap();
        assert_eq!(tree.files.len(), 2);
        assert!(tree.problems.is_empty(), "{:?}", tree.problems);
    }
}

#[tokio::test]
async fn a_lost_index_makes_things_slower_never_wrong() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    here.write(Tree::Src, "a", "a");
    let before = here.sync(Tree::Src).await;
    let fresh = tempfile::tempdir().unwrap();
    let index = pollinator::index::Index::open(fresh.path()).unwrap();
    let mut rules = Rules::new(&here.root(Tree::Src), None).unwrap();
    assert_eq!(pollinator::index::scan(&here.root(Tree::Src), &mut rules, &index, 2).unwrap().files.len(), 1);
    let other = Side { index, ..here };
    let report = other.sync(Tree::Src).await;
    assert!(report.plan.is_empty());
    assert_eq!(report.tree_digest, before.tree_digest);
}
