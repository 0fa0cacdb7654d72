//! The life of the agent: one task that owns everything, takes messages in the order in which they come, and hands work out.
//!
//! [`serve`] reads as its life from start to end. Nothing in the loop waits for the disk of a project or for a network: that is
//! done by tasks of their own, which send what came of it.

mod requests;
mod runs;
mod says;
mod work;

use super::Error;
use super::control::model::Line;
use super::control::model::Refusal;
use super::control::model::StatusReply;
use super::control::model::Way;
use super::control::server;
use super::control::server::Request;
use super::engine::Action;
use super::engine::Ask;
use super::engine::AskId;
use super::engine::Input;
use super::engine::Millis;
use super::engine::Outcome;
use super::gitlock;
use super::links::Links;
use super::lock;
use super::member::Member;
use super::member::millis_until;
use super::operations::Freshness;
use super::operations::Report;
use super::roster::Entry;
use super::roster::Roster;
use crate::blocking;
use crate::event::Event;
use crate::lock::Lost;
use crate::run::Connection;
use crate::run::trees::Frozen;
use crate::watch::ProjectId;
use crate::watch::Signal;
use crate::watch::Target;
use crate::watch::Watcher;
use jiff::SignedDuration;
use jiff::Timestamp;
use requests::unknown;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use work::answer_ask;
use work::begin;

/// How often runs that others made are looked for, and whether the clock jumped.
const ROUND: Duration = Duration::from_secs(30);
/// How often it is looked whether the state folder is still there: one question to the file system.
const STANDS: Duration = Duration::from_secs(5);
/// A clock that is off by more has jumped, or the machine slept.
const JUMP: i64 = 5;
/// So long nothing is begun while git works, before it is looked again.
const HOLD: Millis = 200;
/// How long work under way may take when the agent is to end.
const GRACE: Duration = Duration::from_secs(3);

/// What the agent's task hears.
pub enum Message {
    /// An operation has ended.
    Ended(ProjectId, Box<Report>),
    /// Something happened in one.
    Progress(ProjectId, Event),
    /// A process has ended, and is in the books.
    Closed(ProjectId, String),
    /// Somebody asks over the socket.
    Request(Request),
    /// The way to a project's colony is open, as its settings are now.
    Connected(ProjectId, Connection),
    /// A barrier is not to be waited for.
    NoBarrier(u64),
}

/// How the agent is started.
pub struct Options {
    /// State folder.
    pub state: PathBuf,
    /// Look at all projects from time to time instead of being told.
    pub poll: bool,
}

/// Serves until `stop`; `reload` is heard each time the settings are to be read again. `ready` is called when it answers. `beat`: how
/// often a service manager is told that it lives.
///
/// # Errors
/// Another agent runs, or the state folder cannot be used, or was taken away.
pub async fn serve(
    options: Options,
    stop: CancellationToken,
    mut reload: mpsc::UnboundedReceiver<()>,
    ready: impl FnOnce(),
    beat: Option<Duration>,
) -> Result<(), Error> {
    let (state, stopped) = (options.state.clone(), stop.clone());
    let lock = blocking::run(move || lock::take(&state, &stopped)).await?;
    let roster = Roster::open(&options.state)?;
    let cookies = options.state.join("cookies");
    let failed = |source| Error::Folder { what: "the folder of cookies", path: cookies.clone(), source };
    let (watcher, mut signals) = Watcher::start(&cookies).map_err(failed)?;
    let (inbox, mut messages) = mpsc::unbounded_channel();
    let socket = server::open(&options.state, inbox.clone())?;
    let mut daemon = Daemon::new(options, roster, watcher, inbox);
    daemon.take_up_all();
    ready();
    let mut beats = tokio::time::interval(beat.unwrap_or(ROUND));
    let mut round = tokio::time::interval(ROUND);
    round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stands = tokio::time::interval(STANDS);
    stands.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !daemon.stopping && !stop.is_cancelled() {
        let wake = daemon.wake();
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(signal) = signals.recv() => daemon.signal(signal),
            Some(message) = messages.recv() => daemon.message(message),
            Some(()) = reload.recv() => daemon.reload(),
            // Told from the loop itself: where it is stuck, nobody says that it lives.
            _ = beats.tick(), if beat.is_some() => alive(),
            _ = stands.tick() => daemon.lost = lock.keep().err(),
            _ = round.tick() => daemon.round(),
            () = sleep_until(wake) => daemon.tick(),
        }
        if daemon.lost.is_some() {
            break;
        }
        daemon.tell_changes();
    }
    drop(socket);
    daemon.end().await;
    match daemon.lost {
        Some(Lost::Gone) => Err(Error::FolderGone { path: daemon.options.state }),
        Some(Lost::Taken(holder)) => Err(Error::Running { holder: holder.to_string() }),
        None => Ok(()),
    }
}

