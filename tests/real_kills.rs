//! kill -9 of uploads, at random bytes of what goes to a real S3 server: SeaweedFS. Needs `scripts/parts.sh weed`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // In tests a panic is the message, and seeds are printed.

mod chaos;
#[path = "common/counting_proxy.rs"]
mod counting_proxy;
mod lab;
#[path = "common/noise.rs"]
mod noise;
#[path = "common/weed.rs"]
mod weed;

use chaos::Colony;
use counting_proxy::CountingProxy;
use lab::Lab;
use pollinator::cfs::Cfs;
use pollinator::index::Index;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;

const MIB: usize = 1024 * 1024;
const LABEL: &str = "/pollinator/p/data";

/// The one SeaweedFS of this process.
async fn seaweed() -> &'static weed::Weed {
    static SERVER: tokio::sync::OnceCell<weed::Weed> = tokio::sync::OnceCell::const_new();
    SERVER.get_or_init(async || weed::Weed::start("kills").await).await
}

/// A machine whose colony keeps its objects in SeaweedFS, behind a proxy that counts.
struct Machine {
    lab: Lab,
    colony: Colony,
    proxy: CountingProxy,
    folder: PathBuf,
    random: u64,
    /// Objects that rows named at some time: they stay when their rows are removed, because snapshots may list them.
    named: Mutex<BTreeSet<String>>,
}

impl Machine {
    async fn start(seed: u64) -> Machine {
        println!("seed {seed}");
        let weed = seaweed().await;
        let store = weed.access();
        let proxy = CountingProxy::start(store.endpoint.clone()).await;
        let lab = Lab::new();
        let folder = lab.project("p", "print()\n");
        let bucket = format!("kills-{seed}-{}", std::process::id());
        let colony = Colony::of(&lab)
            .with("AWS_S3_ENDPOINT", &proxy.address)
            .with("AWS_S3_TLS", "false")
            .with("AWS_S3_BUCKET", bucket)
            .with("AWS_S3_ACCESSKEY", &store.access_key)
            .with("AWS_S3_SECRETKEY", store.secret_key.expose());
        Machine { lab, colony, proxy, folder, random: seed * 2 + 1, named: Mutex::default() }
    }

