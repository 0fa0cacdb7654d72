//! What comes down: only what is not here, a large file in ranges that are taken up again, and what is stored read back.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod chaos;
#[path = "common/count_proxy.rs"]
mod count_proxy;
mod lab;
#[path = "common/noise.rs"]
mod noise;
#[path = "common/sides.rs"]
mod sides;

use axum::http::Method;
use axum::http::StatusCode;
use count_proxy::CountProxy;
use count_proxy::Limit;
use lab::Lab;
use pollinator::cfs;
use pollinator::config::StoreAccess;
use pollinator::event::Events;
use pollinator::event::Tree;
use pollinator::index::RelPath;
use pollinator::store::Metadata;
use pollinator::store::Patience;
use pollinator::store::Store;
use sides::Colony;
use sides::Side;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Stdio;

const MIB: u64 = 1 << 20;
/// Bytes of a large object of these tests: eight ranges.
const SIZE: u64 = 128 * MIB;
/// What may travel twice: four ranges under way when all broke, and headers.
const TWICE: u64 = 64 * MIB + MIB;

fn path(text: &str) -> RelPath {
    RelPath::parse(text).unwrap()
}

/// A machine whose object store is reached through a proxy, and which gives up at the first failure.
async fn behind_proxy(colony: &Colony, name: &str) -> (Side, CountProxy) {
    let proxy = CountProxy::start(&colony.store.endpoint).await;
    let mut side = colony.side(name);
    side.cfs.store = store_at(&colony.store, &proxy.address);
    (side, proxy)
}

fn store_at(access: &StoreAccess, endpoint: &str) -> Store {
    let access = StoreAccess { endpoint: endpoint.into(), ..access.clone() };
    Store::with_patience(&access, Patience { attempts: 1, ..Patience::default() }).unwrap()
}

/// A number that is another one in each run; it is printed, and shown where the test fails.
#[allow(clippy::print_stdout)]
fn random(below: u64) -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    let number = u64::from_le_bytes(bytes) % below;
    println!("random: {number} of {below}");
    number
}

/// Temporary files below the tree.
fn unfinished(side: &Side, tree: Tree) -> Vec<PathBuf> {
    let names = std::fs::read_dir(side.root(tree)).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.file_name().unwrap().to_str().unwrap().contains(".pollinator-")).collect()
}

/// Where a network is lost or a program killed: far enough that nearly half is whole, wherever it is.
fn far() -> u64 {
    SIZE * 3 / 4 + random(SIZE / 5)
}

/// A large file that came in part.
async fn cut_off(colony: &Colony, content: &[u8]) -> (Side, Side, CountProxy) {
    let here = colony.side("here");
    here.write(Tree::Data, "large", content);
    here.sync(Tree::Data).await;
    let (there, proxy) = behind_proxy(colony, "there").await;
    proxy.limit(Limit::Cut(far()));
    there.try_sync(Tree::Data).await.unwrap_err();
    assert!(!there.path(Tree::Data, "large").exists());
    assert_eq!(unfinished(&there, Tree::Data).len(), 1);
    proxy.limit(Limit::None);
    (here, there, proxy)
}

