//! What delta uploads have to do on every store: the cases, without the store.

#![allow(dead_code)] // Each test program uses a part of it.

use crate::counting_proxy::CountingProxy;
use crate::noise;
use crate::sides::Colony;
use crate::sides::Side;
use pollinator::cfs::Cfs;
use pollinator::config::StoreAccess;
use pollinator::event::Tree;
use pollinator::store::Store;
use std::os::unix::fs::FileExt;

pub const MIB: usize = 1024 * 1024;

/// A machine whose object store is behind a proxy that counts.
pub struct Counted {
    pub colony: Colony,
    pub side: Side,
    pub proxy: CountingProxy,
    pub access: StoreAccess,
}

impl Counted {
    /// `store`: that of the colony where none is given.
    pub async fn start(store: Option<&StoreAccess>, project: &str) -> Counted {
        let colony = Colony::start().await;
        let direct = store.unwrap_or(&colony.store).clone();
        let proxy = CountingProxy::start(direct.endpoint.clone()).await;
        let access = StoreAccess { endpoint: proxy.address.clone(), ..direct };
        let mut side = colony.side_of("here", project);
        side.cfs = Cfs { store: Store::new(&access).unwrap(), ..side.cfs };
        Counted { colony, side, proxy, access }
    }

    /// Another project folder on the same machine, or another machine.
    pub fn another(&self, name: &str, project: &str) -> Side {
        let mut side = self.colony.side_of(name, project);
        side.cfs = Cfs { store: Store::new(&self.access).unwrap(), ..side.cfs };
        side
    }

    /// Synchronizes data; gives the bytes that went to the store.
    pub async fn sync(&self) -> u64 {
        self.proxy.sent();
        self.side.sync(Tree::Data).await;
        self.proxy.sent()
    }

    /// Panics unless the colony holds what the folder holds, and the bucket nothing that no row names but for older revisions.
    pub async fn expect_same(&self, revisions: usize) {
        for (path, bytes) in self.side.verified(Tree::Data).await {
            if !path.ends_with(".pollinator-folder") {
                assert!(std::fs::read(self.side.path(Tree::Data, &path)).unwrap() == bytes, "{path}");
            }
        }
        let objects = self.side.cfs.store.list(&format!("pollinator/{}/", self.side.project)).await.unwrap();
        assert_eq!(objects.len(), revisions, "{objects:?}");
    }
}

/// Overwrites bytes of a file where it is.
pub fn overwrite(side: &Side, path: &str, at: usize, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(side.path(Tree::Data, path)).unwrap();
    file.write_all_at(bytes, at as u64).unwrap();
}

/// One byte changed, bytes inserted at the front, bytes appended, the end cut off: each costs about what it is.
pub async fn only_what_changed_travels(store: Option<&StoreAccess>) {
    let here = Counted::start(store, "changes").await;
    let mut bytes = noise::bytes(64 * MIB);
    here.side.write(Tree::Data, "large", &bytes);
    let first = here.sync().await;
    assert!(first as usize > 64 * MIB && (first as usize) < 65 * MIB, "{first}");
    here.expect_same(1).await;
    overwrite(&here.side, "large", 32 * MIB, b"!");
    let changed = here.sync().await;
    assert!((changed as usize) < 6 * MIB, "one byte in the middle: {changed}");
    here.expect_same(2).await;
    bytes = std::fs::read(here.side.path(Tree::Data, "large")).unwrap();
    bytes.splice(0..0, [b'x'; 100]);
    here.side.write(Tree::Data, "large", &bytes);
    let inserted = here.sync().await;
    assert!((inserted as usize) < 6 * MIB, "at the front: {inserted}");
    here.expect_same(3).await;
    bytes.extend([b'y'; 1000]);
    here.side.write(Tree::Data, "large", &bytes);
    let appended = here.sync().await;
    assert!((appended as usize) < MIB, "at the end: {appended}");
    bytes.truncate(40 * MIB);
    here.side.write(Tree::Data, "large", &bytes);
    let cut = here.sync().await;
    assert!((cut as usize) < MIB, "cut off: {cut}");
    here.expect_same(5).await;
}

/// Through a slow line scratch objects are worth their requests.
pub async fn scratch_objects_on_a_slow_line(store: Option<&StoreAccess>) {
    let here = Counted::start(store, "scratch").await;
    // As if it had been measured; too little is sent afterwards to measure it anew.
    let slow = |here: &Counted| here.side.index.note_store_trait(&place(&here.access), "uplink", "100000");
    let mut bytes = noise::bytes(48 * MIB);
    here.side.write(Tree::Data, "large", &bytes);
    here.sync().await;
    let side = Side { cfs: Cfs { store: Store::new(&here.access).unwrap(), ..here.side.cfs.clone() }, ..here.side };
    let here = Counted { side, ..here };
    slow(&here);
    overwrite(&here.side, "large", 24 * MIB, b"!");
    let changed = here.sync().await;
    assert!((changed as usize) < MIB, "one byte in the middle: {changed}");
    here.expect_same(2).await;
    bytes = std::fs::read(here.side.path(Tree::Data, "large")).unwrap();
    bytes.splice(0..0, [b'x'; 100]);
    here.side.write(Tree::Data, "large", &bytes);
    let inserted = here.sync().await;
    assert!((inserted as usize) < MIB, "at the front: {inserted}");
    here.expect_same(3).await;
}

