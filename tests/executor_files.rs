//! Files at an executor, against the local colony: what is there is not fetched again, what was removed goes, nothing outside the
//! file area is touched, and jobs of one project do not get in each other's way.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

#[path = "common/count_proxy.rs"]
mod count_proxy;
#[path = "common/rig.rs"]
mod rig;
#[path = "common/small_disk.rs"]
mod small_disk;

use count_proxy::CountProxy;
use count_proxy::Limit;
use pollinator::cfs;
use pollinator::cfs::Policy;
use pollinator::cfs::SyncOptions;
use pollinator::colonies::ProcessState;
use pollinator::event::Events;
use pollinator::event::Tree;
use pollinator::executor::Options;
use pollinator::executor::files::ShareSnapshots;
use pollinator::index::Index;
use pollinator::journal::Journal;
use rig::*;
use serde_json::Value;
use serde_json::json;
use small_disk::SmallDisk;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

/// Puts the snapshot where projects put it: in a folder named after it.
fn as_projects_do(spec: &mut Value) {
    let id = spec["fs"]["snapshots"][0]["snapshotid"].as_str().unwrap().to_owned();
    spec["fs"]["snapshots"][0]["dir"] = json!(format!("/pollinator/p/{id}/src"));
}

/// Runs `true` and gives the folder of its snapshot.
async fn run(rig: &Rig, change: impl FnOnce(&mut Value)) -> PathBuf {
    let id = rig
        .submit_with("true", &[], |spec| {
            as_projects_do(spec);
            change(spec)
        })
        .await;
    let (process, _) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    rig.fs(process.spec.fs.snapshots.as_ref().unwrap()[0].dir.trim_start_matches('/'))
}

fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Brings a folder to another project's label, as another machine would.
async fn send_to(rig: &Rig, label: &str, folder: &Path) {
    let state = tempfile::tempdir().unwrap();
    let (index, journal) = (Index::open(state.path()).unwrap(), Journal::open(state.path()).unwrap());
    let options = SyncOptions {
        tree: Tree::Data,
        label: label.into(),
        folder: folder.to_owned(),
        rules_from: None,
        policy: Policy::LocalWins,
        jobs: 4,
        allow_deletes: true,
        dry_run: false,
        leave_open: false,
    };
    let report = cfs::sync(&rig.cfs(), &index, &journal, &options, &Events::none()).await.unwrap();
    assert_eq!(report.problems, []);
}

async fn behind_proxy(rig: &Rig) -> (CountProxy, impl Fn(&mut Options) + use<>) {
    let endpoint = rig.cfs_endpoint();
    let proxy = CountProxy::start(&endpoint).await;
    let address = proxy.address.clone();
    (proxy, move |options: &mut Options| options.store.endpoint.clone_from(&address))
}