#[track_caller]
fn is_whole(side: &Side, content: &[u8]) {
    assert!(std::fs::read(side.path(Tree::Data, "large")).unwrap() == content, "other bytes came");
    assert!(unfinished(side, Tree::Data).is_empty());
    assert!(side.journal.downloads().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_here_under_another_name_is_not_fetched() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    let (there, proxy) = behind_proxy(&colony, "there").await;
    here.write(Tree::Data, "a", noise::bytes(100_000));
    here.write(Tree::Data, "sub/double of a", std::fs::read(here.path(Tree::Data, "a")).unwrap());
    here.write(Tree::Data, "tool.sh", "#!/bin/sh\n");
    here.chmod(Tree::Data, "tool.sh", 0o755);
    for (name, text) in [("log.1", "3"), ("log.2", "2"), ("log.3", "1")] {
        here.write(Tree::Data, name, text);
    }
    here.sync(Tree::Data).await;
    // Each content comes once.
    let report = there.sync(Tree::Data).await;
    assert_eq!((report.downloaded, report.copied, proxy.gets()), ((6, 100_013), (1, 100_000), 5));
    // Renamed, copied, rotated, swapped, and one new file.
    here.write(Tree::Data, "bin/tool.sh", "#!/bin/sh\n");
    here.chmod(Tree::Data, "bin/tool.sh", 0o755);
    here.remove(Tree::Data, "tool.sh");
    here.write(Tree::Data, "copy of a", std::fs::read(here.path(Tree::Data, "a")).unwrap());
    for (name, text) in [("log.1", "4"), ("log.2", "3"), ("log.3", "2")] {
        here.write(Tree::Data, name, text);
    }
    here.sync(Tree::Data).await;
    let (gets, report) = (proxy.gets(), there.sync(Tree::Data).await);
    assert_eq!((report.downloaded, report.copied.0, proxy.gets() - gets), ((5, 1), 4, 1));
    assert_eq!(there.content(Tree::Data), here.content(Tree::Data));
    assert_eq!(there.mode(Tree::Data, "bin/tool.sh"), 0o755);
    // Other trees count, too, as long as they hold what they held.
    here.write(Tree::Result, "from data", std::fs::read(here.path(Tree::Data, "a")).unwrap());
    here.write(Tree::Result, "old log", "2");
    here.sync(Tree::Result).await;
    there.write(Tree::Data, "log.3", "X");
    let (gets, report) = (proxy.gets(), there.sync(Tree::Result).await);
    assert_eq!((report.downloaded, proxy.gets() - gets), ((2, 1), 1));
    assert_eq!(there.content(Tree::Result), here.content(Tree::Result));
    for tree in [Tree::Data, Tree::Result] {
        assert!(unfinished(&there, tree).is_empty());
    }
}

#[tokio::test]
async fn files_that_change_places_are_not_fetched() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    let (there, proxy) = behind_proxy(&colony, "there").await;
    here.write(Tree::Data, "x", "first");
    here.write(Tree::Data, "y", "second");
    here.write(Tree::Data, "file", "below");
    here.sync(Tree::Data).await;
    there.sync(Tree::Data).await;
    here.write(Tree::Data, "x", "second");
    here.write(Tree::Data, "y", "first");
    // The removed file stands where a folder is to be, and its content is wanted in it.
    here.remove(Tree::Data, "file");
    here.write(Tree::Data, "file/now", "below");
    here.sync(Tree::Data).await;
    let (gets, report) = (proxy.gets(), there.sync(Tree::Data).await);
    assert_eq!((report.downloaded, report.copied.0, proxy.gets() - gets), ((3, 0), 3, 0));
    assert_eq!(there.content(Tree::Data), here.content(Tree::Data));
    assert!(there.sync(Tree::Data).await.plan.is_empty());
}

#[tokio::test]
async fn a_large_file_is_taken_up_where_the_connection_was_cut() {
    let (colony, content) = (Colony::start().await, noise::bytes(SIZE as usize));
    let (_here, there, proxy) = cut_off(&colony, &content).await;
    let before = proxy.bytes();
    let report = there.sync(Tree::Data).await;
    is_whole(&there, &content);
    assert!(proxy.bytes() <= SIZE + TWICE, "{} bytes travelled for {SIZE}", proxy.bytes());
    let after = proxy.bytes() - before;
    assert!(report.downloaded.1 <= after && report.downloaded.1 <= SIZE * 3 / 4, "{:?} of {after}", report.downloaded);
    assert!(there.sync(Tree::Data).await.plan.is_empty());
}

#[tokio::test]
async fn damage_to_what_had_come_is_noticed_and_costs_one_more_journey() {
    let (colony, content) = (Colony::start().await, noise::bytes(SIZE as usize));
    let (_here, there, _proxy) = cut_off(&colony, &content).await;
    let begun = there.journal.downloads().unwrap().remove(0);
    assert_eq!(unfinished(&there, Tree::Data), vec![begun.file.clone()]);
    let (_, ranges) = there.journal.download(&begun.file).unwrap().unwrap();
    let (first, past) = *ranges.first().unwrap();
    let at = first + random(past - first);
    let file = std::fs::File::options().write(true).open(&begun.file).unwrap();
    file.write_all_at(&[!content[at as usize]], at).unwrap();
    let report = there.sync(Tree::Data).await;
    is_whole(&there, &content);
    assert!(report.downloaded.1 > SIZE, "it was not fetched anew: {:?}", report.downloaded);
}

#[tokio::test]
async fn what_was_begun_and_is_not_wanted_any_more_is_cleaned_away() {
    let (colony, content) = (Colony::start().await, noise::bytes(SIZE as usize));
    let (here, there, _proxy) = cut_off(&colony, &content).await;
    // Another tree has nothing to do with it.
    let begun = unfinished(&there, Tree::Data).remove(0);
    there.sync(Tree::Result).await;
    assert!(begun.exists());
    here.write(Tree::Data, "large", "small now");
    here.sync(Tree::Data).await;
    there.sync(Tree::Data).await;
    is_whole(&there, b"small now");
}

