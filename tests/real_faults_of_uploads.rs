//! Uploads to a real S3 server (SeaweedFS) that has faults, over connections that break. Needs `scripts/parts.sh weed`.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the message.

#[path = "common/counting_proxy.rs"]
mod counting_proxy;
#[path = "common/noise.rs"]
mod noise;
#[path = "common/odd_proxy.rs"]
mod odd_proxy;
#[path = "common/sides.rs"]
mod sides;
#[path = "common/weed.rs"]
mod weed;

use counting_proxy::CountingProxy;
use odd_proxy::OddProxy;
use odd_proxy::error;
use pollinator::cfs::Cfs;
use pollinator::config::StoreAccess;
use pollinator::event::Tree;
use pollinator::index::Index;
use pollinator::store::Patience;
use pollinator::store::Store;
use sides::Colony;
use sides::Side;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

const MIB: usize = 1024 * 1024;

/// The one SeaweedFS of this process.
async fn seaweed() -> &'static weed::Weed {
    static SERVER: tokio::sync::OnceCell<weed::Weed> = tokio::sync::OnceCell::const_new();
    SERVER.get_or_init(async || weed::Weed::start("faults").await).await
}

/// A machine whose store is at that address.
async fn side(colony: &Colony, address: &str, project: &str) -> Side {
    let access = StoreAccess { endpoint: address.into(), ..seaweed().await.access().clone() };
    let patience = Patience { stall: Duration::from_secs(20), attempts: 2, ..Patience::default() };
    let mut side = colony.side_of("here", project);
    side.cfs = Cfs { store: Store::with_patience(&access, patience).unwrap(), ..side.cfs };
    side
}

fn overwrite(side: &Side, path: &str, at: usize, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(side.path(Tree::Data, path)).unwrap();
    file.write_all_at(bytes, at as u64).unwrap();
}

