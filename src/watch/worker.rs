//! The watching thread: takes orders and events, sets watches little by little, tells signals.

use super::Command;
use super::ProjectId;
use super::Signal;
use super::backend::Backend;
use super::backend::Raw;
use super::backend::What;
use super::backend::is_limit;
#[cfg(target_os = "linux")]
use super::linux::Queue;
#[cfg(target_os = "linux")]
use super::linux::limit_hint;
#[cfg(not(target_os = "linux"))]
use super::portable::Queue;
#[cfg(not(target_os = "linux"))]
use super::portable::limit_hint;
use super::projects::Spot;
use super::projects::Watched;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;

/// So many folders get their watch before events are taken again.
const AT_ONCE: usize = 128;
/// How often it is looked whether the same folders still stand where they stood: nothing tells of a file system that is mounted
/// over one.
const LOOK: Duration = Duration::from_secs(5);
/// How the cookies are called.
const COOKIE: &str = "cookie-";

pub(super) struct Worker {
    cookies: PathBuf,
    tell: mpsc::UnboundedSender<Signal>,
    backend: Option<Queue>,
    /// Why there is no backend.
    broken: Option<String>,
    projects: BTreeMap<ProjectId, Watched>,
    queue: VecDeque<(ProjectId, PathBuf)>,
}