#[tokio::test]
async fn a_second_snapshot_costs_what_changed() {
    let rig = Rig::new().await;
    for n in 0..40 {
        rig.write("src", &format!("package/sub{}/f{n}", n % 4), &format!("{n} {}", "x".repeat(20_000 + n)));
    }
    rig.write("src", "empty", "");
    let (proxy, through) = behind_proxy(&rig).await;
    let running = rig.start_with(|options| {
        through(options);
        options.share_snapshots = ShareSnapshots::Hardlink;
    });
    let first = run(&rig, |_| ()).await;
    assert_eq!(proxy.gets(), 40);
    // The same tree, another snapshot.
    let before = proxy.bytes();
    let second = run(&rig, |_| ()).await;
    assert_ne!(first, second);
    assert_eq!((proxy.gets(), proxy.bytes()), (40, before), "not one request");
    let inode = |folder: &Path, name: &str| std::fs::metadata(folder.join(name)).unwrap().ino();
    for n in 0..40 {
        let name = format!("package/sub{}/f{n}", n % 4);
        assert_eq!(inode(&first, &name), inode(&second, &name), "{name}");
        assert_eq!(std::fs::metadata(second.join(&name)).unwrap().mode() & 0o222, 0);
    }
    // One file changed, in a folder within a folder.
    rig.write("src", "package/sub1/f1", "changed");
    let third = run(&rig, |_| ()).await;
    assert_eq!(proxy.gets(), 41);
    assert!(proxy.bytes() < before + 10_000, "{} bytes more", proxy.bytes() - before);
    assert_eq!(read(third.join("package/sub1/f1")), "changed");
    assert!(read(second.join("package/sub1/f1")).starts_with("1 x"));
    // A folder gets another name: asked is for the objects' metadata only.
    std::fs::rename(rig.tree("src").join("package"), rig.tree("src").join("library")).unwrap();
    let fourth = run(&rig, |_| ()).await;
    assert_eq!(proxy.gets(), 41);
    assert_eq!(names(&fourth), ["empty", "library"]);
    assert_eq!(read(fourth.join("library/sub1/f1")), "changed");
    // A job edits a file of its snapshot, whoever else has it; the next one gets what was stored, in a file of its own.
    let edited = fourth.join("library/sub2/f2");
    let text = format!("chmod u+w {0}; echo edited > {0}", edited.display());
    let id = rig.submit_with(&text, &[], as_projects_do).await;
    rig.ended(&id).await;
    assert_eq!(read(&edited), "edited\n");
    let sixth = run(&rig, |_| ()).await;
    assert!(read(sixth.join("library/sub2/f2")).starts_with("2 x"));
    running.stop().await;
}

#[tokio::test]
async fn data_costs_its_changes_also_for_another_project() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    for n in 0..20 {
        rig.write("data", &format!("a/b/{n}"), &format!("{n} {}", "y".repeat(30_000 + n)));
    }
    send_to(&rig, "/pollinator/q/data", &rig.tree("data")).await;
    let (proxy, through) = behind_proxy(&rig).await;
    let running = rig.start_with(through);
    run(&rig, |_| ()).await;
    assert_eq!(proxy.gets(), 21);
    run(&rig, |_| ()).await;
    assert_eq!(proxy.gets(), 21);
    rig.write("data", "a/b/3", "changed");
    std::fs::rename(rig.tree("data").join("a"), rig.tree("data").join("c")).unwrap();
    run(&rig, |_| ()).await;
    assert_eq!(proxy.gets(), 22, "the changed one");
    let of_q = |spec: &mut Value| {
        spec["fs"]["dirs"][1]["label"] = json!("/pollinator/q/data");
        spec["fs"]["dirs"][1]["dir"] = json!("/pollinator/q/data");
    };
    run(&rig, of_q).await;
    assert_eq!(proxy.gets(), 23, "only what is nowhere here any more");
    assert_eq!(names(rig.fs("pollinator/q/data/a/b")).len(), 20);
    assert_eq!(names(rig.fs("pollinator/p/data")), ["c"], "the old folder is gone");
    running.stop().await;
}

#[tokio::test]
async fn what_was_removed_from_the_project_is_removed_here() {
    let rig = Rig::new().await;
    for n in 0..120 {
        rig.write("data", &format!("deep/er/{n}"), &n.to_string());
    }
    rig.write("data", "kept", "kept");
    rig.write("src", "lib/gone.sh", "old");
    rig.write("src", "lib/kept.sh", "kept");
    let running = rig.start();
    // Here the snapshots of all runs have one folder.
    let id = rig.submit("touch data/of-the-job; touch snapshot/src/lib/cache", &[]).await;
    assert_eq!(rig.ended(&id).await.0.state, ProcessState::Success);
    assert_eq!(names(rig.fs("pollinator/p/data/deep/er")).len(), 120);
    std::fs::remove_dir_all(rig.tree("data").join("deep")).unwrap();
    std::fs::remove_file(rig.tree("src").join("lib/gone.sh")).unwrap();
    send_removals(&rig).await;
    let id = rig.submit("ls snapshot/src/lib data", &[]).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    assert_eq!(log, "data:\nkept\nof-the-job\n\nsnapshot/src/lib:\ncache\nkept.sh\n");
    running.stop().await;
}

