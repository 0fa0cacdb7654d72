//! Whatever the crate `notify` finds on this system (FSEvents on macOS): one watch for each tree.

use super::backend::Backend;
use super::backend::Raw;
use super::backend::What;
use notify::EventKind;
use notify::RecommendedWatcher;
use notify::RecursiveMode;
use notify::Watcher;
use notify::event::ModifyKind;
use notify::event::RenameMode;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use tokio::sync::mpsc;

pub(super) struct Queue {
    watcher: RecommendedWatcher,
    events: mpsc::UnboundedReceiver<notify::Result<notify::Event>>,
    roots: BTreeSet<PathBuf>,
}

impl Queue {
    pub(super) fn new() -> io::Result<Queue> {
        let (tell, events) = mpsc::unbounded_channel();
        let watcher = notify::recommended_watcher(move |event| {
            // Nobody listens any more: the worker ends.
            let _ = tell.send(event);
        });
        Ok(Queue { watcher: watcher.map_err(io_error)?, events, roots: BTreeSet::new() })
    }
}

fn io_error(error: notify::Error) -> io::Error {
    match error.kind {
        notify::ErrorKind::Io(error) => error,
        notify::ErrorKind::MaxFilesWatch => io::Error::from_raw_os_error(libc::ENOSPC),
        notify::ErrorKind::PathNotFound => io::ErrorKind::NotFound.into(),
        kind => io::Error::other(format!("{kind:?}")),
    }
}

fn raw(event: notify::Event) -> Vec<Raw> {
    if event.need_rescan() {
        return vec![Raw::Overflow];
    }
    let what = match event.kind {
        EventKind::Access(_) => return Vec::new(),
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => What::Came,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => What::Went,
        // One of them went and the other came.
        _ => What::Closed,
    };
    let entry = |path: PathBuf| {
        let is_folder = path.symlink_metadata().ok().map(|metadata| metadata.is_dir());
        Raw::Entry { path, is_folder, what }
    };
    event.paths.into_iter().map(entry).collect()
}

impl Backend for Queue {
    fn add(&mut self, folder: &Path) -> io::Result<()> {
        if self.is_watched(folder) {
            return Ok(());
        }
        self.watcher.watch(folder, RecursiveMode::Recursive).map_err(io_error)?;
        self.roots.insert(folder.to_owned());
        Ok(())
    }

    fn remove(&mut self, folder: &Path) {
        if self.roots.remove(folder)
            && let Err(error) = self.watcher.unwatch(folder)
        {
            tracing::trace!(%error, folder = %folder.display(), "the watch was gone already");
        }
    }

    fn remove_below(&mut self, folder: &Path) {
        let below: Vec<PathBuf> = self.roots.iter().filter(|root| root.starts_with(folder)).cloned().collect();
        below.iter().for_each(|root| self.remove(root));
    }

    fn count_below(&self, folder: &Path) -> usize {
        self.roots.iter().filter(|root| root.starts_with(folder)).count()
    }

    fn is_watched(&self, folder: &Path) -> bool {
        self.roots.iter().any(|root| folder.starts_with(root))
    }

    fn is_recursive(&self) -> bool {
        true
    }

    fn is_ordered(&self) -> bool {
        false
    }

    async fn next(&mut self) -> Vec<Raw> {
        loop {
            let told = match self.events.recv().await {
                Some(Ok(event)) => raw(event),
                Some(Err(error)) => {
                    tracing::warn!(%error, "events cannot be read");
                    vec![Raw::Overflow]
                }
                None => std::future::pending().await,
            };
            if !told.is_empty() {
                return told;
            }
        }
    }
}

/// Where the limit of watches stands, in words.
#[cfg(not(target_os = "linux"))]
pub(super) fn limit_hint() -> String {
    "the system gives no more watches: the project is looked at from time to time".into()
}
