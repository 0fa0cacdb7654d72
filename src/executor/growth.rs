//! Files of jobs that grow or appear: one look at all of them at a time.
//!
//! Outputs of jobs on a cluster lie on network file systems, which tell nobody of a change that another machine made. So
//! they are looked at, but by one task for all jobs: a thousand running jobs cost a thousand `stat` calls a look and no
//! timer, thread or query of their own.

use super::backend::regular;
use crate::blocking;
use crate::panics;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::Notify;

/// Pause between two looks.
const PACE: Duration = Duration::from_millis(200);
/// Folders and files are opened so often, which makes NFS ask its server for new names and sizes (close-to-open): else a file that was
/// looked for before it came is not seen for a minute, nor that it grew. Not at each look: with a thousand jobs that is a thousand
/// questions.
const REFRESH: Duration = Duration::from_secs(10);
/// Looking takes at most one part in so many of the time.
const SHARE: u32 = 200;
/// But no pause is longer: whoever was kept from looking once was not busy with it.
const LONGEST_PACE: Duration = Duration::from_secs(5);

/// The files that somebody waits for.
#[derive(Debug, Default)]
pub struct Growth {
    groups: Mutex<Groups>,
    /// Somebody came.
    came: Notify,
}

#[derive(Debug, Default)]
struct Groups {
    next: u64,
    all: HashMap<u64, Group>,
    looking: bool,
}

#[derive(Debug)]
struct Group {
    paths: Arc<Vec<PathBuf>>,
    seen: Vec<Size>,
    changed: Arc<Notify>,
}

/// Which file, and how long it is; none where it is not there.
type Size = Option<(u64, u64)>;

/// Waits for some files; given up on drop.
#[derive(Debug)]
pub struct Following {
    growth: Arc<Growth>,
    id: u64,
    changed: Arc<Notify>,
}

impl Growth {
    /// Nobody waits yet.
    pub fn new() -> Arc<Growth> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to follow some files, from what they are at the first look. Needs a runtime.
    pub fn follow(self: &Arc<Growth>, paths: Vec<PathBuf>) -> Following {
        let changed = Arc::new(Notify::new());
        let mut groups = self.lock();
        let id = groups.next;
        groups.next += 1;
        let seen = vec![None; paths.len()];
        groups.all.insert(id, Group { paths: Arc::new(paths), seen, changed: changed.clone() });
        if !std::mem::replace(&mut groups.looking, true) {
            let growth = self.clone();
            tokio::spawn(async move { growth.look_on().await });
        }
        drop(groups);
        self.came.notify_one();
        Following { growth: self.clone(), id, changed }
    }

    /// Looks as long as somebody waits.
    async fn look_on(self: Arc<Growth>) {
        let mut asking = tokio::spawn(std::future::ready(()));
        let mut asked = Instant::now();
        loop {
            let groups: Vec<(u64, Arc<Vec<PathBuf>>)> = {
                let mut groups = self.lock();
                if groups.all.is_empty() {
                    groups.looking = false;
                    return;
                }
                groups.all.iter().map(|(id, group)| (*id, group.paths.clone())).collect()
            };
            // A file server may take long to answer: the looks go on.
            if !asking.is_finished() {
                asked = Instant::now();
            } else if asked.elapsed() >= REFRESH {
                asked = Instant::now();
                let paths: Vec<Arc<Vec<PathBuf>>> = groups.iter().map(|(_, paths)| paths.clone()).collect();
                asking = tokio::spawn(blocking::run(move || refresh(paths.iter().flat_map(|paths| paths.iter()))));
            }
            let look = move || {
                let began = Instant::now();
                let now = groups.into_iter().map(|(id, paths)| (id, sizes(&paths))).collect::<Vec<_>>();
                (now, began.elapsed())
            };
            let took = match panics::caught(blocking::run(look)).await {
                Ok((now, took)) => {
                    self.tell(now);
                    took
                }
                Err(error) => {
                    tracing::error!(error, "a look at the outputs of jobs broke");
                    LONGEST_PACE
                }
            };
            tokio::time::sleep((took * SHARE).clamp(PACE, LONGEST_PACE)).await;
        }
    }

    fn tell(&self, now: Vec<(u64, Vec<Size>)>) {
        let mut groups = self.lock();
        for (id, sizes) in now {
            if let Some(group) = groups.all.get_mut(&id).filter(|group| group.seen != sizes) {
                group.seen = sizes;
                group.changed.notify_one();
            }
        }
    }
}

/// Opens files and the folders that they are in.
pub fn refresh<'a>(paths: impl Iterator<Item = &'a PathBuf> + Clone) {
    let folders: BTreeSet<&Path> = paths.clone().filter_map(|path| path.parent()).collect();
    for folder in folders {
        // One that is not there yet, or not any more, has nothing to show.
        drop(File::open(folder));
    }
    // Of those that are not there the folder tells.
    for path in paths.filter(|path| path.symlink_metadata().is_ok()) {
        drop(regular::open(path));
    }
}

fn sizes(paths: &[PathBuf]) -> Vec<Size> {
    paths.iter().map(|path| path.symlink_metadata().ok().map(|m| (m.ino(), m.len()))).collect()
}

impl Following {
    /// Waits until one of the files grew, shrank, came or went since the last time that this was told.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.growth.lock().all.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn soon(following: &Following) {
        tokio::time::timeout(Duration::from_secs(30), following.changed()).await.unwrap();
    }

    #[tokio::test]
    async fn what_comes_and_grows_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let growth = Growth::new();
        let following = growth.follow(vec![one.clone(), other.clone()]);
        std::fs::write(&other, "").unwrap();
        soon(&following).await;
        std::fs::write(&one, "x").unwrap();
        soon(&following).await;
        std::fs::write(&one, "xy").unwrap();
        soon(&following).await;
        drop(following);
        assert!(growth.lock().all.is_empty());
        let again = growth.follow(vec![one]);
        soon(&again).await;
    }
}
