//! Which folders of the file area live jobs use, and whose turn it is to work in one.

use crate::executor::place::Inside;
use crate::executor::spec::Job;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use tokio::sync::Notify;

/// The folders of all live jobs.
#[derive(Debug, Default)]
pub struct Places {
    known: Mutex<Known>,
    /// Somebody gave up a folder, or the work in one.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Known {
    next: u64,
    /// Jobs, in the order in which they came.
    jobs: BTreeMap<u64, User>,
    /// Those that work in a folder or wait for it, in the order in which they came.
    line: BTreeMap<u64, Inside>,
    /// Processes of an earlier life of the executor that have not entered yet; none: not known yet.
    awaited: Option<BTreeSet<String>>,
}

#[derive(Debug)]
struct User {
    process_id: String,
    /// Folders; of a snapshot's with its id.
    folders: Vec<(Inside, Option<String>)>,
    /// Whether its command may be at work.
    begun: bool,
}

/// A job's use of its folders; given up on drop.
#[derive(Debug)]
pub struct Using {
    places: Arc<Places>,
    number: u64,
}

/// Work in a folder, with nobody else in it, in one around it or in one within it; over on drop.
#[derive(Debug)]
pub struct Alone<'a> {
    places: &'a Places,
    number: u64,
}

impl Places {
    /// Notes that a job uses its folders; whether its command may be at work there, its files having come in an earlier life.
    pub fn enter(self: &Arc<Places>, job: &Job, begun: bool) -> Using {
        let snapshots = job.snapshots.iter().map(|s| (s.dir.clone(), Some(s.id.clone())));
        let folders = snapshots.chain(job.dirs.iter().map(|d| (d.dir.clone(), None))).collect();
        let mut known = self.known();
        let number = known.take_number();
        known.jobs.insert(number, User { process_id: job.process_id.clone(), folders, begun });
        if known.awaited.as_mut().is_some_and(|awaited| awaited.remove(&job.process_id)) {
            self.changed.notify_waiters();
        }
        drop(known);
        Using { places: self.clone(), number }
    }

    /// Notes that the files of a process are here: from now on its command may be at work in its folders.
    pub fn begun(&self, process_id: &str) {
        for user in self.known().jobs.values_mut().filter(|user| user.process_id == process_id) {
            user.begun = true;
        }
    }

    /// Notes which processes are about to enter because an earlier life of the executor left them running.
    pub fn expect(&self, process_ids: BTreeSet<String>) {
        self.known().awaited = Some(process_ids);
        self.changed.notify_waiters();
    }

    /// Waits until all jobs have entered that an earlier life left running: before, a folder may be in use and look idle.
    pub async fn all_here(&self) {
        self.until(|known| known.awaited.as_ref().is_some_and(BTreeSet::is_empty)).await;
    }