/// A specification that gives the snapshots of all runs one folder, with the results in it.
fn results_in_the_snapshot(spec: &mut Value) {
    spec["fs"]["dirs"][0]["dir"] = json!("/pollinator/p/snapshot/src/out");
    spec["fs"]["dirs"][0]["keepfiles"] = json!(true);
}

/// What an earlier snapshot brought is not always known; what was removed from the source is gone for the next run all the same,
/// and nothing else is.
#[tokio::test]
async fn what_was_removed_is_gone_though_nobody_knows_what_an_earlier_snapshot_brought() {
    const LIST: &str = "find snapshot/src | LC_ALL=C sort";
    let rig = Rig::new().await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    for path in ["gone", "deep/er/gone", "deep/kept", "kept"] {
        rig.write("src", path, path);
    }
    rig.sync(Tree::Src).await;
    // What a snapshot with a row that is no file holds is asked for each time, and not kept.
    let row = rig.user.latest_file("/pollinator/p/src", "gone").await.unwrap().unwrap();
    rig.user.add_file(&pollinator::colonies::File { name: "../up".into(), ..row }).await.unwrap();
    let snapshot = rig.user.create_snapshot("/pollinator/p/src", "odd").await.unwrap().snapshotid;
    let link = format!("ln -s {} snapshot/src", outside.path().display());
    let cmd = format!("echo r > snapshot/src/out/r; mkdir snapshot/src/made; {link}/made/link; {link}/deep/link");
    let mut spec = rig.spec(&snapshot, &cmd, &[]);
    results_in_the_snapshot(&mut spec);
    let running = rig.start();
    let id = rig.user.submit(&serde_json::from_value(spec).unwrap()).await.unwrap().processid;
    let (process, log) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    assert!(log.contains("left out of /pollinator/p/src"), "{log}");
    rig.user.remove_file("/pollinator/p/src", "../up").await.unwrap();
    std::fs::write(rig.fs("pollinator/p/snapshot/src/out/by-hand"), "").unwrap();
    std::fs::remove_file(rig.tree("src").join("gone")).unwrap();
    std::fs::remove_dir_all(rig.tree("src").join("deep/er")).unwrap();
    let id = rig.submit_with(LIST, &[], results_in_the_snapshot).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    let of = |below: &[&str]| below.iter().map(|path| format!("snapshot/src{path}\n")).collect::<String>();
    assert_eq!(log, of(&["", "/deep", "/deep/kept", "/kept", "/out", "/out/by-hand", "/out/r"]));
    running.stop().await;
    // As if the executor had stood still for some weeks.
    std::fs::remove_dir_all(rig.folder.path().join("executor/snapshots")).unwrap();
    std::fs::remove_dir_all(rig.tree("src").join("deep")).unwrap();
    let running = rig.start();
    let id = rig.submit_with(LIST, &[], results_in_the_snapshot).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    assert_eq!(log, of(&["", "/kept", "/out", "/out/by-hand", "/out/r"]));
    running.stop().await;
    assert_eq!(names(outside.path()), ["secret"]);
}

/// Most of the data goes, which the one who removes it has to mean.
async fn send_removals(rig: &Rig) {
    for name in 0..120 {
        rig.user.remove_file("/pollinator/p/data/deep/er", &name.to_string()).await.unwrap();
    }
}