fn place(access: &StoreAccess) -> String {
    format!("{}/{}", access.endpoint, access.bucket)
}

/// Renamed, copied, re-added, of another project: nothing travels, and no two rows share an object.
pub async fn no_byte_twice(store: Option<&StoreAccess>) {
    let here = Counted::start(store, "once").await;
    let bytes = noise::bytes(20 * MIB);
    here.side.write(Tree::Data, "a", &bytes);
    here.side.write(Tree::Data, "small", vec![b's'; 50_000]);
    // Twice in the first upload already.
    here.side.write(Tree::Data, "twice", &bytes);
    let first = here.sync().await;
    assert!((first as usize) < 21 * MIB, "{first}");
    std::fs::rename(here.side.path(Tree::Data, "a"), here.side.path(Tree::Data, "renamed")).unwrap();
    std::fs::copy(here.side.path(Tree::Data, "small"), here.side.path(Tree::Data, "copied")).unwrap();
    assert!(here.sync().await < 30_000, "renamed and copied");
    here.side.remove(Tree::Data, "copied");
    here.sync().await;
    std::fs::copy(here.side.path(Tree::Data, "small"), here.side.path(Tree::Data, "copied")).unwrap();
    assert!(here.sync().await < 20_000, "added again");
    // The same machine, another project.
    let other = here.another("here", "other");
    other.write(Tree::Data, "theirs", &bytes);
    here.proxy.sent();
    other.sync(Tree::Data).await;
    assert!(here.proxy.sent() < 20_000, "of another project");
    let objects: Vec<String> = here.side.remote(Tree::Data).await.files.into_values().map(|f| f.object).collect();
    let distinct: std::collections::BTreeSet<_> = objects.iter().collect();
    assert_eq!((objects.len(), distinct.len()), (4, 4));
    here.side.verified(Tree::Data).await;
    other.verified(Tree::Data).await;
}

/// A lost index: nothing that is unchanged is sent again, and a renamed file of one part is still found.
pub async fn a_lost_index_sends_nothing_again(store: Option<&StoreAccess>) {
    let mut here = Counted::start(store, "lost").await;
    here.side.write(Tree::Data, "large", noise::bytes(20 * MIB));
    here.side.write(Tree::Data, "medium", noise::bytes(2 * MIB));
    here.sync().await;
    let state = here.side.home.join("state");
    here.side.index = pollinator::index::Index::open(&here.side.home.join("other")).unwrap();
    std::fs::remove_file(state.join("index.db")).unwrap();
    assert!(here.sync().await < 5_000, "unchanged");
    std::fs::rename(here.side.path(Tree::Data, "medium"), here.side.path(Tree::Data, "renamed")).unwrap();
    assert!(here.sync().await < 20_000, "renamed");
    // A change of a large file travels whole once, then the index knows it again.
    overwrite(&here.side, "large", 10 * MIB, b"!");
    assert!(here.sync().await as usize > 20 * MIB);
    overwrite(&here.side, "large", 10 * MIB, b"?");
    assert!((here.sync().await as usize) < 6 * MIB);
    here.side.verified(Tree::Data).await;
}

/// A base object that somebody removed: all of it is sent.
pub async fn a_vanished_base_is_no_obstacle(store: Option<&StoreAccess>) {
    let here = Counted::start(store, "vanished").await;
    here.side.write(Tree::Data, "large", noise::bytes(20 * MIB));
    here.sync().await;
    let object = here.side.remote(Tree::Data).await.files.into_values().next().unwrap().object;
    here.side.cfs.store.delete(&object).await.unwrap();
    overwrite(&here.side, "large", 10 * MIB, b"!");
    assert!(here.sync().await as usize > 20 * MIB);
    here.expect_same(1).await;
    // Replaced by something else: its ETag tells.
    let object = here.side.remote(Tree::Data).await.files.into_values().next().unwrap().object;
    here.side.cfs.store.put_bytes(&object, vec![1; 6 * MIB].into(), &Default::default(), &|_| ()).await.unwrap();
    overwrite(&here.side, "large", 11 * MIB, b"!");
    assert!(here.sync().await as usize > 20 * MIB);
    here.expect_same(2).await;
}

/// All cases as tests on a store.
#[macro_export]
macro_rules! delta_cases {
    ($store:expr) => {
        delta_cases!($store, only_what_changed_travels, scratch_objects_on_a_slow_line, no_byte_twice,
            a_lost_index_sends_nothing_again, a_vanished_base_is_no_obstacle);
    };
    ($store:expr, $($case:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                delta_cases::$case($store).await;
            }
        )*
    };
}
