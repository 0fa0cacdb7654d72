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
                    drop_watches(backend, &watched, &elsewhere(&self.projects, id));
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
        let shared = elsewhere(&self.projects, id);
        let Some(watched) = self.projects.get_mut(&id) else { return };
        self.queue.retain(|(project, _)| *project != id);
        (watched.rules, watched.queued, watched.limited, watched.reason) = (None, 0, false, None);
        (watched.polling, watched.installing) = (false, true);
        watched.refused.clear();
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
            drop_watches(backend, watched, &shared);
        }
        watched.find_places();
        if watched.lost {
            watched.reason = Some(format!("the folder {} is not there", folder.display()));
            watched.installing = false;
        } else if polled.is_some() {
            (watched.polling, watched.reason, watched.installing) = (true, polled, false);
        } else {
            let recursive = self.backend.as_ref().is_some_and(Queue::is_recursive);
            // A link is watched in the folder that it lies in, and what stands behind it at its real place.
            let folders: Vec<PathBuf> = if recursive {
                [folder].into_iter().chain(watched.elsewhere().map(Path::to_owned)).collect()
            } else {
                let places = [watched.cfs()].into_iter().chain(watched.roots());
                [folder].into_iter().chain(places.map(|place| watched.real(&place))).collect()
            };
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
            Ok(()) => watched.forgive_below(folder),
            // Gone since it was seen, or no folder any more.
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return watched.forgive_below(folder);
            }
            Err(error) if is_limit(&error) => {
                tracing::warn!(project = %watched.target.folder.display(), "the limit of watches is reached");
                (watched.limited, watched.reason) = (true, Some(limit_hint()));
                return;
            }
            Err(error) => {
                // The look at the tree lists it as a problem of its own.
                watched.refused.insert(folder.to_owned(), error.to_string());
                return;
            }
        }
        let names = watched.names(folder);
        let spots: Vec<Spot> = names.iter().map(|name| watched.spot(name)).collect();
        let is_root = names.iter().any(|name| watched.roots().contains(name));
        if backend.is_recursive() || !(is_root || spots.iter().any(|spot| matches!(spot, Spot::Below(..) | Spot::Unnamed))) {
            return;
        }
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let is_wanted = |watched: &mut Watched| watched.names(&path).iter().any(|name| !watched.is_left_out(name, true));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_wanted(watched) {
                watched.queued += 1;
                self.queue.push_back((id, path));
            }
        }
        // What was made in it before its watch stood made no event.
        if !watched.installing {
            for spot in spots {
                if let Spot::Below(tree, path) = spot {
                    self.send(Signal::Touched { project: id, tree, path, open: false });
                }
            }
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
                    |w: &Watched| w.names(&path).iter().any(|name| !matches!(w.spot(name), Spot::Below(..) | Spot::Unnamed));
                let concerned: Vec<ProjectId> = self.projects.iter().filter(|(_, w)| is_place(w)).map(|(id, _)| *id).collect();
                concerned.into_iter().for_each(|id| self.look_at(id));
            }
            Raw::Entry { path, is_folder, what } => {
                if path.parent() == Some(&self.cookies) {
                    return self.cookie(&path, what);
                }
                let names = |(id, watched): (&ProjectId, &Watched)| {
                    watched.names(&path).into_iter().map(|name| (*id, name)).collect::<Vec<_>>()
                };
                let concerned: Vec<(ProjectId, PathBuf)> = self.projects.iter().flat_map(names).collect();
                for (id, name) in concerned {
                    self.entry(id, (&path, &name), is_folder, what);
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

    /// An entry of a watched folder: its path, and what it is called in the project.
    fn entry(&mut self, id: ProjectId, (path, name): (&Path, &Path), is_folder: Option<bool>, what: What) {
        let Some(watched) = self.projects.get_mut(&id) else { return };
        match watched.spot(name) {
            Spot::Elsewhere => {}
            Spot::Settings => self.send(Signal::Settings { project: id }),
            Spot::Rules => {
                self.send(Signal::Rescan { project: id });
                self.install(id);
            }
            // Its attributes: it may have become readable.
            Spot::Root if what == What::Closed && watched.refused.contains_key(path) => self.install(id),
            Spot::Root if what == What::Closed || what == What::Written => {}
            Spot::Root => {
                self.send(Signal::Rescan { project: id });
                self.install(id);
            }
            Spot::Unnamed => self.send(Signal::Rescan { project: id }),
            Spot::Below(tree, below) => self.below(id, (path, name), is_folder, what, (tree, below)),
        }
    }

    fn below(
        &mut self,
        id: ProjectId,
        (path, name): (&Path, &Path),
        is_folder: Option<bool>,
        what: What,
        (tree, below): (crate::event::Tree, String),
    ) {
        let (Some(watched), Some(backend)) = (self.projects.get_mut(&id), &mut self.backend) else { return };
        let is_folder = is_folder.unwrap_or_else(|| backend.count_below(path) > 0);
        let left_out = if backend.is_recursive() {
            watched.is_left_out_below(name, is_folder)
        } else {
            watched.is_left_out(name, is_folder)
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
                What::Went => {
                    backend.remove_below(path);
                    watched.forgive_below(path);
                    self.tell_state(id);
                }
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
        let cfs = watched.cfs();
        let outside: Vec<&Path> = watched.elsewhere().filter(|place| !place.starts_with(&cfs)).collect();
        let is_first = |place: &&&Path| !outside.iter().any(|other| other != *place && place.starts_with(other));
        let mut roots: Vec<&Path> = outside.iter().filter(is_first).copied().chain([cfs.as_path()]).collect();
        roots.dedup();
        let places = |backend: &Queue| {
            let below: usize = roots.iter().map(|root| backend.count_below(root)).sum();
            usize::from(backend.is_watched(&watched.target.folder)) + below
        };
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

/// Another project may stand below this one's folder: only what is this one's is dropped. `shared`: folders that others watch.
fn drop_watches(backend: &mut Queue, watched: &Watched, shared: &[PathBuf]) {
    backend.remove_below(&watched.cfs());
    backend.remove(&watched.target.folder);
    for place in watched.elsewhere() {
        // Two projects may have the same data.
        if !shared.iter().any(|other| other.starts_with(place) || place.starts_with(other)) {
            backend.remove_below(place);
        }
    }
}

/// Where other projects than one are: their trees, and what stands behind links in them.
fn elsewhere(projects: &BTreeMap<ProjectId, Watched>, but: ProjectId) -> Vec<PathBuf> {
    let others = projects.iter().filter(|(id, _)| **id != but);
    others.flat_map(|(_, other)| other.elsewhere().map(Path::to_owned).chain([other.cfs()])).collect()
}

async fn next(backend: &mut Option<Queue>) -> Vec<Raw> {
    match backend {
        Some(backend) => backend.next().await,
        None => std::future::pending().await,
    }
}

/// Why the system tells nothing of these folders: others may write them.
fn network(roots: &[PathBuf]) -> Option<String> {
    // Of the root itself: it may be where something is mounted, or a link to a folder there.
    let shared = roots.iter().find(|root| crate::sqlite::is_on_shared_file_system(root))?;
    Some(format!(
        "{} is on a network file system, which does not tell of what other machines write: it is looked at from time to time",
        shared.display()
    ))
}