#[tokio::test]
async fn rows_of_others_stay_in_their_folder() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    rig.write("data", "good", "good");
    rig.sync(Tree::Data).await;
    let row = rig.user.latest_file("/pollinator/p/data", "good").await.unwrap().unwrap();
    let long = "n".repeat(300);
    for name in ["../up", "a/../../up", "/pollinator-up", "..", ".", "new\nline", long.as_str(), "Good", "good/below"] {
        let evil = pollinator::colonies::File { name: name.into(), ..row.clone() };
        // What the server refuses can do no harm.
        let _ = rig.user.add_file(&evil).await;
    }
    for label in ["/pollinator/p/data/..", "/pollinator/p/data/../../up"] {
        let _ = rig.user.add_file(&pollinator::colonies::File { label: label.into(), ..row.clone() }).await;
    }
    let running = rig.start();
    let snapshot = {
        let src = rig.sync(Tree::Src).await;
        cfs::snapshot(&rig.cfs(), "/pollinator/p/src", &src, None).await.unwrap().snapshotid
    };
    let spec = rig.spec(&snapshot, "ls data", &[]);
    let id = rig.user.submit(&serde_json::from_value(spec).unwrap()).await.unwrap().processid;
    let (process, log) = rig.ended(&id).await;
    // The folder of the job's label is left with what can stand in it; that a name was left out is told.
    assert!(log.contains("left out of /pollinator/p/data") || !process.errors.is_empty(), "{log}");
    assert_eq!(names(rig.folder.path()).iter().filter(|n| n.contains("up")).count(), 0);
    for folder in [rig.fs(""), rig.fs("pollinator"), rig.fs("pollinator/p")] {
        assert!(!names(folder).iter().any(|name| name.contains("up")));
    }
    running.stop().await;
}

#[tokio::test]
async fn links_that_jobs_plant_lead_nowhere() {
    let rig = Rig::new().await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let there = outside.path().display();
    rig.write("src", "lib/x", "x");
    rig.write("data", "sub/in", "1");
    let running = rig.start();
    // A folder of the data becomes a link out, and so does one of the snapshot.
    let id = rig
        .submit(&format!("rm -r data/sub snapshot/src/lib; ln -s {there} data/sub; ln -s {there} snapshot/src/lib"), &[])
        .await;
    rig.ended(&id).await;
    rig.write("data", "sub/in", "2");
    let id = rig.submit("true", &[]).await;
    let (process, _) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Failed, "it would compute with other files");
    assert!(process.errors[0].contains("/pollinator/p/data: sub: is a symbolic link out of the tree"), "{:?}", process.errors);
    assert_eq!(read(rig.fs("pollinator/p/snapshot/src/lib/x")), "x", "the folder of a snapshot is put right");
    std::fs::remove_file(rig.fs("pollinator/p/data/sub")).unwrap();
    // The folder of the results itself becomes one.
    let id = rig.submit(&format!("rmdir result; ln -s {there} result; echo done"), &[]).await;
    let (process, _) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Failed);
    assert!(
        process.errors.iter().any(|e| e.contains("is not a folder (a symbolic link is not followed)")),
        "{:?}",
        process.errors
    );
    assert!(rig.cfs().list("/pollinator/p/result").await.unwrap().files.is_empty());
    running.stop().await;
    assert_eq!(names(outside.path()), ["secret"]);
}

#[tokio::test]
async fn what_another_job_is_writing_is_not_sent_or_replaced() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    rig.write("result", "old", "old");
    rig.write("result", "gone", "gone");
    rig.sync(Tree::Result).await;
    let running = rig.start();
    let go = rig.folder.path().join("go");
    let writing = format!(
        "rm result/gone; echo mine > result/old; exec 3> result/long; printf half >&3; echo begun; \
         until test -e {0}; do sleep 0.1; done; printf ' and whole' >&3",
        go.display()
    );
    let long = rig.submit_with(&writing, &[], as_projects_do).await;
    rig.until(&long, "it writes", |_, log| log.contains("begun")).await;
    let short = rig
        .submit_with("cat result/old result/long; test ! -e result/gone && echo short > result/short", &[], as_projects_do)
        .await;
    let (process, log) = rig.ended(&short).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    assert_eq!(log, "mine\nhalf");
    let there = |tree: cfs::RemoteTree| tree.files.keys().map(|path| path.to_string()).collect::<Vec<_>>();
    assert_eq!(there(rig.cfs().list("/pollinator/p/result").await.unwrap()), ["gone", "old", "short"]);
    std::fs::write(&go, "").unwrap();
    assert_eq!(rig.ended(&long).await.0.state, ProcessState::Success);
    assert_eq!(there(rig.cfs().list("/pollinator/p/result").await.unwrap()), ["long", "old", "short"]);
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("long")), "half and whole");
    assert_eq!(read(rig.tree("result").join("old")), "mine\n");
    running.stop().await;
    assert!(!rig.fs("pollinator/p/result").exists(), "the last one removes it");
}