impl Worker {
    pub(super) fn new(cookies: PathBuf, tell: mpsc::UnboundedSender<Signal>) -> Worker {
        Worker { cookies, tell, backend: None, broken: None, projects: BTreeMap::new(), queue: VecDeque::new() }
    }

    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Command>) {
        self.begin();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                events = next(&mut self.backend) => events.into_iter().for_each(|event| self.event(event)),
                order = orders.recv() => match order {
                    Some(order) => self.order(order),
                    None => return,
                },
                () = std::future::ready(()), if !self.queue.is_empty() => self.install_some(),
                _ = look.tick() => self.look(),
            }
        }
    }

    /// Opens the system's queue. Where there is none, everything is polled.
    fn begin(&mut self) {
        let opened = Queue::new().and_then(|mut queue| {
            if queue.is_ordered() {
                queue.add(&self.cookies)?;
            }
            Ok(queue)
        });
        match opened {
            Ok(queue) => (self.backend, self.broken) = (Some(queue), None),
            Err(error) => {
                let hint = "fs.inotify.max_user_instances limits how many programs may watch";
                self.broken =
                    Some(format!("the system gives no events ({error}): everything is looked at from time to time; {hint}"));
            }
        }
    }

    fn order(&mut self, order: Command) {
        match order {
            Command::Watch(target) => {
                let id = target.id;
                self.projects.insert(id, Watched::new(target));
                self.install(id);
            }
            Command::Unwatch(id) => {
                if let (Some(watched), Some(backend)) = (self.projects.remove(&id), &mut self.backend) {
                    drop_watches(backend, &watched);
                }
                self.queue.retain(|(project, _)| *project != id);
            }
            Command::Again => {
                if self.backend.is_none() {
                    self.begin();
                }
                self.projects.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.install(id));
            }
            Command::Barrier(number, tell) => {
                // Who asked is gone: then nobody needs the answer.
                let _ = tell.send(self.make_cookie(number));
            }
        }
    }

    fn make_cookie(&mut self, number: u64) -> bool {
        if !self.backend.as_ref().is_some_and(Queue::is_ordered) {
            return false;
        }
        let path = self.cookies.join(format!("{COOKIE}{number}"));
        let made = std::fs::File::create(&path).and_then(|_| std::fs::remove_file(&path));
        if let Err(error) = &made {
            tracing::warn!(%error, path = %path.display(), "no cookie can be made: runs look at the whole tree");
        }
        made.is_ok()
    }

    /// Sets all watches of a project anew.
    fn install(&mut self, id: ProjectId) {
        let Some(watched) = self.projects.get_mut(&id) else { return };
        self.queue.retain(|(project, _)| *project != id);
        (watched.rules, watched.queued, watched.limited, watched.reason) = (None, 0, false, None);
        (watched.polling, watched.installing) = (false, true);
        watched.stand = watched.standing();
        watched.lost = watched.stand[0].is_none();
        let folder = watched.target.folder.clone();
        let polled = match (&self.broken, network(&watched.roots())) {
            _ if watched.target.poll => Some("it is looked at from time to time, as the settings say".to_owned()),
            (Some(reason), _) => Some(reason.clone()),
            (None, Some(reason)) => Some(reason),
            (None, None) => None,
        };
        if let Some(backend) = &mut self.backend {
            drop_watches(backend, watched);
        }
        if watched.lost {
            watched.reason = Some(format!("the folder {} is not there", folder.display()));
            watched.installing = false;
        } else if polled.is_some() {
            (watched.polling, watched.reason, watched.installing) = (true, polled, false);
        } else {
            let recursive = self.backend.as_ref().is_some_and(Queue::is_recursive);
            let folders =
                if recursive { vec![folder] } else { [folder, watched.cfs()].into_iter().chain(watched.roots()).collect() };
            watched.queued = folders.len();
            self.queue.extend(folders.into_iter().map(|folder| (id, folder)));
        }
        self.tell_state(id);
    }

    fn install_some(&mut self) {
        let mut concerned = Vec::new();
        for _ in 0..AT_ONCE {
            let Some((id, folder)) = self.queue.pop_front() else { break };
            self.install_one(id, &folder);
            if !concerned.contains(&id) {
                concerned.push(id);
            }
        }
        for id in concerned {
            if let Some(watched) = self.projects.get_mut(&id)
                && watched.queued == 0
            {
                watched.installing = false;
                self.tell_state(id);
            }
        }
    }

    /// Watches a folder, then looks for folders in it: one that is made meanwhile is found twice rather than never.
    fn install_one(&mut self, id: ProjectId, folder: &Path) {
        let (Some(watched), Some(backend)) = (self.projects.get_mut(&id), &mut self.backend) else { return };
        watched.queued = watched.queued.saturating_sub(1);
        if watched.limited {
            return;
        }
        match backend.add(folder) {
            Ok(()) => {}
            // Gone since it was seen, or no folder any more.
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return,
            Err(error) if is_limit(&error) => {
                tracing::warn!(project = %watched.target.folder.display(), "the limit of watches is reached");
                (watched.limited, watched.reason) = (true, Some(limit_hint()));
                return;
            }
            Err(error) => {
                // The look at the tree lists it as a problem of its own.
                (watched.limited, watched.reason) = (true, Some(format!("{} cannot be watched: {error}", folder.display())));
                return;
            }
        }
        let spot = watched.spot(folder);
        let is_root = spot == Spot::Root && watched.roots().iter().any(|root| root == folder);
        if backend.is_recursive() || !(is_root || matches!(spot, Spot::Below(..) | Spot::Unnamed)) {
            return;
        }
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !watched.is_left_out(&path, true) {
                watched.queued += 1;
                self.queue.push_back((id, path));
            }
        }
        // What was made in it before its watch stood made no event.
        if !watched.installing
            && let Spot::Below(tree, path) = spot
        {
            self.send(Signal::Touched { project: id, tree, path, open: false });
        }
    }

    fn event(&mut self, event: Raw) {
        match event {
            Raw::Overflow => {
                let ids: Vec<ProjectId> = self.projects.keys().copied().collect();
                for id in ids {
                    if let Some(watched) = self.projects.get_mut(&id) {
                        watched.overflows += 1;
                    }
                    self.send(Signal::Rescan { project: id });
                    // Folders may have been made.
                    self.install(id);
                }
            }
            Raw::Gone(path) => {
                // That one below a tree is gone is told of by its parent.
                let is_place =
                    |w: &Watched| path.starts_with(&w.target.folder) && !matches!(w.spot(&path), Spot::Below(..) | Spot::Unnamed);
                let concerned: Vec<ProjectId> = self.projects.iter().filter(|(_, w)| is_place(w)).map(|(id, _)| *id).collect();
                concerned.into_iter().for_each(|id| self.look_at(id));
            }
            Raw::Entry { path, is_folder, what } => {
                if path.parent() == Some(&self.cookies) {
                    return self.cookie(&path, what);
                }
                let concerned: Vec<ProjectId> =
                    self.projects.iter().filter(|(_, w)| path.starts_with(&w.target.folder)).map(|(id, _)| *id).collect();
                for id in concerned {
                    self.entry(id, &path, is_folder, what);
                }
            }
        }
    }

    fn cookie(&mut self, path: &Path, what: What) {
        let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix(COOKIE)?.parse().ok());
        if let (Some(number), What::Came) = (number, what) {
            self.send(Signal::Barrier(number));
        }
    }

    fn entry(&mut self, id: ProjectId, path: &Path, is_folder: Option<bool>, what: What) {
        let Some(watched) = self.projects.get_mut(&id) else { return };
        match watched.spot(path) {
            Spot::Elsewhere => {}
            Spot::Settings => self.send(Signal::Settings { project: id }),
            Spot::Rules => {
                self.send(Signal::Rescan { project: id });
                self.install(id);
            }
            Spot::Root if what == What::Closed || what == What::Written => {}
            Spot::Root => {
                self.send(Signal::Rescan { project: id });
                self.install(id);
            }
            Spot::Unnamed => self.send(Signal::Rescan { project: id }),
            Spot::Below(tree, below) => self.below(id, path, is_folder, what, tree, below),
        }
    }

    fn below(
        &mut self,
        id: ProjectId,
        path: &Path,
        is_folder: Option<bool>,
        what: What,
        tree: crate::event::Tree,
        below: String,
    ) {
        let (Some(watched), Some(backend)) = (self.projects.get_mut(&id), &mut self.backend) else { return };
        let is_folder = is_folder.unwrap_or_else(|| backend.count_below(path) > 0);
        let left_out = if backend.is_recursive() {
            watched.is_left_out_below(path, is_folder)
        } else {
            watched.is_left_out(path, is_folder)
        };
        if left_out {
            return;
        }
        let open = what == What::Written;
        if is_folder && !backend.is_recursive() {
            match what {
                // The watches below a folder that was moved still tell of its old place.
                What::Came => {
                    watched.queued += 1;
                    // It may have brought rules with it.
                    watched.rules = None;
                    backend.remove_below(path);
                    self.queue.push_back((id, path.to_owned()));
                    self.tell_state(id);
                }
                What::Went => backend.remove_below(path),
                // Its attributes: what it holds is told of by itself. It may have become readable.
                _ if backend.is_watched(path) => return,
                _ => {
                    watched.queued += 1;
                    self.queue.push_back((id, path.to_owned()));
                }
            }
        }
        self.send(Signal::Touched { project: id, tree, path: below, open });
    }

    fn look(&mut self) {
        self.projects.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.look_at(id));
    }

    /// Begins anew where other folders stand at a project's places than when its watches were set.
    fn look_at(&mut self, id: ProjectId) {
        let Some(watched) = self.projects.get(&id) else { return };
        if watched.standing() != watched.stand {
            self.send(Signal::Rescan { project: id });
            self.install(id);
        }
    }

    fn tell_state(&mut self, id: ProjectId) {
        let Some(watched) = self.projects.get_mut(&id) else { return };
        let places =
            |backend: &Queue| usize::from(backend.is_watched(&watched.target.folder)) + backend.count_below(&watched.cfs());
        let watches = self.backend.as_ref().map_or(0, places);
        if let Some(state) = watched.news(watches) {
            self.send(Signal::State { project: id, state });
        }
    }

    fn send(&self, signal: Signal) {
        // Nobody listens any more: the orders end, too.
        let _ = self.tell.send(signal);
    }
}

/// Another project may stand below this one's folder: only what is this one's is dropped.
fn drop_watches(backend: &mut Queue, watched: &Watched) {
    backend.remove_below(&watched.cfs());
    backend.remove(&watched.target.folder);
}

async fn next(backend: &mut Option<Queue>) -> Vec<Raw> {
    match backend {
        Some(backend) => backend.next().await,
        None => std::future::pending().await,
    }
}

/// Why the system tells nothing of these folders: others may write them.
fn network(roots: &[PathBuf]) -> Option<String> {
    let shared = roots.iter().find(|root| root.exists() && crate::sqlite::on_shared_file_system(root))?;
    Some(format!(
        "{} is on a network file system, which does not tell of what other machines write: it is looked at from time to time",
        shared.display()
    ))
}