/// The colony holds what the folder holds; no unfinished upload is left, and nothing in the journal.
async fn expect_settled(side: &Side) {
    for (path, bytes) in side.verified(Tree::Data).await {
        assert!(std::fs::read(side.path(Tree::Data, &path)).unwrap_or_default() == bytes, "{path}");
    }
    let prefix = format!("pollinator/{}/", side.project);
    assert_eq!(side.cfs.store.unfinished(&prefix).await.unwrap(), []);
    let journal = rusqlite::Connection::open(side.home.join("state/journal.db")).unwrap();
    assert_eq!(journal.query_row("SELECT count(*) FROM upload", [], |row| row.get::<_, u32>(0)).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_at_any_byte_costs_no_finished_part_and_no_truth() {
    let colony = Colony::start().await;
    let proxy = CountingProxy::start(seaweed().await.access().endpoint.clone()).await;
    let here = side(&colony, &proxy.address, "cut").await;
    let mut random = 7u64;
    for round in 0..12 {
        here.write(Tree::Data, "large", noise::bytes(36 * MIB + round));
        for n in 0..5 {
            here.write(Tree::Data, &format!("small-{n}"), noise::bytes(3000 + 10 * n + round));
        }
        for _ in 0..2 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            proxy.cut_after((random >> 33) % (38 * MIB) as u64);
            let cut = here.try_sync(Tree::Data).await;
            let told = cut.as_ref().map_or_else(|error| error.is_unreachable(), |report| report.problems.is_empty());
            assert!(told, "round {round}: {cut:?}");
            proxy.mend();
        }
        here.sync(Tree::Data).await;
        expect_settled(&here).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_copy_parts_is_asked_once() {
    let colony = Colony::start().await;
    let proxy = OddProxy::start(seaweed().await.access().endpoint.clone()).await;
    let here = side(&colony, &proxy.address, "nocopy").await;
    here.write(Tree::Data, "large", noise::bytes(20 * MIB));
    here.sync(Tree::Data).await;
    proxy.rule(|call| (call == "UploadPartCopy").then(|| error(501, "NotImplemented")).flatten());
    for (round, asked) in [(0, true), (1, false)] {
        proxy.count("");
        overwrite(&here, "large", 10 * MIB, format!("round {round}").as_bytes());
        let report = here.sync(Tree::Data).await;
        assert_eq!(report.sent, 20 * MIB as u64, "all of it");
        assert_eq!(proxy.count("UploadPartCopy") > 0, asked, "round {round}");
        expect_settled(&here).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_that_pass_are_waited_out() {
    let colony = Colony::start().await;
    let proxy = OddProxy::start(seaweed().await.access().endpoint.clone()).await;
    let here = side(&colony, &proxy.address, "passing").await;
    let faults = [
        ("PutObject", 503, "SlowDown"),
        ("UploadPart", 500, "InternalError"),
        ("UploadPartCopy", 503, "SlowDown"),
        ("CompleteMultipartUpload", 500, "InternalError"),
        // As S3 tells of what went wrong after it had begun to answer.
        ("CompleteMultipartUpload", 200, "InternalError"),
        ("UploadPartCopy", 200, "InternalError"),
        ("CopyObject", 200, "InternalError"),
    ];
    here.write(Tree::Data, "large", noise::bytes(36 * MIB));
    here.sync(Tree::Data).await;
    for (round, (wrong, status, code)) in faults.into_iter().enumerate() {
        overwrite(&here, "large", (5 * round + 1) * MIB, format!("round {round}").as_bytes());
        here.write(Tree::Data, &format!("small-{round}"), noise::bytes(5000 + round));
        let copy = format!("copy-{round}");
        std::fs::copy(here.path(Tree::Data, "large"), here.path(Tree::Data, &copy)).unwrap();
        let left = Arc::new(AtomicU32::new(1));
        proxy.rule(move |call| {
            let now = call == wrong && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
            if now { error(status, code) } else { None }
        });
        // Once is made good within the synchronization, or by the next one; nothing wrong is ever registered.
        let first = here.try_sync(Tree::Data).await;
        here.verified(Tree::Data).await;
        proxy.mend();
        let second = here.sync(Tree::Data).await;
        assert!(first.is_ok_and(|r| r.problems.is_empty()) || second.uploaded.0 > 0, "{wrong} {status}");
        expect_settled(&here).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_different_sizes_that_are_refused_become_a_whole_upload() {
    let colony = Colony::start().await;
    let proxy = OddProxy::start(seaweed().await.access().endpoint.clone()).await;
    let here = side(&colony, &proxy.address, "uneven").await;
    here.write(Tree::Data, "large", noise::bytes(36 * MIB));
    here.sync(Tree::Data).await;
    overwrite(&here, "large", 18 * MIB, b"changed");
    let left = Arc::new(AtomicU32::new(1));
    proxy.rule(move |call| {
        let now = call == "CompleteMultipartUpload"
            && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if now { error(400, "InvalidPart") } else { None }
    });
    let report = here.sync(Tree::Data).await;
    assert!(report.sent >= 36 * MIB as u64, "{}", report.sent);
    proxy.mend();
    expect_settled(&here).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_that_goes_in_the_middle_is_no_obstacle() {
    let colony = Colony::start().await;
    let proxy = OddProxy::start(seaweed().await.access().endpoint.clone()).await;
    let here = side(&colony, &proxy.address, "goes").await;
    here.write(Tree::Data, "large", noise::bytes(36 * MIB));
    here.sync(Tree::Data).await;
    overwrite(&here, "large", 18 * MIB, b"changed");
    // It is there when it is looked at, and gone when it is copied from.
    proxy.rule(|call| (call == "UploadPartCopy").then(|| error(404, "NoSuchKey")).flatten());
    let report = here.sync(Tree::Data).await;
    assert!(report.sent >= 36 * MIB as u64, "{}", report.sent);
    proxy.mend();
    expect_settled(&here).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_5_a_damaged_index_makes_things_slower_never_wrong() {
    let colony = Colony::start().await;
    let mut here = side(&colony, &seaweed().await.access().endpoint, "index").await;
    for n in 0..20 {
        here.write(Tree::Data, &format!("f{n}"), noise::bytes(3000 + n));
    }
    here.write(Tree::Data, "large", noise::bytes(20 * MIB));
    here.sync(Tree::Data).await;
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.clear(),
        |bytes| bytes.iter_mut().skip(4096).for_each(|byte| *byte ^= 0x5a),
        |bytes| *bytes = b"not a database at all, but longer than a header of one would be, to be sure of it".to_vec(),
    ];
    for (round, damage) in damages.into_iter().enumerate() {
        let state = here.home.join("state");
        // Closed while it is damaged.
        here.index = Index::open(&here.home.join("elsewhere")).unwrap();
        let mut bytes = std::fs::read(state.join("index.db")).unwrap();
        damage(&mut bytes);
        std::fs::write(state.join("index.db"), bytes).unwrap();
        here.index = Index::open(&state).unwrap();
        let unchanged = here.sync(Tree::Data).await;
        assert_eq!((unchanged.uploaded.0, unchanged.downloaded.0), (0, 0), "round {round}");
        here.write(Tree::Data, "f1", format!("round {round}"));
        overwrite(&here, "large", (3 + round) * MIB, format!("round {round}").as_bytes());
        here.sync(Tree::Data).await;
        expect_settled(&here).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_lie_hide_no_change() {
    let colony = Colony::start().await;
    let here = side(&colony, &seaweed().await.access().endpoint, "clock").await;
    let path = |name: &str| here.path(Tree::Data, name);
    let set = |name: &str, time: std::time::SystemTime| {
        std::fs::File::options().write(true).open(path(name)).unwrap().set_modified(time).unwrap();
    };
    let now = std::time::SystemTime::now();
    let day = Duration::from_secs(86_400);
    for (name, time) in [("past", now - 400 * day), ("future", now + 400 * day), ("today", now)] {
        here.write(Tree::Data, name, "before!");
        set(name, time);
    }
    here.sync(Tree::Data).await;
    // As if the clock had been ahead when they were read.
    let index = rusqlite::Connection::open(here.home.join("state/index.db")).unwrap();
    index.execute("UPDATE file SET hashed = hashed + 1000000000000000000", []).unwrap();
    for (name, time) in [("past", now - 400 * day), ("future", now + 400 * day), ("today", now)] {
        // Same size, same time of the last change.
        here.write(Tree::Data, name, "after!!");
        set(name, time);
    }
    let report = here.sync(Tree::Data).await;
    assert_eq!(report.uploaded.0, 3);
    expect_settled(&here).await;
}
