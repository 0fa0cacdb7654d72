//! What `gc` removes, and above all what it does not.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod chaos;
#[path = "common/cleaning.rs"]
mod cleaning;
mod lab;
#[path = "common/raw_s3.rs"]
mod raw_s3;
#[path = "common/sides.rs"]
mod sides;

use cleaning::Yard;
use cleaning::clean;
use cleaning::names;
use cleaning::options;
use lab::Lab;
use lab::until;
use pollinator::cfs;
use pollinator::cfs::Cfs;
use pollinator::cfs::ReclaimOptions;
use pollinator::colonies::File;
use pollinator::event::Tree;
use pollinator::store::Metadata;
use raw_s3::Call;
use raw_s3::Raw;
use sides::Colony;
use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// How many random histories are lived through, and how long they are.
const HISTORIES: u64 = 4;
const STEPS: u32 = 40;

async fn put(cfs: &Cfs, key: &str) {
    cfs.store.put_bytes(key, bytes::Bytes::from_static(b"x"), &Metadata::new(), &|_| ()).await.unwrap();
}

async fn keys(cfs: &Cfs) -> BTreeSet<String> {
    cfs.store.list("").await.unwrap().into_iter().map(|(key, _)| key).collect()
}

fn hex_key(project: &str, digit: char) -> String {
    format!("pollinator/{project}/{}", digit.to_string().repeat(64))
}

#[tokio::test]
async fn through_any_history_nothing_needed_goes_and_in_the_end_all_else_has_gone() {
    let first = std::env::var("POLLINATOR_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let first: u64 = first.unwrap_or_else(|| u64::from(std::process::id()) * 1000);
    for seed in first..first + HISTORIES {
        println!("POLLINATOR_TEST_SEED={seed}");
        let colony = Colony::start().await;
        let mut yard = Yard::new(&colony, seed);
        for _ in 0..STEPS {
            yard.step().await;
            yard.expect_nothing_broken().await;
        }
        yard.expect_clean_at_the_end().await;
    }
}

#[tokio::test]
async fn what_is_of_others_stays() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    let cfs = &here.cfs;
    here.write(Tree::Src, "main.py", "1");
    here.sync(Tree::Src).await;
    here.write(Tree::Src, "main.py", "2");
    here.sync(Tree::Src).await;
    // Projects whose names are the beginning of this one's or match it, each with something replaced.
    for (number, name) in ["p2", "P", "p_", "p%", "pp", "p.q"].into_iter().enumerate() {
        let side = colony.side_of(&format!("side{number}"), name);
        for text in ["1", "2"] {
            side.write(Tree::Src, "main.py", text);
            side.sync(Tree::Src).await;
        }
        let label = side.label(Tree::Src);
        cfs.client.create_snapshot(&label, &format!("pollinator-{number}")).await.unwrap();
    }
    let odd = ["pollinator/p/notes.txt", "pollinator/p/sub/x", "pollinator/px", "other/x", "x"].map(str::to_owned);
    let strange =
        [hex_key("p/sub", 'a'), hex_key("p2", 'b'), hex_key("P", 'c'), hex_key("p", 'G'), format!("{}0", hex_key("p", 'd'))];
    for key in odd.iter().chain(&strange) {
        put(cfs, key).await;
    }
    // A row of another client: its object lies elsewhere, and it was replaced.
    let theirs = |object: &str| {
        let mut file = File { label: "/pollinator/p/src".into(), name: "theirs".into(), size: 1, ..File::default() };
        file.reference.s3object.object = object.into();
        file.reference.s3object.bucket = cfs.store.access().bucket.clone();
        file.colonyname = cfs.client.colony().into();
        file
    };
    for object in ["x", "other/x", ""] {
        cfs.client.add_file(&theirs(object)).await.unwrap();
    }
    // Snapshots that somebody else made, of a label above and of ours.
    for (label, name) in [("/pollinator/p/src", "mine"), ("/pollinator", "pollinator-all")] {
        cfs.client.create_snapshot(label, name).await.unwrap();
    }
    let (before, snapshots) = (keys(cfs).await, cfs.client.snapshots().await.unwrap().len());
    let report = clean(cfs, &options("p")).await;
    assert!(report.problems.is_empty() && report.notes.is_empty(), "{report:?}");
    assert_eq!((report.snapshots.len(), report.revisions.len(), report.objects.len()), (0, 1, 1), "{report:?}");
    let gone: BTreeSet<String> = before.difference(&keys(cfs).await).cloned().collect();
    assert_eq!(gone, names(&report.objects));
    assert_eq!(cfs.client.snapshots().await.unwrap().len(), snapshots);
    assert_eq!(cfs.client.file_revisions("/pollinator/p/src", "theirs").await.unwrap().len(), 3);
    assert_eq!(cfs.client.file_revisions("/pollinator/p2/src", "main.py").await.unwrap().len(), 2);
    // The wildcards of a name find nothing of others.
    for name in ["p_", "p%"] {
        let report = clean(cfs, &options(name)).await;
        assert!(report.snapshots.iter().chain(&report.objects).count() == 2, "{report:?}");
        assert!(report.objects[0].name.starts_with(&format!("pollinator/{name}/")), "{report:?}");
    }
}

