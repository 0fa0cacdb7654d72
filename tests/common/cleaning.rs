//! A project that is edited, run and cleaned up at random, and the look at whether it is whole.

#![allow(dead_code)] // Each test program uses a part of it.

use crate::sides;
use crate::sides::Colony;
use crate::sides::Side;
use pollinator::cfs;
use pollinator::cfs::Cfs;
use pollinator::cfs::ReclaimOptions;
use pollinator::cfs::Reclaimed;
use pollinator::cfs::Removed;
use pollinator::colonies::Conditions;
use pollinator::colonies::File;
use pollinator::colonies::Filesystem;
use pollinator::colonies::FunctionSpec;
use pollinator::colonies::Process;
use pollinator::colonies::Snapshot;
use pollinator::colonies::SnapshotMount;
use pollinator::config::StoreAccess;
use pollinator::event::Events;
use pollinator::event::Tree;
use pollinator::store::Store;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Everything is old, and no snapshot stays for being new.
pub fn options(project: &str) -> ReclaimOptions {
    ReclaimOptions {
        root: format!("/pollinator/{project}"),
        older_than: jiff::SignedDuration::ZERO,
        keep: 0,
        jobs: 8,
        allow_deletes: false,
        dry_run: false,
    }
}

pub async fn clean(cfs: &Cfs, options: &ReclaimOptions) -> Reclaimed {
    cfs::reclaim(cfs, options, &BTreeSet::new()).await.unwrap()
}

pub fn names(removed: &[Removed]) -> BTreeSet<String> {
    removed.iter().map(|one| one.name.clone()).collect()
}

/// A process that waits with a snapshot, for an executor that there is not.
pub async fn submit(side: &Side, snapshot: &Snapshot) -> Process {
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

/// A store that refuses to remove one object.
pub async fn refusing(access: &StoreAccess, key: &str) -> Store {
    let (to, key) = (format!("http://{}", access.endpoint), key.to_owned());
    let client = pollinator::net::http_client(false).unwrap();
    let carry = move |request: axum::extract::Request| {
        let (client, to, key) = (client.clone(), to.clone(), key.clone());
        async move {
            let (parts, body) = request.into_parts();
            if parts.method == "DELETE" && parts.uri.path().ends_with(&key) {
                let body = "<Error><Code>AccessDenied</Code><Message>not this one</Message></Error>";
                return axum::http::Response::builder().status(403).body(axum::body::Body::from(body)).unwrap();
            }
            let bytes = axum::body::to_bytes(body, 1 << 30).await.unwrap();
            // The host stays as it was signed.
            let request = client.request(parts.method, format!("{to}{}", parts.uri)).headers(parts.headers).body(bytes);
            let reply = request.send().await.unwrap();
            let mut answer = axum::http::Response::builder().status(reply.status());
            for (name, value) in reply.headers() {
                answer = answer.header(name, value);
            }
            answer.body(axum::body::Body::from(reply.bytes().await.unwrap())).unwrap()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(carry)).await });
    Store::new(&StoreAccess { endpoint, ..access.clone() }).unwrap()
}