#[tokio::test]
async fn only_what_was_made_for_a_process_is_removed_after_it() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    rig.write("data", "in", "in");
    std::fs::create_dir_all(rig.fs("by-hand")).unwrap();
    std::fs::write(rig.fs("by-hand/mine"), "").unwrap();
    let running = rig.start();
    run(&rig, |_| ()).await;
    let drop_dir = |dir: &'static str| {
        move |spec: &mut Value| {
            spec["fs"]["dirs"][0] = json!({ "label": "/other", "dir": dir, "keepfiles": false,
            "onconflicts": { "onstart": { "keeplocal": false }, "onclose": { "keeplocal": false } } });
            spec["fs"]["dirs"].as_array_mut().unwrap().truncate(1);
        }
    };
    for dir in ["/pollinator", "/by-hand", "/pollinator/p/data", "/fresh/one"] {
        run(&rig, drop_dir(dir)).await;
    }
    running.stop().await;
    for kept in ["pollinator/p/data/in", "by-hand/mine"] {
        assert!(rig.fs(kept).exists(), "{kept}");
    }
    assert!(rig.fs("fresh").exists() && !rig.fs("fresh/one").exists());
}

#[tokio::test]
async fn a_snapshot_that_is_not_to_be_kept_goes_when_the_process_is_closed() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let mut snapshot = String::new();
    let id = rig
        .submit_with("exit 3", &[], |spec| {
            as_projects_do(spec);
            spec["fs"]["snapshots"][0]["keepfiles"] = json!(false);
            spec["fs"]["snapshots"][0].as_object_mut().unwrap().remove("keepsnapshot");
            // As many published specifications write it.
            spec["fs"]["snapshots"][0]["keepsnaphot"] = json!(false);
            snapshot = spec["fs"]["snapshots"][0]["snapshotid"].as_str().unwrap().to_owned();
        })
        .await;
    let (process, _) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Failed);
    let folder = rig.fs(&format!("pollinator/p/{snapshot}"));
    until("its folder is gone", || !folder.exists()).await;
    running.stop().await;
    assert!(rig.user.snapshot(&snapshot).await.is_err());
}

/// The server takes the process away while the executor is dead: what the next attempt needs is still there, and goes after it.
#[tokio::test]
async fn a_snapshot_that_is_not_to_be_kept_is_there_for_the_next_attempt() {
    let rig = Rig::new().await;
    rig.write("src", "word", "the word\n");
    let count = rig.folder.path().join("count").display().to_string();
    let running = rig.start();
    let mut snapshot = String::new();
    let id = rig
        .submit_with("", &[], |spec| {
            as_projects_do(spec);
            spec["maxexectime"] = json!(12);
            spec["fs"]["snapshots"][0]["keepfiles"] = json!(false);
            spec["fs"]["snapshots"][0]["keepsnapshot"] = json!(false);
            snapshot = spec["fs"]["snapshots"][0]["snapshotid"].as_str().unwrap().to_owned();
            let word = format!("/cfs/pollinator/p/{snapshot}/src/word");
            let cmd = format!("echo x >> {count}; cat {word}; test $(wc -l < {count}) = 2 || sleep 300");
            spec["kwargs"]["cmd"] = json!(cmd);
        })
        .await;
    rig.until(&id, "it runs", |_, log| log.contains("the word\n")).await;
    running.kill();
    rig.until(&id, "it waits again", |process, _| process.state == ProcessState::Waiting && process.retries == 1).await;
    // Nothing of it is left here: all of it comes from the colony.
    let folder = rig.fs(&format!("pollinator/p/{snapshot}"));
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::remove_dir_all(rig.folder.path().join("executor/snapshots")).unwrap();
    let running = rig.start();
    let (process, log) = rig.ended(&id).await;
    assert_eq!((process.state, process.retries), (ProcessState::Success, 1), "{:?}\n{log}", process.errors);
    assert!(log.ends_with("the word\n"), "{log}");
    assert_eq!(read(&count), "x\nx\n");
    until("its folder is gone", || !folder.exists()).await;
    running.stop().await;
    assert!(rig.user.snapshot(&snapshot).await.is_err());
}

