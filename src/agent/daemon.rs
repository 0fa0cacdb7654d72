//! The life of the agent: one task that owns everything, takes messages in the order in which they come, and hands work out.
//!
//! [`serve`] reads as its life from start to end. Nothing in the loop waits for the disk of a project or for a network: that is
//! done by tasks of their own, which send what came of it.

use super::Error;
use super::control::model::AgentStatus;
use super::control::model::Answer;
use super::control::model::Job;
use super::control::model::Line;
use super::control::model::PROTOCOL;
use super::control::model::Refusal;
use super::control::model::RefusalKind;
use super::control::model::StatusReply;
use super::control::model::Way;
use super::control::model::Work;
use super::control::server;
use super::control::server::Request;
use super::engine::Action;
use super::engine::Ask;
use super::engine::AskId;
use super::engine::Input;
use super::engine::Millis;
use super::engine::Outcome;
use super::follow;
use super::links::Links;
use super::lock;
use super::member::Asked;
use super::member::Member;
use super::member::millis_until;
use super::notify::Desktop;
use super::notify::Note;
use super::operations;
use super::operations::Freshness;
use super::operations::Order;
use super::operations::Report;
use super::roster::Entry;
use super::roster::Roster;
use crate::event::Event;
use crate::event::Events;
use crate::event::Tree;
use crate::journal::runs::RunState;
use crate::run::Connection;
use crate::run::submission;
use crate::run::trees::Frozen;
use crate::watch::ProjectId;
use crate::watch::Signal;
use crate::watch::Target;
use crate::watch::Watcher;
use futures_util::FutureExt;
use jiff::SignedDuration;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How often runs that others made are looked for, and whether the clock jumped.
const ROUND: Duration = Duration::from_secs(30);
/// How often it is looked whether the state folder is still there: one question to the file system.
const STANDS: Duration = Duration::from_secs(5);
/// A clock that is off by more has jumped, or the machine slept.
const JUMP: i64 = 5;
/// For so long (ns) results that nobody fetched are brought home when the agent starts: a week.
const OLD: i64 = 7 * 24 * 3600 * 1_000_000_000;
/// A barrier that does not come within this is not waited for: everything is looked at instead.
const BARRIER: Duration = Duration::from_secs(5);
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
    let lock = lock::take(&options.state)?;
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
            _ = stands.tick(), if !daemon.homeless => daemon.homeless = !lock.holds(),
            _ = round.tick() => daemon.round(),
            () = sleep_until(wake) => daemon.tick(),
        }
        if daemon.homeless {
            break;
        }
        daemon.tell_changes();
    }
    drop(socket);
    daemon.end().await;
    if daemon.homeless {
        return Err(Error::FolderGone { path: daemon.options.state });
    }
    Ok(())
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
    /// The state folder is not the one that it began with.
    homeless: bool,
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
            homeless: false,
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
            self.adopt_runs(id);
            self.settle(id);
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
        self.roster.put(entry.clone()).map_err(|e| Refusal {
            message: e.to_string(),
            hint: e.hint(),
            code: 1,
            ..Refusal::default()
        })?;
        if let Some(id) = self.find(&root) {
            self.drop_member(id);
        }
        self.take_up(entry);
        Ok(())
    }

    fn remove(&mut self, root: &Path) -> Result<(), Refusal> {
        let removed = self.roster.remove(root).map_err(|e| Refusal {
            message: e.to_string(),
            hint: e.hint(),
            code: 1,
            ..Refusal::default()
        })?;
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
            Freshness::Now((snapshot_id, label, digest)) => member.frozen = Some(Frozen { snapshot_id, label, digest }),
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

    /// Results that somebody else brought home wait no more.
    fn forget_fetched(&mut self) {
        let mut fetched = Vec::new();
        for (id, member) in &self.members {
            let Some(connection) = &member.connection else { continue };
            let is_home = |run: &String| {
                let found = connection.journal.run(run);
                found.is_ok_and(|run| run.is_some_and(|run| run.results_fetched.is_some()))
            };
            fetched.extend(member.engine.status().results_waiting.into_iter().filter(is_home).map(|run| (*id, run)));
        }
        fetched.into_iter().for_each(|(id, run)| self.step(id, Input::Fetched(run)));
    }

    /// Has a look, where the books have runs of which nobody knows whether they came to the server. What comes of it is seen in the
    /// next round.
    fn settle(&mut self, id: ProjectId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let (Ok(project), Some(connection)) = (&member.project, &member.connection) else { return };
        let is_free = member.task.is_none() && member.settling.as_ref().is_none_or(AbortOnDropHandle::is_finished);
        let (name, client) = (project.settings.projectname.clone(), connection.client());
        match connection.journal.intents(&name, &client.server(), client.colony()) {
            Ok(intents) if is_free && !intents.is_empty() => {
                let settled = follow::settle(connection.clone(), name);
                member.settling = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                    if let Err(error) = settled.await {
                        tracing::info!(%error, "it is not known yet whether a run was submitted");
                    }
                })));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "runs cannot be read"),
        }
    }

    /// Follows runs that are open, and has the results brought home of those that ended unseen.
    fn adopt_runs(&mut self, id: ProjectId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(connection) = member.connection.clone() else { return };
        let client = connection.client();
        let since = submission::now() - OLD;
        let runs = match connection.journal.unfinished_runs(&member.entry.root, &client.server(), client.colony(), since) {
            Ok(runs) => runs,
            Err(error) => return tracing::warn!(%error, "runs cannot be read"),
        };
        let (mut opened, mut closed) = (Vec::new(), Vec::new());
        for run in runs {
            let run_id = run.run_id.clone();
            if run.state.is_open() && !member.followed.contains_key(&run_id) {
                let task = follow::follow(connection.clone(), id, run, self.inbox.clone());
                member.followed.insert(run_id.clone(), task);
                opened.push(run_id);
            } else if !run.state.is_open() && member.ended.insert(run_id.clone()) && !member.followed.contains_key(&run_id) {
                closed.push(run_id);
            }
        }
        opened.into_iter().for_each(|run| self.step(id, Input::Opened(run)));
        closed.into_iter().for_each(|run| self.step(id, Input::Closed { run, fetch: true }));
    }

    fn closed(&mut self, id: ProjectId, run: String) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.followed.remove(&run);
        member.ended.insert(run.clone());
        let fetch = !member.claims.values().any(|(runs, _)| runs.contains(&run));
        // Who follows sees for himself.
        if fetch {
            tell_desktop(member, &run);
        }
        self.step(id, Input::Closed { run, fetch });
    }

    /// Whoever followed is gone: what he left is brought home here.
    fn unclaimed(&mut self, id: ProjectId, runs: Vec<String>) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(connection) = member.connection.clone() else { return };
        for run in runs {
            let is_left = |run: &crate::journal::runs::Run| !run.state.is_open() && run.results_fetched.is_none();
            match connection.journal.run(&run) {
                Ok(Some(found)) if is_left(&found) => self.step(id, Input::Closed { run, fetch: true }),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, run, "the run cannot be read"),
            }
        }
    }

    // Who asks.

    fn request(&mut self, request: Request) {
        match request {
            Request::Status { root, tell } => {
                self.forget_fetched();
                let reply = self.status(root.as_deref());
                let _ = tell.send(reply);
            }
            Request::Watch { tell } => {
                self.last_told = None;
                self.watchers.push(tell);
            }
            Request::Add { add, tell } => {
                let _ = tell.send(self.add(&add.root, add.profile));
            }
            Request::Remove { root, tell } => {
                let _ = tell.send(self.remove(&root));
            }
            Request::Pause { pause, tell } => {
                let seconds = pause.seconds;
                let _ = tell.send(self.pause(pause.root.as_deref(), true, seconds));
            }
            Request::Resume { which, tell } => {
                let _ = tell.send(self.pause(which.root.as_deref(), false, None));
            }
            Request::Work { work, lines, tell } => {
                let begun = self.work(work, lines);
                let _ = tell.send(begun);
            }
            Request::Gone { project, ask } => self.gone(project, ask),
            Request::Reload { tell } => {
                self.reload();
                let _ = tell.send(Ok(()));
            }
            Request::Stop { tell } => {
                self.stopping = true;
                let _ = tell.send(Ok(()));
            }
        }
        self.changed = true;
    }

    fn pause(&mut self, root: Option<&Path>, paused: bool, seconds: Option<u64>) -> Result<(), Refusal> {
        let ids = match root {
            None => self.members.keys().copied().collect(),
            Some(root) => vec![self.find_above(root).ok_or_else(|| unknown(root))?],
        };
        let until = seconds.map(|seconds| Timestamp::now() + SignedDuration::from_secs(seconds as i64));
        for id in ids {
            let now = self.now();
            let Some(member) = self.members.get_mut(&id) else { continue };
            let paused_until = until.and_then(|until| i64::try_from(until.as_nanosecond()).ok());
            member.entry = Entry { paused, paused_until, ..member.entry.clone() };
            let entry = member.entry.clone();
            self.roster.put(entry).map_err(|e| Refusal {
                message: e.to_string(),
                hint: e.hint(),
                code: 1,
                ..Refusal::default()
            })?;
            let input = if paused { Input::Pause(seconds.map(|seconds| now + seconds * 1000)) } else { Input::Resume };
            self.step(id, input);
        }
        Ok(())
    }

    /// Begins work that somebody hands over: first the barrier, so that it sees all that was saved before.
    fn work(&mut self, work: Work, lines: mpsc::UnboundedSender<Line>) -> Result<(ProjectId, AskId), Refusal> {
        let id = self.find_above(&work.root).ok_or_else(|| unknown(&work.root))?;
        let ask = self.new_number();
        let number = self.new_number();
        let Some(member) = self.members.get_mut(&id) else { return Err(unknown(&work.root)) };
        let mut connection = member.connection.clone();
        if connection.is_none() {
            connection = self.links.opened(&member.entry.profile);
        }
        if let (Some(way), Some(connection)) = (&work.way, &connection)
            && *way != way_of(connection)
        {
            return Err(Refusal {
                kind: RefusalKind::OtherColony,
                message: "the agent brings this project to another colony or store, by its settings".into(),
                hint: Some("`pollinatord add --profile NAME` changes that".into()),
                code: 2,
            });
        }
        let kind = match &work.job {
            Job::Flush => Ask::Flush,
            Job::Sync { trees, .. } if trees.is_empty() || [Tree::Src, Tree::Data].iter().all(|t| trees.contains(t)) => Ask::Sync,
            Job::Sync { .. } => Ask::Fetch,
            Job::Run { commit: Some(_), .. } => Ask::RunOther,
            Job::Run { .. } => Ask::Run,
        };
        member.listeners.lock().unwrap_or_else(PoisonError::into_inner).insert(ask, lines.clone());
        member.asks.insert(ask, Asked { job: work.job, tell: lines, runs: Vec::new() });
        self.barriers.insert(number, (id, ask, kind));
        let (watcher, inbox) = (self.watcher.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let asked = tokio::time::timeout(BARRIER, watcher.barrier(number)).await;
            if asked == Ok(true) {
                tokio::time::sleep(BARRIER).await;
            }
            // Where it came meanwhile, nobody waits for this any more. The agent's end is the only reason to fail.
            let _ = inbox.send(Message::NoBarrier(number));
        });
        Ok((id, ask))
    }

    fn pass_barrier(&mut self, number: u64, told_all: bool) {
        let Some((project, ask, kind)) = self.barriers.remove(&number) else { return };
        if !told_all {
            self.step(project, Input::Rescan);
        }
        self.step(project, Input::Ask(ask, kind));
    }

    /// Who asked has hung up.
    fn gone(&mut self, project: ProjectId, ask: AskId) {
        if let Some(member) = self.members.get_mut(&project) {
            member.asks.remove(&ask);
            member.listeners.lock().unwrap_or_else(PoisonError::into_inner).remove(&ask);
            let claim = member.claims.remove(&ask);
            self.step(project, Input::Forget(ask));
            if let Some((runs, _)) = claim {
                self.unclaimed(project, runs);
            }
        }
    }

    // What it says of itself.

    fn status(&self, root: Option<&Path>) -> Result<StatusReply, Refusal> {
        let chosen: Vec<&Member> = match root {
            None => self.members.values().collect(),
            Some(root) => {
                let id = self.find_above(root).ok_or_else(|| unknown(root))?;
                self.members.get(&id).into_iter().collect()
            }
        };
        let (began, started) = (self.began, self.started);
        let now = (Timestamp::now(), u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        let clock = move |time: Millis| now.0 + SignedDuration::from_millis(time as i64 - now.1 as i64);
        let projects: Vec<_> = chosen.into_iter().map(|member| member.status(clock)).collect();
        let ok = projects.iter().all(|project| project.in_sync || project.state == "paused");
        let agent = AgentStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: PROTOCOL,
            pid: std::process::id(),
            host: lock::host(),
            started: started.to_string(),
            uptime: began.elapsed().as_secs(),
            memory: memory(),
            state_dir: self.options.state.clone(),
        };
        Ok(StatusReply { agent, projects, ok })
    }

    /// Tells those who watch the status, where it is another than before.
    fn tell_changes(&mut self) {
        if !std::mem::take(&mut self.changed) || self.watchers.is_empty() {
            return;
        }
        let Ok(status) = self.status(None) else { return };
        let is_news = self.last_told.as_ref().is_none_or(|told| told.projects != status.projects);
        if is_news {
            self.watchers.retain(|watcher| watcher.send(status.clone()).is_ok());
            self.last_told = Some(status);
        }
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

fn unknown(root: &Path) -> Refusal {
    Refusal {
        kind: RefusalKind::UnknownProject,
        message: format!("the agent does not know {}", root.display()),
        hint: Some(format!("`pollinatord add {}` has it watched", root.display())),
        code: 2,
    }
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

fn begin(member: &mut Member, id: ProjectId, action: Action, links: &Links, inbox: &mpsc::UnboundedSender<Message>) {
    let by = match &action {
        Action::Sync { by, .. } | Action::Run { by, .. } | Action::Fetch { by, .. } => *by,
        Action::Answer(..) => None,
    };
    member.by = by;
    let job = by.and_then(|ask| member.asks.get(&ask)).map(|asked| asked.job.clone());
    let (listeners, tell) = (member.listeners.clone(), inbox.clone());
    let events = Events::new(move |event| {
        if matches!(event, Event::TransferStarted { .. } | Event::TransferFinished { .. } | Event::Note { .. }) {
            let _ = tell.send(Message::Progress(id, event.clone()));
        }
        for listener in listeners.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = listener.send(Line::Event(super::control::model::EventLine { what: event.clone() }));
        }
    });
    let order = Order {
        links: links.clone(),
        profile: member.entry.profile.clone(),
        root: member.entry.root.clone(),
        action,
        job,
        frozen: member.frozen.clone(),
        events,
    };
    let inbox = inbox.clone();
    member.task = Some(tokio::spawn(async move {
        // A panic in an operation must not leave the project waiting for its end for ever.
        // No task of its own: that would go on when this one is aborted, for a project that was taken out.
        let report = AssertUnwindSafe(operations::perform(order)).catch_unwind().await;
        let report = report.unwrap_or_else(|panic| Report::broken(&said(panic.as_ref())));
        let _ = inbox.send(Message::Ended(id, Box::new(report)));
    }));
}

/// What a panic said.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into())
}