#[tokio::test]
async fn two_colonies_in_one_bucket_do_not_take_each_others_objects() {
    let (one, other) = (Colony::start().await, Colony::start().await);
    let (here, mut there) = (one.side("here"), other.side("there"));
    there.cfs.store = here.cfs.store.clone();
    for side in [&here, &there] {
        for text in ["old", "new"] {
            side.write(Tree::Data, "a", text);
            side.sync(Tree::Data).await;
        }
    }
    put(&here.cfs, &hex_key("p", 'e')).await;
    let report = clean(&here.cfs, &options("p")).await;
    // What its own row named goes; what nobody here knows may be theirs.
    assert_eq!((report.revisions.len(), report.objects.len()), (1, 1));
    assert!(report.notes[0].contains("another colony"), "{report:?}");
    assert_eq!(there.verified(Tree::Data).await["a"], b"new");
    for revision in there.cfs.client.file_revisions("/pollinator/p/data", "a").await.unwrap() {
        assert!(there.cfs.store.head(&revision.reference.s3object.object).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_dry_run_says_the_same_and_changes_nothing() {
    let colony = Colony::start().await;
    let mut yard = Yard::new(&colony, 7);
    for _ in 0..60 {
        yard.grow().await;
    }
    yard.end_runs().await;
    let cfs = colony.cfs();
    let state = async || (keys(&cfs).await, cfs.client.snapshots().await.unwrap().len(), cfs.client.labels("").await.unwrap());
    let before = state().await;
    let told = clean(&cfs, &ReclaimOptions { dry_run: true, ..options("p") }).await;
    assert_eq!(before, state().await);
    assert!(told.dry_run && !told.objects.is_empty() && !told.snapshots.is_empty() && !told.revisions.is_empty(), "{told:?}");
    let done = clean(&cfs, &options("p")).await;
    assert_eq!(cfs::Reclaimed { dry_run: false, ..told }, done);
    assert_ne!(before, state().await);
    let nothing = clean(&cfs, &options("p")).await;
    assert_eq!(nothing, cfs::Reclaimed::default());
}

#[tokio::test]
async fn unfinished_uploads_go_when_they_are_old_and_nobody_works_on_them() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    here.write(Tree::Src, "main.py", "1");
    here.sync(Tree::Src).await;
    let raw = Raw::new(&colony.store);
    let all = [hex_key("p", 'a'), hex_key("p", 'a'), hex_key("p", 'b'), hex_key("p2", 'c'), "pollinator/p/notes".into()];
    for key in &all {
        let path = format!("/{}/{key}", colony.store.bucket);
        let begun = raw.send(Call { method: "POST", path: &path, query: &[("uploads", "")], ..Call::EMPTY }).await;
        assert_eq!(begun.status, 200, "{}", begun.text());
    }
    let there = async || here.cfs.store.unfinished("").await.unwrap().into_iter().map(|u| u.key).collect::<Vec<_>>();
    let day = ReclaimOptions { older_than: jiff::SignedDuration::from_hours(24), ..options("p") };
    assert_eq!(clean(&here.cfs, &day).await.uploads, []);
    assert_eq!(there().await.len(), 5);
    let spared = BTreeSet::from([all[2].clone()]);
    let report = cfs::reclaim(&here.cfs, &options("p"), &spared).await.unwrap();
    assert_eq!(report.uploads.len(), 2);
    assert_eq!(there().await, [all[2].clone(), all[4].clone(), all[3].clone()]);
    // An object that an upload of ours has finished, but not registered.
    put(&here.cfs, &all[2]).await;
    let report = cfs::reclaim(&here.cfs, &options("p"), &spared).await.unwrap();
    assert_eq!(report.objects, []);
    let report = clean(&here.cfs, &options("p")).await;
    assert_eq!((names(&report.objects), report.uploads.len()), ([all[2].clone()].into(), 1));
}

#[tokio::test]
async fn a_listing_of_uploads_is_read_page_by_page() {
    let colony = Colony::start().await;
    let cfs = colony.cfs();
    cfs.store.ensure_bucket().await.unwrap();
    let raw = Raw::new(&colony.store);
    let begin = async |number: u32| {
        // Several of one key stand on both sides of the page's end.
        let path = format!("/{}/pollinator/p/{:064x}", colony.store.bucket, number / 7);
        let reply = raw.send(Call { method: "POST", path: &path, query: &[("uploads", "")], ..Call::EMPTY }).await;
        assert_eq!(reply.status, 200);
    };
    for number in 0..1005 {
        begin(number).await;
    }
    let all = cfs.store.unfinished("pollinator/p/").await.unwrap();
    let ids: BTreeSet<&String> = all.iter().map(|upload| &upload.id).collect();
    assert_eq!((all.len(), ids.len()), (1005, 1005));
}

#[tokio::test]
async fn where_not_all_processes_are_known_no_snapshot_and_no_revision_goes() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    let mut snapshots = Vec::new();
    for text in ["1", "2"] {
        here.write(Tree::Src, "main.py", text);
        let report = here.sync(Tree::Src).await;
        snapshots.push(cfs::snapshot(&here.cfs, &here.label(Tree::Src), &report, None).await.unwrap());
    }
    put(&here.cfs, &hex_key("p", 'a')).await;
    let mut processes = Vec::new();
    for _ in 0..100 {
        processes.push(cleaning::submit(&here, &snapshots[1]).await.processid);
    }
    let report = clean(&here.cfs, &options("p")).await;
    assert!(report.snapshots.is_empty() && report.revisions.is_empty(), "{report:?}");
    assert!(report.notes[0].contains("more processes than"), "{report:?}");
    assert_eq!(names(&report.objects), [hex_key("p", 'a')].into());
    here.cfs.client.cancel(&processes[0]).await.unwrap();
    let report = clean(&here.cfs, &options("p")).await;
    assert_eq!((report.snapshots.len(), report.revisions.len(), report.objects.len()), (1, 1, 1), "{report:?}");
    assert_eq!(report.snapshots[0].name, snapshots[0].name);
}

#[tokio::test]
async fn a_colony_that_lost_its_files_loses_no_objects() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    here.write(Tree::Data, "a", "1");
    here.sync(Tree::Data).await;
    here.cfs.client.remove_file("/pollinator/p/data", "a").await.unwrap();
    let before = keys(&here.cfs).await;
    for dry_run in [true, false] {
        let error = cfs::reclaim(&here.cfs, &ReclaimOptions { dry_run, ..options("p") }, &BTreeSet::new()).await.unwrap_err();
        assert!(matches!(error, cfs::Error::NothingRegistered { objects: 1, .. }) && error.hint().is_some(), "{error}");
    }
    assert_eq!(before, keys(&here.cfs).await);
    let report = clean(&here.cfs, &ReclaimOptions { allow_deletes: true, ..options("p") }).await;
    assert_eq!(report.objects.len(), 1);
    // A project that nobody ever brought over has nothing to be removed.
    assert_eq!(clean(&here.cfs, &options("unknown")).await, cfs::Reclaimed::default());
}