fn alive() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]) {
        tracing::debug!(%error, "the service manager does not listen");
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

struct Daemon {
    options: Options,
    began: Instant,
    started: Timestamp,
    /// Time of day, and time since the start, at the last look.
    clock: (Timestamp, Instant),
    roster: Roster,
    watcher: Watcher,
    links: Links,
    inbox: mpsc::UnboundedSender<Message>,
    members: BTreeMap<ProjectId, Member>,
    barriers: HashMap<u64, (ProjectId, AskId, Ask)>,
    next: u64,
    watchers: Vec<mpsc::UnboundedSender<StatusReply>>,
    last_told: Option<StatusReply>,
    changed: bool,
    stopping: bool,
    /// Why the state folder is not its own any more.
    lost: Option<Lost>,
}

impl Daemon {
    fn new(options: Options, roster: Roster, watcher: Watcher, inbox: mpsc::UnboundedSender<Message>) -> Daemon {
        let (began, started) = (Instant::now(), Timestamp::now());
        Daemon {
            options,
            began,
            started,
            clock: (started, began),
            roster,
            watcher,
            links: Links::default(),
            inbox,
            members: BTreeMap::new(),
            barriers: HashMap::new(),
            next: 1,
            watchers: Vec::new(),
            last_told: None,
            changed: true,
            stopping: false,
            lost: None,
        }
    }

    fn now(&self) -> Millis {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A name that was not used before, for projects, asks and barriers.
    fn new_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn wake(&self) -> Option<Instant> {
        let first = self.members.values().filter_map(|member| member.engine.wake()).min()?;
        Some(self.began + Duration::from_millis(first))
    }

    // Projects come and go.

    fn take_up_all(&mut self) {
        for entry in self.roster.entries().to_vec() {
            self.take_up(entry);
        }
    }

    fn take_up(&mut self, entry: Entry) -> ProjectId {
        let (id, now) = (self.new_number(), self.now());
        let member = Member::new(entry.clone(), now);
        self.watcher.watch(Target { id, folder: entry.root.clone(), poll: self.options.poll });
        self.members.insert(id, member);
        if entry.paused {
            let until = entry.paused_until.and_then(|ns| Timestamp::from_nanosecond(i128::from(ns)).ok());
            let until = until.map(|until| now + millis_until(Timestamp::now(), until));
            self.step(id, Input::Pause(until));
        }
        self.connect(id);
        id
    }

    /// Opens the way to a project's colony in a task of its own. Operations would, but where saves are not brought over there may be
    /// none, and runs are to be followed and brought home all the same.
    fn connect(&mut self, id: ProjectId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let (links, profile, inbox) = (self.links.clone(), member.entry.profile.clone(), self.inbox.clone());
        member.connecting = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            match links.get(&profile).await {
                Ok(connection) => drop(inbox.send(Message::Connected(id, connection))),
                Err(failure) => tracing::warn!(reason = failure.reason, "no way to the colony"),
            }
        })));
    }

    fn connected(&mut self, id: ProjectId, connection: Connection) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.connecting = None;
        if member.connection.is_none() {
            member.connection = Some(connection);
            self.changed = true;
            // First what was cut off: nothing else works on the project yet.
            self.settle(id);
            self.adopt_runs(id);
        }
    }

    fn find(&self, root: &Path) -> Option<ProjectId> {
        self.members.iter().find(|(_, member)| member.entry.root == root).map(|(id, _)| *id)
    }

    /// The project that a folder belongs to: it, or the nearest one above.
    fn find_above(&self, folder: &Path) -> Option<ProjectId> {
        folder.ancestors().find_map(|folder| self.find(folder))
    }

    fn add(&mut self, root: &Path, profile: Option<String>) -> Result<(), Refusal> {
        let refuse = |message: String, hint: &str| Refusal { message, hint: Some(hint.into()), code: 2, ..Refusal::default() };
        let project = crate::project::load(root)
            .map_err(|e| Refusal { message: e.to_string(), hint: e.hint(), code: 2, ..Refusal::default() })?
            .0;
        let root = project.folder;
        if self.find(&root).is_none() {
            let clash = self.members.values().find(|member| overlap(&member.entry.root, &root));
            if let Some(other) = clash {
                let message = format!("{} lies in a tree of the project {}", root.display(), other.entry.root.display());
                return Err(refuse(message, "projects in each other's trees would be brought over twice; move one of them"));
            }
        }
        let entry = Entry { root: root.clone(), profile, paused: false, paused_until: None };
        self.roster.put(entry.clone()).map_err(Refusal::from)?;
        if let Some(id) = self.find(&root) {
            self.drop_member(id);
        }
        self.take_up(entry);
        Ok(())
    }

    fn remove(&mut self, root: &Path) -> Result<(), Refusal> {
        let removed = self.roster.remove(root).map_err(Refusal::from)?;
        if !removed {
            return Err(unknown(root));
        }
        if let Some(id) = self.find(root) {
            self.drop_member(id);
        }
        Ok(())
    }

    fn drop_member(&mut self, id: ProjectId) {
        self.watcher.unwatch(id);
        let Some(member) = self.members.remove(&id) else { return };
        for task in member.task.iter().chain(member.followed.values()) {
            task.abort();
        }
        let failure =
            super::engine::Failure { reason: "the project was taken out of the agent".into(), code: 1, ..Default::default() };
        for asked in member.asks.values() {
            let _ = asked.tell.send(Line::Failed(failure.clone()));
        }
    }

    // What happens to them.

    fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Touched { project, tree, path, open } => self.step(project, Input::Touched { place: (tree, path), open }),
            Signal::Rescan { project } => self.step(project, Input::Rescan),
            Signal::Settings { project } => self.read_settings(project),
            Signal::State { project, state } => {
                let watching = Member::watching(&state);
                if let Some(member) = self.members.get_mut(&project) {
                    let was_lost = member.watch.as_ref().is_some_and(|watch| watch.lost);
                    member.watch = Some(state);
                    if was_lost || member.project.is_err() {
                        self.read_settings(project);
                    }
                }
                self.step(project, Input::Watching(watching));
            }
            Signal::Barrier(number) => self.pass_barrier(number, true),
        }
    }

    fn read_settings(&mut self, project: ProjectId) {
        if let Some(member) = self.members.get_mut(&project) {
            let manners = member.read_again();
            // The next run is of what is written there now.
            member.frozen = None;
            self.step(project, Input::Manners(manners));
            self.step(project, Input::Rescan);
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Ended(project, report) => self.ended(project, *report),
            Message::Progress(project, event) => self.progress(project, event),
            Message::Closed(project, run) => self.closed(project, run),
            Message::Request(request) => self.request(request),
            Message::Connected(project, connection) => self.connected(project, connection),
            Message::NoBarrier(number) => self.pass_barrier(number, false),
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        let due: Vec<ProjectId> =
            self.members.iter().filter(|(_, m)| m.engine.wake().is_some_and(|wake| wake <= now)).map(|(id, _)| *id).collect();
        due.into_iter().for_each(|id| self.step(id, Input::Tick));
    }

    /// Every now and then: did the clock jump, did others make runs.
    fn round(&mut self) {
        let (day, instant) = self.clock;
        self.clock = (Timestamp::now(), Instant::now());
        let by_day = self.clock.0.duration_since(day);
        let by_watch = SignedDuration::try_from(self.clock.1 - instant).unwrap_or_default();
        let ids: Vec<ProjectId> = self.members.keys().copied().collect();
        if (by_day - by_watch).as_secs().abs() > JUMP {
            tracing::info!("the clock jumped, or the machine slept: everything is looked at again");
            ids.iter().for_each(|id| self.step(*id, Input::WokeUp));
        }
        self.forget_fetched();
        for id in ids {
            match self.members.get(&id) {
                Some(member)
                    if member.connection.is_none() && member.connecting.as_ref().is_none_or(|task| task.is_finished()) =>
                {
                    self.connect(id);
                }
                _ => {
                    self.adopt_runs(id);
                    self.settle(id);
                }
            }
        }
    }

    fn reload(&mut self) {
        tracing::info!("settings are read again");
        self.links.forget();
        self.watcher.again();
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            if let Some(member) = self.members.get_mut(&id) {
                // Those who follow runs hold the keys of yesterday.
                member.followed.drain().for_each(|(_, task)| task.abort());
                member.connection = None;
            }
            self.connect(id);
            self.read_settings(id);
            self.step(id, Input::Resume);
        }
    }

    /// Gives an input to a project's engine, and does what it orders.
    fn step(&mut self, id: ProjectId, input: Input) {
        let now = self.now();
        let Some(member) = self.members.get_mut(&id) else { return };
        if matches!(input, Input::Resume) && member.entry.paused {
            return;
        }
        self.changed = true;
        // A checkout is one change, however long it takes. Events are looked at only where they may begin something.
        let may_begin = !matches!(input, Input::Touched { .. }) || member.engine.wake().is_some_and(|wake| wake <= now);
        if may_begin && member.engine.is_restless(now) && gitlock::is_working(&member.entry.root) {
            member.engine.step(now, Input::Hold(now + HOLD));
        }
        for action in member.engine.step(now, input) {
            match action {
                Action::Answer(ask, answer) => answer_ask(member, ask, answer),
                action => begin(member, id, action, &self.links, &self.inbox),
            }
        }
    }

    fn progress(&mut self, id: ProjectId, event: Event) {
        let Some(member) = self.members.get_mut(&id) else { return };
        match event {
            Event::TransferStarted { direction, .. } => member.transfer = Some(direction),
            Event::Note { message } => member.note = Some(message),
            _ => member.transfer = None,
        }
        self.changed = true;
    }

    fn ended(&mut self, id: ProjectId, report: Report) {
        let Some(member) = self.members.get_mut(&id) else { return };
        (member.task, member.transfer, member.note) = (None, None, None);
        if let Some(connection) = report.connection {
            member.connection = Some(connection);
        }
        member.reachable = match &report.outcome {
            Outcome::Done(_) => Some(true),
            Outcome::Failed { failure, .. } if failure.offline => Some(false),
            Outcome::Failed { .. } => member.reachable,
        };
        match report.frozen {
            Freshness::Keep => {}
            Freshness::Forget => member.frozen = None,
            Freshness::Now((snapshot_id, label, digest)) => {
                member.frozen = Some((Frozen { snapshot_id, label, digest }, Instant::now()));
            }
        }
        if let Outcome::Failed { failure, .. } = &report.outcome {
            tracing::warn!(project = %member.entry.root.display(), reason = failure.reason, "failed");
        }
        for run in &report.made {
            tracing::info!(project = %member.entry.root.display(), run = run.run_id, process = run.process_id, "submitted");
        }
        if let Some(asked) = member.by.take().and_then(|ask| member.asks.get_mut(&ask)) {
            asked.runs = report.made.iter().map(|run| run.run_id.clone()).collect();
        }
        self.step(id, Input::Ended(report.outcome));
        self.adopt_runs(id);
    }

    /// Gives work under way a moment; what is not finished then is taken up by the next agent.
    async fn end(&mut self) {
        let tasks: Vec<_> = self.members.values_mut().filter_map(|member| member.task.take()).collect();
        let aborts: Vec<_> = tasks.iter().map(tokio::task::JoinHandle::abort_handle).collect();
        if tokio::time::timeout(GRACE, futures_util::future::join_all(tasks)).await.is_err() {
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
    }
}

/// Whether one project lies in a tree of the other.
fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other.join("cfs")) || other.starts_with(one.join("cfs"))
}

/// Where a connection leads, for comparison.
pub fn way_of(connection: &crate::run::Connection) -> Way {
    let client = connection.client();
    Way {
        server: client.server(),
        colony: client.colony().to_owned(),
        id: client.id().to_owned(),
        store: crate::cfs::store_place(&connection.cfs),
    }
}