fn folders_known(rig: &Rig) -> rusqlite::Connection {
    rusqlite::Connection::open(rig.folder.path().join("executor/files.db")).unwrap()
}

/// Killed after a process was closed and before it had cleaned up, or after it was taken away.
#[tokio::test]
async fn what_was_left_behind_goes_and_what_was_not_sent_is_sent_later() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let sent = tempfile::tempdir().unwrap();
    std::fs::write(sent.path().join("in"), "in").unwrap();
    send_to(&rig, "/other/sent", sent.path()).await;
    let dirs = |spec: &mut Value| {
        let both = json!({ "onstart": { "keeplocal": false }, "onclose": { "keeplocal": true } });
        let dir = |name: &str| {
            let (label, dir) = (format!("/other/{name}"), format!("/left/{name}"));
            json!({ "label": label, "dir": dir, "keepfiles": true, "onconflicts": both })
        };
        spec["fs"]["dirs"] = json!([dir("sent"), dir("unsent")]);
    };
    let running = rig.start();
    let left = run(&rig, dirs).await;
    rig.write("src", "x", "y");
    let recent = run(&rig, dirs).await;
    running.stop().await;
    // Whatever wrote this was taken away before it could be sent.
    std::fs::write(rig.fs("left/unsent/made"), "made").unwrap();
    let db = folders_known(&rig);
    let name = |folder: &Path| folder.strip_prefix(rig.fs("")).unwrap().to_str().unwrap().to_owned();
    for dir in [name(&left), "left/sent".into(), "left/unsent".into()] {
        let sql = "UPDATE folder SET kept = 0, used = used - 7200000 WHERE dir = ?1";
        assert_eq!(db.execute(sql, [&dir]).unwrap(), 1, "{dir}");
    }
    assert_eq!(db.execute("UPDATE folder SET kept = 0 WHERE dir = ?1", [name(&recent)]).unwrap(), 1);
    let running = rig.start();
    let named = left.parent().unwrap();
    until("what was left is gone", || !named.exists() && !rig.fs("left/sent").exists()).await;
    let unsent = || {
        let sql = "SELECT unsent FROM folder WHERE dir = 'left/unsent'";
        db.query_row(sql, [], |row| row.get::<_, bool>(0)).unwrap()
    };
    until("what is not sent is noted", unsent).await;
    assert_eq!(read(rig.fs("left/unsent/made")), "made");
    assert!(recent.join("x").exists(), "somebody may come back for it");
    let snapshot = named.file_name().unwrap().to_str().unwrap();
    assert!(rig.user.snapshot(snapshot).await.is_ok(), "another executor may have the process now");
    // The next process in that folder sends it.
    run(&rig, dirs).await;
    let there = rig.cfs().list("/other/unsent").await.unwrap().files;
    assert_eq!(there.keys().map(|path| path.to_string()).collect::<Vec<_>>(), ["made"]);
    running.stop().await;
}

/// A file system of ten MiB as file area.
fn small_disk(rig: &Rig) -> SmallDisk {
    let folder = rig.fs("");
    std::fs::create_dir_all(&folder).unwrap();
    SmallDisk::new(&folder)
}