#[tokio::test]
async fn one_object_that_cannot_be_removed_is_listed_and_blocks_no_other() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    for text in ["1", "2", "3"] {
        here.write(Tree::Data, "a", text);
        here.sync(Tree::Data).await;
    }
    let oldest = here.cfs.client.file_revisions("/pollinator/p/data", "a").await.unwrap().pop().unwrap();
    let kept = oldest.reference.s3object.object;
    let proxy = cleaning::refusing(&colony.store, &kept).await;
    let through = Cfs { store: proxy, ..here.cfs.clone() };
    let report = clean(&through, &options("p")).await;
    assert_eq!((report.revisions.len(), report.objects.len(), report.problems.len()), (2, 1, 1), "{report:?}");
    assert!(report.problems[0].0 == kept && report.problems[0].1.contains("AccessDenied"), "{report:?}");
    let report = clean(&here.cfs, &options("p")).await;
    assert_eq!(names(&report.objects), [kept].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_machines_bring_and_clean_up_meanwhile_is_safe() {
    // Far more than it takes to store and register a file, and not too much to wait for.
    let old = ReclaimOptions { older_than: jiff::SignedDuration::from_secs(8), ..options("p") };
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    let removed = AtomicUsize::new(0);
    let enough = || removed.load(Ordering::SeqCst) > 60;
    let end = Instant::now() + lab::PATIENCE;
    let cleaning = async || {
        while !enough() {
            assert!(Instant::now() < end, "only {removed:?} objects went");
            let report = clean(&here.cfs, &old).await;
            assert!(report.problems.is_empty(), "{report:?}");
            removed.fetch_add(report.objects.len(), Ordering::SeqCst);
        }
    };
    let working = async || {
        let mut number = 0;
        while !enough() {
            number += 1;
            for name in ["a", "b", "sub/c"] {
                there.write(Tree::Src, name, format!("{number} {name}"));
            }
            let report = there.sync(Tree::Src).await;
            let snapshot = cfs::snapshot(&there.cfs, &there.label(Tree::Src), &report, None).await.unwrap();
            let process = cleaning::submit(&there, &snapshot).await;
            let tree = there.cfs.snapshot_tree(&snapshot.snapshotid, &snapshot.label).await.unwrap();
            assert!(tree.problems.is_empty() && tree.files.len() == 3, "{tree:?}");
            assert_eq!(there.verified(Tree::Src).await.len(), 3);
            there.cfs.client.cancel(&process.processid).await.unwrap();
        }
    };
    tokio::join!(cleaning(), cleaning(), working());
    assert_eq!(there.verified(Tree::Src).await.len(), 3);
}

#[test]
fn a_run_that_is_under_way_ends_well_and_the_next_one_too() {
    let lab = Lab::new();
    let job = "import os, time\nresult = os.environ['PROJECT_DIR'] + '/result/'\nopen(result + 'begun', 'w').close()\n\
               go = os.environ['GO']\nwhile not os.path.exists(go):\n    time.sleep(0.02)\n\
               open(result + 'out.txt', 'w').write('one')\n";
    let go = lab.home().join("go");
    let project = lab.project("p", &job.replace("os.environ['GO']", &format!("{:?}", go.to_str().unwrap())));
    let mut command = lab.command(["run", "--follow"]);
    let running = command.current_dir(&project).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let process = || lab.run_in(&project, ["runs", "--json"]).json();
    until("the job runs", || process()[0]["state"] == "running");
    // The tree it runs is not the one that is here any more.
    fs::write(
        project.join("cfs/src/main.py"),
        "import os\nopen(os.environ['PROJECT_DIR'] + '/result/out.txt', 'w').write('two')\n",
    )
    .unwrap();
    lab.run_in(&project, ["sync"]).expect_code(0);
    let report = lab.run_in(&project, ["gc", "--older-than", "0s", "--keep", "0", "--json"]).expect_code(0).json();
    assert_eq!(report["snapshots"].as_array().unwrap().len(), 0, "{report}");
    // What has no row may be about to get it from the executor.
    let (cfs, stray) = (chaos::Colony::of(&lab).cfs(), hex_key("p", 'a'));
    chaos::wait_for(put(&cfs, &stray));
    let report = lab.run_in(&project, ["gc", "--older-than", "0s", "--json"]).expect_code(0).json();
    assert_eq!(report["objects"].as_array().unwrap().len(), 0, "{report}");
    fs::write(&go, "").unwrap();
    lab::wait(running).expect_code(0);
    assert_eq!(fs::read_to_string(project.join("cfs/result/out.txt")).unwrap(), "one");
    let report = lab.run_in(&project, ["gc", "--older-than", "0s", "--keep", "0", "--json"]).expect_code(0).json();
    assert_eq!(report["snapshots"].as_array().unwrap().len(), 1, "{report}");
    assert!(report["objects"].as_array().unwrap().iter().any(|object| object["name"] == stray.as_str()), "{report}");
    lab.run_in(&project, ["run", "--follow"]).expect_code(0);
    assert_eq!(fs::read_to_string(project.join("cfs/result/out.txt")).unwrap(), "two");
}

/// Says that it is over when it is dropped.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn runs_and_gc_at_the_same_time_do_not_harm_each_other() {
    const RUNS: usize = 6;
    let lab = Lab::new();
    let project = lab.project("p", "");
    let over = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let cleaner = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::SeqCst) {
                lab.run_in(&project, ["gc", "--older-than", "0s", "--keep", "0"]).expect_code(0);
                rounds += 1;
            }
            rounds
        });
        // However this ends: the cleaner must not go on for ever.
        let end = Ended(&over);
        for number in 0..RUNS {
            // Every other run is of an unchanged tree, for which a snapshot would serve again.
            let text = number / 2;
            let job = format!("import os\nopen(os.environ['PROJECT_DIR'] + '/result/out.txt', 'w').write('{text}')\n");
            fs::write(project.join("cfs/src/main.py"), job).unwrap();
            fs::write(project.join("cfs/data/input"), number.to_string()).unwrap();
            let ran = lab.run_in(&project, ["run", "--follow"]).expect_code(0);
            let result = fs::read_to_string(project.join("cfs/result/out.txt")).unwrap();
            assert_eq!(result, text.to_string(), "{}", ran.all());
        }
        drop(end);
        cleaner.join().unwrap()
    });
    assert!(rounds >= RUNS, "gc came {rounds} times only");
}