    fn roll(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % limit.max(1)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join("cfs/data").join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Runs `sync data`, and kills it when so many bytes went to the store. False: it had ended before.
    async fn killed_at(&self, bytes: u64) -> bool {
        self.proxy.sent();
        let mut command = self.colony.command(&self.lab, &self.folder, ["sync", "data", "--allow-deletes"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = tokio::process::Command::from(command).spawn().unwrap();
        tokio::select! {
            ended = child.wait() => {
                assert!(ended.unwrap().success());
                false
            }
            () = self.proxy.reached(bytes) => {
                child.kill().await.unwrap();
                true
            }
        }
    }

    /// Runs `sync data` to its end.
    async fn sync(&self) {
        let mut command = self.colony.command(&self.lab, &self.folder, ["sync", "data", "--allow-deletes"]);
        let ended = tokio::task::spawn_blocking(move || {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            lab::finish(command)
        });
        ended.await.unwrap().expect_code(0);
    }

    fn cfs(&self) -> Cfs {
        self.colony.cfs()
    }

    /// Nothing is registered that is not in the store with the registered size.
    async fn expect_stored(&self, moment: &str) {
        let cfs = self.cfs();
        for (path, file) in cfs.list(LABEL).await.unwrap().files {
            if file.size > 0 {
                let stored = cfs.store.head(&file.object).await.unwrap();
                assert_eq!(stored.map(|info| info.size), Some(file.size), "{path} {moment}");
                self.named.lock().unwrap().insert(file.object);
            }
        }
    }

    /// The colony holds what the folder holds, byte for byte; no object that no row names, no unfinished upload, nothing in the
    /// journal.
    async fn expect_settled(&self) {
        let cfs = self.cfs();
        let rows = cfs.list(LABEL).await.unwrap().files;
        for (path, file) in &rows {
            if path.is_folder_marker() {
                continue;
            }
            let mut stored = Vec::new();
            cfs.store.get(&file.object, &mut stored, &|_| ()).await.unwrap();
            assert!(stored == std::fs::read(self.path(path.as_str())).unwrap(), "{path} has other bytes");
            let (label, name) = pollinator::cfs::labels::place_of(LABEL, path);
            let revisions = cfs.client.file_revisions(&label, &name).await.unwrap();
            self.named.lock().unwrap().extend(revisions.into_iter().map(|row| row.reference.s3object.object));
        }
        assert_eq!(rows.keys().filter(|path| !path.is_folder_marker()).count(), count(&self.folder.join("cfs/data")));
        let objects = cfs.store.list("pollinator/p/").await.unwrap();
        let named = self.named.lock().unwrap().clone();
        let orphans: Vec<_> = objects.iter().filter(|(key, _)| !named.contains(key)).collect();
        assert!(orphans.is_empty(), "{orphans:?}");
        assert_eq!(cfs.store.unfinished("pollinator/p/").await.unwrap(), []);
        let journal = rusqlite::Connection::open(self.lab.state().join("journal.db")).unwrap();
        let open: u32 = journal.query_row("SELECT count(*) FROM upload", [], |row| row.get(0)).unwrap();
        assert_eq!(open, 0);
    }

    /// As if the line had been measured to be slow: scratch objects are worth their requests.
    fn slow_line(&self) {
        let place = format!("{}/{}", self.proxy.address, self.cfs().store.access().bucket);
        Index::open(&self.lab.state()).unwrap().note_store_trait(&place, "uplink", "100000");
    }
}

fn count(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| if entry.file_type().unwrap().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

/// Kills at random bytes until there were `kills` of them; `change` makes the next thing to bring over, `most` is about what goes
/// to the store for it.
async fn kill_again_and_again(machine: &mut Machine, kills: usize, most: usize, change: impl Fn(&mut Machine, usize)) {
    let (mut killed, mut round) = (0, 0);
    while killed < kills {
        change(machine, round);
        round += 1;
        for _ in 0..4 {
            let at = machine.roll(most) as u64;
            if !machine.killed_at(at).await {
                break;
            }
            killed += 1;
            machine.expect_stored("after a kill").await;
        }
        machine.sync().await;
        machine.expect_settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_4_kill_9_of_first_uploads_converges() {
    let mut machine = Machine::start(1).await;
    kill_again_and_again(&mut machine, 60, 44 * MIB, |machine, round| {
        let name = format!("large-{}", round % 3);
        machine.write(&name, &noise::bytes(40 * MIB + round));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_4_kill_9_of_changed_files_converges() {
    let mut machine = Machine::start(2).await;
    machine.write("large", &noise::bytes(40 * MIB));
    machine.sync().await;
    kill_again_and_again(&mut machine, 80, 700_000, |machine, round| {
        let file = std::fs::File::options().write(true).open(machine.path("large")).unwrap();
        for _ in 0..3 {
            let at = machine.roll(40 * MIB);
            file.write_all_at(format!("changed {round}").as_bytes(), at as u64).unwrap();
        }
        machine.slow_line();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_4_kill_9_of_many_small_and_renamed_files_converges() {
    let mut machine = Machine::start(3).await;
    kill_again_and_again(&mut machine, 60, 160_000, |machine, round| {
        for n in 0..40 {
            machine.write(&format!("r{round}/small-{n}"), &noise::bytes(2_000 + 100 * n + round));
        }
        if round > 1 {
            std::fs::remove_dir_all(machine.path(&format!("moved-{}", round - 1))).unwrap();
        }
        if round > 0 {
            std::fs::rename(machine.path(&format!("r{}", round - 1)), machine.path(&format!("moved-{round}"))).unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_4_no_finished_part_is_sent_again() {
    let machine = Machine::start(4).await;
    machine.write("large", &noise::bytes(160 * MIB));
    let mut sent = 0;
    for at in [50 * MIB, 40 * MIB] {
        assert!(machine.killed_at(at as u64).await);
        sent += machine.proxy.sent();
    }
    machine.sync().await;
    sent += machine.proxy.sent();
    // What was on its way when it was killed is sent again: four parts each time.
    let most = (160 + 2 * 4 * 16) * MIB + 2 * MIB;
    assert!(sent as usize <= most, "{sent} bytes for {} and two kills", 160 * MIB);
    machine.expect_settled().await;
}