fn answer_ask(member: &mut Member, ask: AskId, answer: Result<(), super::engine::Failure>) {
    member.listeners.lock().unwrap_or_else(PoisonError::into_inner).remove(&ask);
    let Some(asked) = member.asks.remove(&ask) else { return };
    let line = match answer {
        Ok(()) => {
            if let Job::Run { follow: true, .. } = asked.job {
                member.claims.insert(ask, (asked.runs.clone(), asked.tell.clone()));
            }
            Line::Done(Answer { runs: asked.runs })
        }
        Err(failure) => Line::Failed(failure),
    };
    // One who has hung up needs no answer.
    let _ = asked.tell.send(line);
}

/// Tells the desktop how a run ended, where that is wished.
fn tell_desktop(member: &Member, run: &str) {
    let (Ok(project), Some(connection)) = (&member.project, &member.connection) else { return };
    if !project.settings.agent.notify {
        return;
    }
    let found = match connection.journal.run(run) {
        Ok(found) => found,
        Err(error) => return tracing::warn!(%error, run, "the run cannot be read"),
    };
    let fate = match found.map(|run| run.state) {
        Some(RunState::Success) => "succeeded",
        Some(RunState::Failed) => "failed",
        Some(RunState::Cancelled) => "was cancelled",
        _ => return,
    };
    let note = Note::of_run(&project.settings.projectname, &run[..run.len().min(12)], fate);
    tokio::spawn(async move { Desktop::of_process().tell(&note).await });
}

/// Resident memory of this process, bytes.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}