#[test]
fn the_command_says_what_it_does() {
    let lab = Lab::new();
    let project = lab.project("p", "print()\n");
    for text in ["1", "22"] {
        fs::write(project.join("cfs/data/a"), text).unwrap();
        lab.run_in(&project, ["sync"]).expect_code(0);
    }
    lab.run_in(&project, ["run", "--follow"]).expect_code(0);
    let young = lab.run_in(&project, ["gc"]).expect_code(0);
    assert_eq!(young.stdout, "nothing to remove\n");
    let told = lab.run_in(&project, ["gc", "--older-than", "0s", "--dry-run", "-v"]).expect_code(0).stdout;
    assert!(told.contains("replaced revisions: 1\n") && told.contains("- /pollinator/p/data/a ("), "{told}");
    assert!(told.contains("\nobjects: 1 (1 B)\n") && told.ends_with("this would be removed; nothing was\n"), "{told}");
    assert!(told.starts_with("snapshots: 0\n"), "{told}");
    let done = lab.run_in(&project, ["gc", "--older-than", "0s", "--keep", "0", "--json"]).expect_code(0).json();
    assert_eq!(done["snapshots"].as_array().unwrap().len(), 1);
    assert_eq!((&done["dry_run"], &done["objects"][0]["bytes"]), (&false.into(), &1.into()));
    for bad in [["gc", "--older-than=soon"], ["gc", "--keep=-1"]] {
        lab.run_in(&project, bad).expect_code(2);
    }
}
