//! A job's files: brought to where it runs, and sent back. Behind a trait, so that the life-cycle knows nothing of how.

pub mod cfs;
mod listing;

use super::place::Inside;
use super::spec::Job;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Why files could not be moved.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct FilesError {
    /// What was to be moved.
    pub what: String,
    /// Why it was not.
    pub reason: String,
    /// Whether trying again can help.
    pub temporary: bool,
}

/// Moves the files of jobs.
#[async_trait]
pub trait Files: Send + Sync {
    /// Brings snapshots and labels to the file area. May be repeated: what is there is not fetched again. Gives lines for
    /// the reader of the process log.
    async fn bring_in(&self, job: &Job) -> Result<Vec<String>, FilesError>;

    /// Sends labels back. May be repeated. Gives what could not be sent: one bad file blocks no other.
    async fn send_back(&self, job: &Job) -> Result<Vec<String>, FilesError>;

    /// After the process is closed: removes what the specification does not want kept, except what other jobs use.
    async fn clean_up(&self, job: &Job) -> Result<(), FilesError>;
}

/// Which folders of the file area live jobs use, and one lock for each folder.
#[derive(Debug, Default)]
pub struct Places {
    known: Mutex<BTreeMap<Inside, Place>>,
}

#[derive(Debug, Default)]
struct Place {
    users: u32,
    lock: Arc<tokio::sync::Mutex<()>>,
}

/// A job's use of its folders; given up on drop.
#[derive(Debug)]
pub struct Using {
    places: Arc<Places>,
    folders: Vec<Inside>,
}

impl Places {
    /// Notes that a job uses its folders.
    pub fn enter(self: &Arc<Places>, job: &Job) -> Using {
        let snapshots = job.snapshots.iter().map(|s| s.dir.clone());
        let folders: Vec<Inside> = snapshots.chain(job.dirs.iter().map(|d| d.dir.clone())).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for folder in &folders {
            known.entry(folder.clone()).or_default().users += 1;
        }
        drop(known);
        Using { places: self.clone(), folders }
    }

    /// The lock of one folder: transfers of several jobs to and from it stand in line.
    pub fn lock(&self, folder: &Inside) -> Arc<tokio::sync::Mutex<()>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(folder.clone()).or_default().lock.clone()
    }

    /// Whether a job uses a folder, or one in it, or one around it, beside one user (the asking one).
    pub fn used_by_others(&self, folder: &Inside) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = |a: &Inside, b: &Inside| a.as_str().strip_prefix(b.as_str()).is_some_and(|rest| rest.starts_with('/'));
        known.iter().any(|(other, place)| match other == folder {
            true => place.users > 1,
            false => place.users > 0 && (inside(other, folder) || inside(folder, other)),
        })
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        let mut known = self.places.known.lock().unwrap_or_else(PoisonError::into_inner);
        for folder in &self.folders {
            if let Some(place) = known.get_mut(folder) {
                place.users -= 1;
                if place.users == 0 && Arc::strong_count(&place.lock) == 1 {
                    known.remove(folder);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::backend::process::tests::task;
    use crate::executor::spec::DirSync;

    #[test]
    fn a_folder_that_others_use_is_known() {
        let root = tempfile::tempdir().unwrap();
        let mut job = (*task(root.path(), "true", &[], serde_json::json!({})).job).clone();
        let dir = |d: &str| Inside::read(d).unwrap();
        let sync = |d: &str| DirSync {
            label: format!("/{d}"),
            dir: dir(d),
            keep_files: false,
            start_keeps_local: false,
            close_keeps_local: true,
        };
        job.dirs = vec![sync("p/result")];
        let places = Arc::new(Places::default());
        let one = places.enter(&job);
        assert!(!places.used_by_others(&dir("p/result")));
        let two = places.enter(&job);
        assert!(places.used_by_others(&dir("p/result")));
        assert!(places.used_by_others(&dir("p")));
        assert!(places.used_by_others(&dir("p/result/sub")));
        assert!(!places.used_by_others(&dir("p/results")));
        drop(one);
        assert!(!places.used_by_others(&dir("p/result")));
        drop(two);
        assert!(places.known.lock().unwrap().is_empty());
    }
}