#[tokio::test]
async fn a_damaged_object_does_not_become_a_file() {
    let (colony, content) = (Colony::start().await, noise::bytes(40 << 20));
    let (here, there) = (colony.side("here"), colony.side("there"));
    here.write(Tree::Data, "large", &content);
    here.write(Tree::Data, "fine", "fine");
    here.sync(Tree::Data).await;
    let object = here.remote(Tree::Data).await.files[&path("large")].object.clone();
    let mut damaged = content.clone();
    damaged[33 << 20] ^= 1;
    put(&here.cfs.store, &object, &damaged).await;
    for problem in ["are not what was registered", "the object in the store has 3 bytes"] {
        let report = there.try_sync(Tree::Data).await.unwrap();
        assert_eq!((report.downloaded.0, report.problems.len()), (u64::from(!problem.contains("3 bytes")), 1));
        assert!(report.problems[0].0 == "large" && report.problems[0].1.contains(problem), "{:?}", report.problems);
        assert!(unfinished(&there, Tree::Data).is_empty() && there.journal.downloads().unwrap().is_empty());
        put(&here.cfs.store, &object, b"bad").await;
    }
    here.cfs.store.delete(&object).await.unwrap();
    let report = there.try_sync(Tree::Data).await.unwrap();
    assert!(report.problems[0].1.contains("no longer in the object store"), "{:?}", report.problems);
}

#[tokio::test]
async fn an_object_that_is_replaced_on_the_way_is_not_mixed_with_the_other() {
    let (colony, content) = (Colony::start().await, noise::bytes(SIZE as usize));
    let (here, there, proxy) = cut_off(&colony, &content).await;
    let object = here.remote(Tree::Data).await.files[&path("large")].object.clone();
    let other: Vec<u8> = content.iter().map(|byte| !byte).collect();
    // Between two synchronizations: what had come is of no use, and the other content is not what is registered.
    put(&here.cfs.store, &object, &other).await;
    let report = there.try_sync(Tree::Data).await.unwrap();
    assert!(report.problems[0].1.contains("are not what was registered"), "{:?}", report.problems);
    assert!(unfinished(&there, Tree::Data).is_empty());
    // While it comes: early, so that some ranges are not asked for yet.
    proxy.limit(Limit::Hold(proxy.bytes() + SIZE / 4));
    let (report, ()) = tokio::join!(there.try_sync(Tree::Data), async {
        proxy.reached().await;
        put(&here.cfs.store, &object, &content).await;
        proxy.limit(Limit::None);
    });
    let report = report.unwrap();
    assert!(report.problems[0].1.contains("was replaced in the store"), "{:?}", report.problems);
    assert!(unfinished(&there, Tree::Data).is_empty());
    there.sync(Tree::Data).await;
    is_whole(&there, &content);
}

async fn put(store: &Store, key: &str, content: &[u8]) {
    store.put(key, content, content.len() as u64, &Metadata::new(), &|_| ()).await.unwrap();
}

/// A server of one object that gives it whole, whatever is asked.
async fn without_ranges(content: Vec<u8>) -> String {
    let content = bytes::Bytes::from(content);
    let answer = move |method: Method| async move {
        let headers = [
            ("etag", "\"tag\"".to_owned()),
            ("content-length", content.len().to_string()),
            ("x-amz-meta-pollinator-mode", "700".into()),
        ];
        let body = if method == Method::HEAD { bytes::Bytes::new() } else { content.clone() };
        (StatusCode::OK, headers, body)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await.unwrap() });
    address
}