/// Random numbers that a seed repeats.
pub struct Dice(u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// A run: its process, its snapshot, and what it has to see.
struct Waiting {
    process: String,
    snapshot: Snapshot,
    tree: BTreeMap<String, String>,
}

/// A project on two machines, with a neighbour whose name begins like its own.
pub struct Yard {
    here: Side,
    there: Side,
    neighbour: Side,
    dice: Dice,
    clock: u32,
    waiting: Vec<Waiting>,
}

impl Yard {
    pub fn new(colony: &Colony, seed: u64) -> Yard {
        let (here, there, neighbour) = (colony.side("here"), colony.side("there"), colony.side_of("next", "p2"));
        Yard { here, there, neighbour, dice: Dice(seed), clock: 0, waiting: Vec::new() }
    }

    /// Something happens, sometimes that it is cleaned up.
    pub async fn step(&mut self) {
        if self.dice.roll(6) > 0 {
            return self.grow().await;
        }
        let keep = self.dice.roll(3);
        let newest = self.snapshots().await;
        let report = clean(&self.here.cfs, &ReclaimOptions { keep, ..options("p") }).await;
        assert!(report.problems.is_empty() && report.notes.is_empty(), "{report:?}");
        let left = self.snapshots().await;
        assert!(newest.iter().rev().take(keep).all(|kept| left.contains(kept)), "one of the newest {keep} went");
    }

    /// Something happens but that it is cleaned up.
    pub async fn grow(&mut self) {
        self.clock += 1;
        let path = ["a", "b", "sub/c", "sub/deep/d", "e f"][self.dice.roll(5)];
        let text = if self.dice.roll(6) == 0 { String::new() } else { format!("{} {}", self.clock, self.dice.roll(100)) };
        let tree = [Tree::Src, Tree::Data][self.dice.roll(2)];
        match self.dice.roll(12) {
            0..=4 => self.here.write(tree, path, text),
            5 => drop(std::fs::remove_file(self.here.path(tree, path))),
            6 => {
                // Another machine's file in the label: the next run's tree is frozen in a label of its own.
                self.there.write(Tree::Src, path, text);
                self.there.sync(Tree::Src).await;
            }
            7 => {
                self.neighbour.write(tree, path, text);
                self.neighbour.sync(tree).await;
            }
            8 | 9 => self.run().await,
            10 if !self.waiting.is_empty() => {
                let ended = self.waiting.swap_remove(self.dice.roll(self.waiting.len()));
                self.here.cfs.client.cancel(&ended.process).await.unwrap();
            }
            _ => drop(self.here.sync(tree).await),
        }
    }

    async fn run(&mut self) {
        let report = self.here.sync(Tree::Src).await;
        let earlier = self.waiting.last().map(|run| (run.snapshot.snapshotid.clone(), report.last_removal + 1));
        let earlier =
            earlier.as_ref().filter(|_| self.dice.roll(3) == 0 && self.same_tree()).map(|(id, when)| (id.as_str(), *when));
        let snapshot = cfs::snapshot(&self.here.cfs, &self.here.label(Tree::Src), &report, earlier).await.unwrap();
        let process = submit(&self.here, &snapshot).await.processid;
        self.waiting.push(Waiting { process, snapshot, tree: self.here.content(Tree::Src) });
    }

    fn same_tree(&self) -> bool {
        self.waiting.last().is_some_and(|run| run.tree == self.here.content(Tree::Src))
    }

    /// Names of our snapshots, the oldest first.
    async fn snapshots(&self) -> Vec<String> {
        let mut all = self.here.cfs.client.snapshots().await.unwrap();
        all.sort_by_key(|snapshot| snapshot.added);
        all.into_iter().filter(|snapshot| snapshot.label.starts_with("/pollinator/p/")).map(|snapshot| snapshot.name).collect()
    }

    /// All revisions of all files of the colony.
    async fn rows(&self) -> Vec<File> {
        let client = &self.here.cfs.client;
        let mut rows = Vec::new();
        for label in client.labels("").await.unwrap() {
            for file in client.files(&label.name).await.unwrap() {
                rows.extend(client.file_revisions(&label.name, &file.name).await.unwrap());
            }
        }
        rows
    }

    /// Each row has its bytes, each run that waits has its tree.
    pub async fn expect_nothing_broken(&self) {
        for row in self.rows().await {
            let mut bytes = Vec::new();
            if row.size > 0 {
                let got = self.here.cfs.store.get(&row.reference.s3object.object, &mut bytes, &|_| ()).await;
                assert!(got.is_ok(), "{}/{} has lost its bytes: {got:?}", row.label, row.name);
            }
            assert_eq!(sides::sha256(&bytes), row.checksum, "{}/{}", row.label, row.name);
        }
        for run in &self.waiting {
            let tree = self.here.cfs.snapshot_tree(&run.snapshot.snapshotid, &run.snapshot.label).await.unwrap();
            assert!(tree.problems.is_empty(), "{:?}", tree.problems);
            let files: Vec<_> = tree.files.into_values().collect();
            let place = tempfile::tempdir().unwrap();
            let (index, folder) = (&self.here.index, place.path());
            let report = cfs::fetch(&self.here.cfs, index, &files, folder, Tree::Src, 8, &Events::none()).await.unwrap();
            assert!(report.problems.is_empty(), "{:?}", report.problems);
            assert_eq!(sides::content(folder), run.tree);
        }
    }

    /// All runs have ended.
    pub async fn end_runs(&mut self) {
        for run in std::mem::take(&mut self.waiting) {
            self.here.cfs.client.cancel(&run.process).await.unwrap();
        }
    }

    /// With no run left, what is left is the latest revision of each file, and nothing else.
    pub async fn expect_clean_at_the_end(&mut self) {
        self.end_runs().await;
        clean(&self.here.cfs, &ReclaimOptions { allow_deletes: true, ..options("p") }).await;
        assert_eq!(self.snapshots().await, Vec::<String>::new());
        let rows: Vec<File> = self.rows().await.into_iter().filter(|row| row.label.starts_with("/pollinator/p/")).collect();
        let files: BTreeSet<(&str, &str)> = rows.iter().map(|row| (row.label.as_str(), row.name.as_str())).collect();
        assert_eq!(files.len(), rows.len(), "a replaced revision is left");
        assert!(rows.iter().all(|row| !row.label.contains("/runs/")), "a frozen tree is left");
        let named: BTreeSet<String> = rows.iter().filter(|r| r.size > 0).map(|r| r.reference.s3object.object.clone()).collect();
        let stored = self.here.cfs.store.list("pollinator/p/").await.unwrap();
        assert_eq!(stored.into_iter().map(|(key, _)| key).collect::<BTreeSet<_>>(), named);
        self.expect_nothing_broken().await;
    }
}