/// Four files of which two find room. The process fails with what a person can do; what is there is whole; the next process, with
/// room, gets all of it.
async fn does_not_fit(tree: &str) {
    let rig = Rig::new().await;
    let disk = small_disk(&rig);
    rig.write("src", "small", "small");
    let content = |n: usize| char::from(b'a' + n as u8).to_string().repeat(4 << 20);
    for n in 0..4 {
        rig.write(tree, &format!("large{n}"), &content(n));
    }
    let running = rig.start();
    let folder = rig.fs(if tree == "src" { "pollinator/p/snapshot/src" } else { "pollinator/p/data" });
    let id = rig.submit("true", &[]).await;
    let (process, _) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Failed);
    let (said, area) = (&process.errors[0], rig.fs("").display().to_string());
    let area = area.trim_end_matches('/');
    assert!(said.starts_with("the files could not be brought in: "), "{said}");
    assert!(said.contains(&format!("no space left for {area}/pollinator/p/")), "{said}");
    assert!(said.contains(&format!("make room on the disk of the executor's file area {area}, or let")), "{said}");
    // What is given up may take a moment to be tidied away.
    let is_whole = |name: &String| name == "small" || (name.starts_with("large") && size(&folder.join(name)) == 4 << 20);
    until("nothing half-made has a name", || names(&folder).iter().all(is_whole)).await;
    assert!(names(&folder).iter().filter(|name| name.starts_with("large")).count() < 4);
    disk.enlarge();
    let id = rig.user.submit(&process.spec).await.unwrap().processid;
    let (process, _) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    for n in 0..4 {
        assert!(read(folder.join(format!("large{n}"))) == content(n), "large{n}");
    }
    running.stop().await;
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

#[tokio::test]
async fn a_snapshot_that_does_not_fit_fails_the_process_and_comes_when_there_is_room() {
    does_not_fit("src").await;
}

#[tokio::test]
async fn data_that_does_not_fit_fails_the_process_and_comes_when_there_is_room() {
    does_not_fit("data").await;
}

#[tokio::test]
async fn an_old_snapshot_makes_room_for_a_new_one_on_a_full_disk() {
    let rig = Rig::new().await;
    let _disk = small_disk(&rig);
    let running = rig.start();
    let jobs = rig.folder.path().join("executor/jobs");
    let mut earlier: Option<PathBuf> = None;
    for letter in ["a", "b", "c"] {
        rig.write("src", "large", &letter.repeat(6 << 20));
        let folder = run(&rig, |_| ()).await;
        assert!(read(folder.join("large")) == letter.repeat(6 << 20), "{letter}");
        if let Some(earlier) = earlier.replace(folder) {
            assert!(!earlier.exists(), "it had to go");
        }
        // What a process uses does not go: it has ended only when its folder is gone.
        until("it is cleaned up after", || names(&jobs).is_empty()).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn old_snapshots_go_and_those_in_use_stay() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let old = run(&rig, |_| ()).await;
    rig.write("src", "x", "y");
    let go = rig.folder.path().join("go");
    let id =
        rig.submit_with(&format!("echo begun; until test -e {}; do sleep 0.1; done", go.display()), &[], as_projects_do).await;
    let (process, _) = rig.until(&id, "it runs", |_, log| log.contains("begun")).await;
    let used = rig.fs(process.spec.fs.snapshots.as_ref().unwrap()[0].dir.trim_start_matches('/'));
    running.kill();
    // Both were used long ago, as far as anybody knows.
    let db = folders_known(&rig);
    assert_eq!(db.execute("UPDATE folder SET used = 0", []).unwrap(), 4);
    drop(db);
    let running = rig.start();
    // The folder that is named after it goes last.
    let named = old.parent().unwrap();
    until("the old one is gone", || !named.exists()).await;
    assert!(used.join("x").exists());
    std::fs::write(&go, "").unwrap();
    assert_eq!(rig.ended(&id).await.0.state, ProcessState::Success);
    running.stop().await;
}

#[tokio::test]
async fn a_store_that_is_gone_for_a_while_is_waited_for() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let (proxy, through) = behind_proxy(&rig).await;
    proxy.limit(Limit::Cut(0));
    let running = rig.start_with(through);
    let id = rig.submit("cat snapshot/src/x", &[]).await;
    rig.until(&id, "it is taken", |process, _| process.state == ProcessState::Running).await;
    proxy.limit(Limit::None);
    let (process, log) = rig.ended(&id).await;
    assert_eq!((process.state, log.as_str()), (ProcessState::Success, "x"), "{:?}", process.errors);
    running.stop().await;
}