#[tokio::test]
async fn a_server_that_knows_no_ranges_serves_as_well() {
    let (colony, content) = (Colony::start().await, noise::bytes(40 << 20));
    let (here, mut there) = (colony.side("here"), colony.side("there"));
    here.write(Tree::Data, "large", &content);
    here.sync(Tree::Data).await;
    there.cfs.store = store_at(&colony.store, &without_ranges(content.clone()).await);
    there.sync(Tree::Data).await;
    is_whole(&there, &content);
    assert_eq!(there.mode(Tree::Data, "large"), 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_no_finished_range_comes_again() {
    let (host, content) = (Lab::new(), noise::bytes(SIZE as usize));
    let here = host.project("p", "print()\n");
    std::fs::write(here.join("cfs/data/large"), &content).unwrap();
    host.run_in(&here, ["sync"]).expect_code(0);
    let colony = chaos::Colony::of(&host);
    let proxy = CountProxy::start(&colony.variables["AWS_S3_ENDPOINT"]).await;
    let colony = colony.with("AWS_S3_ENDPOINT", &proxy.address);
    let machine = Lab::new();
    let there = machine.project("p", "print()\n");
    proxy.limit(Limit::Hold(far()));
    let mut command = colony.command(&machine, &there, ["sync", "data"]);
    let mut child = chaos::Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    proxy.reached().await;
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    assert!(!there.join("cfs/data/large").exists());
    proxy.limit(Limit::None);
    let ended = lab::finish(colony.command(&machine, &there, ["sync", "data"])).expect_code(0);
    assert!(std::fs::read(there.join("cfs/data/large")).unwrap() == content, "{}", ended.all());
    assert_eq!(std::fs::read_dir(there.join("cfs/data")).unwrap().count(), 1);
    assert!(proxy.bytes() <= SIZE + TWICE, "{} bytes travelled for {SIZE}", proxy.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_lists_what_is_damaged_and_sends_it_again() {
    let lab = Lab::new();
    let folder = lab.project("p", "print()\n");
    for (name, text) in [("whole", "1"), ("damaged", "22"), ("empty", "")] {
        std::fs::write(folder.join("cfs/data").join(name), text).unwrap();
    }
    let ended = lab.run_in(&folder, ["sync", "--verify"]).expect_code(0);
    assert!(ended.stderr.contains("data: 2 stored files read back, all as registered"), "{}", ended.stderr);
    let cfs = chaos::Colony::of(&lab).cfs();
    let listed = cfs.list("/pollinator/p/data").await.unwrap();
    put(&cfs.store, &listed.files[&path("damaged")].object, b"2X").await;
    lab.run_in(&folder, ["sync"]).expect_code(0);
    let ended = lab.run_in(&folder, ["sync", "--verify", "data"]).expect_code(1);
    let told = ended.stderr.lines().find(|line| line.contains("data/damaged")).unwrap();
    assert!(told.contains("are not what was registered") && told.contains("was sent again"), "{told}");
    assert!(!ended.stderr.contains("data/whole"), "{}", ended.stderr);
    let ended = lab.run_in(&folder, ["sync", "--verify", "data"]).expect_code(0);
    assert!(!ended.all().contains("ploaded"), "{}", ended.all());
    lab.run_in(&folder, ["sync", "--verify", "--dry-run"]).expect_code(2);
}

#[tokio::test]
async fn verify_says_what_cannot_be_mended_here() {
    let colony = Colony::start().await;
    let (here, there) = (colony.side("here"), colony.side("there"));
    let texts = [("damaged", "1"), ("gone", "2"), ("edited", "3"), ("fine", "4")];
    for (name, text) in texts {
        here.write(Tree::Data, name, text);
        here.chmod(Tree::Data, name, 0o750);
    }
    here.sync(Tree::Data).await;
    there.sync(Tree::Data).await;
    let files = here.remote(Tree::Data).await.files;
    put(&here.cfs.store, &files[&path("damaged")].object, b"X").await;
    put(&here.cfs.store, &files[&path("edited")].object, b"3 and more").await;
    here.cfs.store.delete(&files[&path("gone")].object).await.unwrap();
    there.write(Tree::Data, "edited", "mine");
    let before = std::fs::metadata(there.path(Tree::Data, "edited")).unwrap().modified().unwrap();
    let report =
        cfs::verify(&there.cfs, &there.index, &there.journal, &there.options(Tree::Data), &Events::none()).await.unwrap();
    assert_eq!((report.sound, report.sent_again), (1, 2));
    let problems: BTreeMap<_, _> = report.problems.into_iter().collect();
    assert_eq!(problems.keys().map(String::as_str).collect::<Vec<_>>(), ["damaged", "edited", "gone"]);
    assert!(problems["damaged"].contains("was sent again") && problems["gone"].contains("no longer in the object store"));
    assert!(problems["edited"].contains("whoever has it must bring it again"), "{}", problems["edited"]);
    // Nothing was written here, and what was sent again comes down with its permission bits.
    assert_eq!(std::fs::metadata(there.path(Tree::Data, "edited")).unwrap().modified().unwrap(), before);
    let third = colony.side("third");
    let report = third.try_sync(Tree::Data).await.unwrap();
    assert_eq!((report.downloaded.0, report.problems.len()), (3, 1), "{:?}", report.problems);
    assert_eq!(third.mode(Tree::Data, "gone"), 0o750);
    // The snapshot of a run must not be one that lists the damaged object.
    let last_removal = there.sync(Tree::Data).await.last_removal;
    assert!(last_removal > 0);
}

#[tokio::test]
async fn verify_ends_where_nobody_answers() {
    let colony = Colony::start().await;
    let here = colony.side("here");
    here.write(Tree::Data, "f", "1");
    here.sync(Tree::Data).await;
    let (mut lost, proxy) = behind_proxy(&colony, "lost").await;
    proxy.limit(Limit::Cut(0));
    lost.cfs.client = here.cfs.client.clone();
    let error = cfs::verify(&lost.cfs, &lost.index, &lost.journal, &lost.options(Tree::Data), &Events::none()).await.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
}
