//! inotify: one queue for everything, a watch for each folder.
//!
//! The crate `notify` asks inotify for opening of files too, which makes an event of each file that we or anybody else read, and
//! fills the queue by a mere look at a large tree. So `inotify` is spoken to directly here.

use super::backend::Backend;
use super::backend::Raw;
use super::backend::What;
use futures_util::StreamExt;
use inotify::Event;
use inotify::EventMask;
use inotify::EventStream;
use inotify::Inotify;
use inotify::WatchDescriptor;
use inotify::WatchMask;
use inotify::Watches;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

/// Bytes of the buffer that the kernel fills: some hundreds of events.
const BUFFER: usize = 64 * 1024;

pub(super) struct Queue {
    events: EventStream<Vec<u8>>,
    watches: Watches,
    folders: HashMap<WatchDescriptor, Arc<Path>>,
    descriptors: BTreeMap<Arc<Path>, WatchDescriptor>,
}

impl Queue {
    pub(super) fn new() -> io::Result<Queue> {
        let inotify = Inotify::init()?;
        let watches = inotify.watches();
        let events = inotify.into_event_stream(vec![0; BUFFER])?;
        Ok(Queue { events, watches, folders: HashMap::new(), descriptors: BTreeMap::new() })
    }

    /// Watched folders at and below one: paths are in the order of their components.
    fn below<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = &'a Arc<Path>> {
        let from = (Bound::Included(folder), Bound::Unbounded);
        self.descriptors.range::<Path, _>(from).map(|(path, _)| path).take_while(move |path| path.starts_with(folder))
    }

    fn raw(&mut self, event: Event<OsString>) -> Option<Raw> {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return Some(Raw::Overflow);
        }
        let folder = self.folders.get(&event.wd)?.clone();
        if event.mask.contains(EventMask::IGNORED) {
            // The watch is gone with its folder; the number may be given out again.
            self.folders.remove(&event.wd);
            if self.descriptors.get(&folder) == Some(&event.wd) {
                self.descriptors.remove(&folder);
            }
            return None;
        }
        let Some(name) = event.name else {
            let is_gone = event.mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT);
            return is_gone.then(|| Raw::Gone(folder.to_path_buf()));
        };
        let what = if event.mask.intersects(EventMask::CREATE | EventMask::MOVED_TO) {
            What::Came
        } else if event.mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM) {
            What::Went
        } else if event.mask.contains(EventMask::MODIFY) {
            What::Written
        } else {
            What::Closed
        };
        Some(Raw::Entry { path: folder.join(name), is_folder: Some(event.mask.contains(EventMask::ISDIR)), what })
    }
}

impl Backend for Queue {
    fn add(&mut self, folder: &Path) -> io::Result<()> {
        let mask = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MODIFY
            | WatchMask::ATTRIB
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR
            | WatchMask::DONT_FOLLOW
            | WatchMask::EXCL_UNLINK;
        let descriptor = self.watches.add(folder, mask)?;
        let folder: Arc<Path> = folder.into();
        // The same folder under another name before: it was moved.
        if let Some(earlier) = self.folders.insert(descriptor.clone(), folder.clone())
            && earlier != folder
        {
            self.descriptors.remove(&earlier);
        }
        self.descriptors.insert(folder, descriptor);
        Ok(())
    }

    fn remove(&mut self, folder: &Path) {
        let Some(descriptor) = self.descriptors.remove(folder) else { return };
        self.folders.remove(&descriptor);
        // It fails where the folder is gone, and the watch with it.
        if let Err(error) = self.watches.remove(descriptor) {
            tracing::trace!(%error, folder = %folder.display(), "the watch was gone already");
        }
    }

    fn remove_below(&mut self, folder: &Path) {
        let below: Vec<Arc<Path>> = self.below(folder).cloned().collect();
        below.iter().for_each(|path| self.remove(path));
    }

    fn count_below(&self, folder: &Path) -> usize {
        self.below(folder).count()
    }

    fn is_watched(&self, folder: &Path) -> bool {
        self.descriptors.contains_key(folder)
    }

    fn is_recursive(&self) -> bool {
        false
    }

    fn is_ordered(&self) -> bool {
        true
    }

    async fn next(&mut self) -> Vec<Raw> {
        loop {
            match self.events.next().await {
                Some(Ok(event)) => {
                    if let Some(raw) = self.raw(event) {
                        return vec![raw];
                    }
                }
                Some(Err(error)) => {
                    // Nothing can be said of what was in the queue.
                    tracing::warn!(%error, "events cannot be read");
                    return vec![Raw::Overflow];
                }
                None => std::future::pending().await,
            }
        }
    }
}

/// Where the limit of watches stands, in words.
///
/// There are two: one of the machine, and one of the user namespace (a container's may be lower). The lower one counts.
pub(super) fn limit_hint() -> String {
    let limit = |name: &str| {
        let text = std::fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/")));
        (text.ok().and_then(|text| text.trim().parse::<u64>().ok()), name.to_owned())
    };
    let (machine, here) = (limit("fs.inotify.max_user_watches"), limit("user.max_inotify_watches"));
    let (limit, name) = if here.0.is_some() && here.0 < machine.0 { here } else { machine };
    let limit = limit.map_or("unknown".into(), |limit| limit.to_string());
    format!(
        "the limit of watches is reached ({name} is {limit}): folders beyond it are looked at from time to time; \
         `sudo sysctl {name}=1048576` raises it, and `pollinatord reload` makes use of that"
    )
}