    /// Waits for the folder: transfers of several jobs to and from it, and to and from those within it and around it, stand in
    /// line.
    pub async fn alone(&self, folder: &Inside) -> Alone<'_> {
        let number = {
            let mut known = self.known();
            let number = known.take_number();
            known.line.insert(number, folder.clone());
            number
        };
        let mine = Alone { places: self, number };
        self.until(|known| !known.line.range(..number).any(|(_, other)| other.overlaps(folder))).await;
        mine
    }

    /// Waits until no job that came earlier, or is at work, uses the folders of this one's snapshots for other snapshots: what a
    /// job sees is not replaced under it. Those at work wait for nobody, and of the others only those that came earlier are waited
    /// for: so nobody waits for one who waits for him.
    pub async fn turn(&self, job: &Job) {
        self.until(|known| {
            let mine = known.jobs.iter().filter(|(_, user)| user.process_id == job.process_id).map(|(number, _)| *number).min();
            let Some(mine) = mine else { return true };
            let other = |user: &User| {
                let clashes = |(dir, id): &(Inside, Option<String>)| {
                    id.is_some() && job.snapshots.iter().any(|s| s.dir == *dir && id.as_ref() != Some(&s.id))
                };
                user.process_id != job.process_id && user.folders.iter().any(clashes)
            };
            !known.jobs.iter().any(|(number, user)| (*number < mine || user.begun) && other(user))
        })
        .await;
    }

    /// Whether a job beside this process uses a folder, or one in it, or one around it.
    pub fn used_beside(&self, folder: &Inside, process_id: &str) -> bool {
        self.known().users_beside(folder, process_id).next().is_some()
    }

    /// As [`Places::used_beside`], by a job whose command may be at work.
    pub fn at_work_beside(&self, folder: &Inside, process_id: &str) -> bool {
        self.known().users_beside(folder, process_id).any(|user| user.begun)
    }

    /// The folders that live jobs use.
    pub fn used(&self) -> Vec<Inside> {
        self.known().jobs.values().flat_map(|user| &user.folders).map(|(dir, _)| dir.clone()).collect()
    }

    async fn until(&self, holds: impl Fn(&Known) -> bool) {
        loop {
            // Registered before looking.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if holds(&self.known()) {
                return;
            }
            changed.await;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn users_beside<'a>(&'a self, folder: &'a Inside, process_id: &'a str) -> impl Iterator<Item = &'a User> {
        let uses = |user: &&User| user.folders.iter().any(|(other, _)| other.overlaps(folder));
        self.jobs.values().filter(move |user| user.process_id != process_id).filter(uses)
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        self.places.known().jobs.remove(&self.number);
        self.places.changed.notify_waiters();
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.places.known().line.remove(&self.number);
        self.places.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::backend::process::tests::task;
    use crate::executor::spec::DirSync;
    use crate::executor::spec::SnapshotIn;
    use futures_util::FutureExt;

    fn dir(text: &str) -> Inside {
        Inside::read(text).unwrap()
    }

    fn job(process_id: &str, snapshot: &str, dirs: &[&str]) -> Job {
        let root = tempfile::tempdir().unwrap();
        let mut job = (*task(root.path(), "true", &[], serde_json::json!({})).job).clone();
        let sync = |d: &&str| DirSync {
            label: format!("/{d}"),
            dir: dir(d),
            keep_files: false,
            start_keeps_local: false,
            close_keeps_local: true,
        };
        job.process_id = process_id.into();
        let src =
            SnapshotIn { id: snapshot.into(), label: "/p/src".into(), dir: dir("p/src"), keep_files: true, keep_snapshot: true };
        job.snapshots = vec![src];
        job.dirs = dirs.iter().map(sync).collect();
        job
    }

    #[test]
    fn a_folder_that_others_use_is_known() {
        let places = Arc::new(Places::default());
        let one = places.enter(&job("1", "s", &["p/result"]), false);
        for used in ["p", "p/result", "p/result/sub"] {
            assert!(!places.used_beside(&dir(used), "1"), "{used}");
            assert!(places.used_beside(&dir(used), "2"), "{used}");
        }
        assert!(!places.used_beside(&dir("p/results"), "2"));
        assert_eq!(places.used(), [dir("p/src"), dir("p/result")]);
        assert!(!places.at_work_beside(&dir("p/result"), "2"));
        places.begun("1");
        assert!(places.at_work_beside(&dir("p/result"), "2"));
        let two = places.enter(&job("2", "s", &["p/result"]), true);
        assert!(places.at_work_beside(&dir("p/result"), "1"));
        drop((one, two));
        assert!(places.known().jobs.is_empty());
    }

    #[tokio::test]
    async fn those_of_an_earlier_life_are_waited_for() {
        let places = Arc::new(Places::default());
        assert!(places.all_here().now_or_never().is_none());
        places.expect(BTreeSet::from(["1".to_owned()]));
        assert!(places.all_here().now_or_never().is_none());
        let _using = places.enter(&job("1", "s", &[]), false);
        places.all_here().await;
    }

    #[tokio::test]
    async fn folders_within_each_other_stand_in_one_line() {
        let places = Places::default();
        let first = places.alone(&dir("p/result")).await;
        let (p, sub) = (dir("p"), dir("p/data/sub"));
        let around = places.alone(&p);
        tokio::pin!(around);
        assert!(around.as_mut().now_or_never().is_none());
        // Behind the one that waits for the folder around both: it would wait for ever otherwise.
        let within = places.alone(&sub);
        tokio::pin!(within);
        assert!(within.as_mut().now_or_never().is_none());
        assert!(places.alone(&dir("q")).now_or_never().is_some());
        drop(first);
        let around = around.await;
        assert!(within.as_mut().now_or_never().is_none());
        drop(around);
        within.await;
        assert!(places.known().line.is_empty());
    }

    #[tokio::test]
    async fn one_folder_holds_one_snapshot_at_a_time() {
        let places = Arc::new(Places::default());
        let (old, new) = (job("1", "old", &[]), job("2", "new", &[]));
        let first = places.enter(&old, false);
        let second = places.enter(&new, false);
        let same = places.enter(&job("3", "old", &[]), false);
        places.turn(&old).await;
        assert!(places.turn(&new).now_or_never().is_none());
        assert!(places.turn(&job("3", "old", &[])).now_or_never().is_none(), "behind the one that waits");
        drop(first);
        places.turn(&new).await;
        drop(second);
        places.turn(&job("3", "old", &[])).await;
        // After a restart the one that runs may enter behind the one that waited for it.
        let other = job("4", "other", &[]);
        drop(same);
        let _before = places.enter(&other, false);
        let at_work = places.enter(&old, true);
        assert!(places.turn(&other).now_or_never().is_none());
        drop(at_work);
        places.turn(&other).await;
    }
}
