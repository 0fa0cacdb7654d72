//! One project of the agent: its engine, and what is known of it beside.

use super::control::model::ColonyStatus;
use super::control::model::Job;
use super::control::model::Line;
use super::control::model::Pending;
use super::control::model::Problem;
use super::control::model::ProjectStatus;
use super::control::model::RunStatus;
use super::control::model::Watcher;
use super::engine::AskId;
use super::engine::Engine;
use super::engine::Failure;
use super::engine::Manners;
use super::engine::Millis;
use super::engine::Phase;
use super::engine::Watching;
use super::roster::Entry;
use crate::event::Direction;
use crate::journal::runs::RunFilter;
use crate::project;
use crate::project::OnSave;
use crate::project::Project;
use crate::project::ResultsHome;
use crate::run::Connection;
use crate::run::trees::Frozen;
use crate::watch;
use crate::watch::Kind;
use jiff::SignedDuration;
use jiff::Timestamp;
use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

/// Paths whose sizes are summed up for the status.
const SUMMED: usize = 100;
/// For so long a frozen tree is used again without asking whether it is still there.
const SERVES: Duration = Duration::from_secs(24 * 3600);
/// Runs that the status shows.
const RUNS: u32 = 5;

/// Somebody who waits for an answer.
pub struct Asked {
    /// What for.
    pub job: Job,
    /// Where it goes.
    pub tell: mpsc::UnboundedSender<Line>,
    /// Runs that were made for it.
    pub runs: Vec<String>,
}

/// Those who hear the events of a project.
pub type Listeners = Arc<Mutex<HashMap<AskId, mpsc::UnboundedSender<Line>>>>;

/// One project.
pub struct Member {
    /// As it is on the list.
    pub entry: Entry,
    /// As project.yaml says.
    pub project: Result<Project, Failure>,
    /// What decides.
    pub engine: Engine,
    /// How it is watched.
    pub watch: Option<watch::State>,
    /// The operation under way.
    pub task: Option<JoinHandle<()>>,
    /// Who asked for it.
    pub by: Option<AskId>,
    /// Those who wait.
    pub asks: HashMap<AskId, Asked>,
    /// Those who hear.
    pub listeners: Listeners,
    /// Which way files travel at the moment.
    pub transfer: Option<Direction>,
    /// The src tree as it is frozen in the colony, where it is the same here; and since when that is known.
    pub frozen: Option<(Frozen, Instant)>,
    /// Runs that are followed.
    pub followed: HashMap<String, JoinHandle<()>>,
    /// Runs whose results somebody else brings home as long as he is connected; and his line, which stays open.
    pub claims: HashMap<AskId, (Vec<String>, mpsc::UnboundedSender<Line>)>,
    /// Runs that ended and are known to.
    pub ended: HashSet<String>,
    /// Way to its colony, once it was opened.
    pub connection: Option<Connection>,
    /// The task that opens it.
    pub connecting: Option<AbortOnDropHandle<()>>,
    /// The task that looks after runs of which nobody knows whether they were submitted.
    pub settling: Option<AbortOnDropHandle<()>>,
    /// Whether its servers answered last time.
    pub reachable: Option<bool>,
    /// What the operation under way says of itself: that it waits for another program, say.
    pub note: Option<String>,
}

impl Member {
    /// A project that is taken up.
    pub fn new(entry: Entry, now: Millis) -> Member {
        let project = read(&entry.root);
        let seed = u64::from_le_bytes(
            blake3::hash(entry.root.as_os_str().as_encoded_bytes()).as_bytes()[..8].try_into().unwrap_or([7; 8]),
        );
        let engine = Engine::new(manners(&project), seed ^ u64::from(std::process::id()), now);
        Member {
            entry,
            project,
            engine,
            watch: None,
            task: None,
            by: None,
            asks: HashMap::new(),
            listeners: Listeners::default(),
            transfer: None,
            frozen: None,
            followed: HashMap::new(),
            claims: HashMap::new(),
            ended: HashSet::new(),
            connection: None,
            connecting: None,
            settling: None,
            reachable: None,
            note: None,
        }
    }

    /// The frozen src tree, while it serves: `gc` elsewhere removes what is old.
    pub fn fresh(&self) -> Option<Frozen> {
        self.frozen.as_ref().filter(|(_, since)| since.elapsed() < SERVES).map(|(frozen, _)| frozen.clone())
    }

    /// Whether a save starts a run, as its project.yaml was read last.
    pub fn runs_saves(&self) -> bool {
        manners(&self.project).on_save == OnSave::Run
    }

    /// Reads project.yaml again; gives its wishes.
    pub fn read_again(&mut self) -> Manners {
        self.project = read(&self.entry.root);
        manners(&self.project)
    }

    /// What the engine is to know of how it is watched.
    pub fn watching(state: &watch::State) -> Watching {
        match state {
            watch::State { lost: true, .. } => Watching::Lost,
            watch::State { installing: true, .. } => Watching::Installing,
            watch::State { kind: Kind::Events, extending: true, .. } => Watching::Extending,
            watch::State { kind: Kind::Events, .. } => Watching::Live,
            _ => Watching::Polling,
        }
    }

    /// Its status. `clock` gives the time of day of an agent's time.
    pub fn status(&self, clock: impl Fn(Millis) -> Timestamp) -> ProjectStatus {
        let status = self.engine.status();
        let text = |time: Millis| clock(time).to_string();
        let failure = self.project.as_ref().err().cloned().or(status.failure.clone());
        let watch = self.watch.as_ref();
        let reason = match (&failure, watch.and_then(|w| w.reason.clone())) {
            (Some(failure), _) => Some(failure.reason.clone()),
            (None, Some(reason)) if watch.is_some_and(|w| w.lost) => Some(reason),
            _ if self.note.is_some() => self.note.clone(),
            _ => status.problems.first().map(|(path, why)| format!("{path} {why}")),
        };
        ProjectStatus {
            root: self.entry.root.clone(),
            name: self.project.as_ref().ok().map(|p| p.settings.projectname.clone()),
            profile: self.entry.profile.clone(),
            state: self.state(status.phase).to_owned(),
            in_sync: status.in_sync && self.project.is_ok(),
            pending: self.pending(status.pending),
            reason,
            hint: failure.and_then(|failure| failure.hint),
            next_try: status.next_try.map(text),
            last_sync: status.synced.map(text),
            paused_until: status.paused_until.map(text),
            watcher: watcher(watch),
            writing: status.held_open,
            problems: status.problems.into_iter().map(|(path, problem)| Problem { path, problem }).collect(),
            runs: self.runs(),
            results_waiting: status.results_waiting,
            colony: self.connection.as_ref().map(|connection| ColonyStatus {
                server: connection.client().server(),
                colony: connection.client().colony().to_owned(),
                reachable: self.reachable,
            }),
        }
    }

    fn state(&self, phase: Phase) -> &'static str {
        if self.watch.as_ref().is_some_and(|watch| watch.lost) {
            return "missing";
        }
        match (phase, self.transfer) {
            (Phase::Scanning, Some(Direction::Upload)) => "uploading",
            (Phase::Scanning, Some(Direction::Download)) => "downloading",
            (Phase::Scanning, None) => "scanning",
            (Phase::Idle | Phase::Settling, _) if self.project.is_err() => "error",
            (Phase::Idle, _) => "idle",
            (Phase::Settling, _) => "settling",
            (Phase::Downloading, _) => "downloading",
            (Phase::Paused, _) => "paused",
            (Phase::Offline, _) => "offline",
            (Phase::Error, _) => "error",
        }
    }

    fn pending(&self, files: Option<usize>) -> Pending {
        let Some(files) = files else { return Pending::default() };
        let places = self.engine.pending(SUMMED);
        let size = |(tree, path): &(crate::event::Tree, String)| {
            let path = self.entry.root.join("cfs").join(tree.name()).join(path);
            path.symlink_metadata().map_or(0, |metadata| if metadata.is_file() { metadata.len() } else { 0 })
        };
        let bytes = (files <= SUMMED).then(|| places.iter().map(size).sum());
        Pending { files: Some(files as u64), bytes }
    }

    fn runs(&self) -> Vec<RunStatus> {
        let Some(connection) = &self.connection else { return Vec::new() };
        let filter = RunFilter { project_folder: Some(self.entry.root.clone()), limit: Some(RUNS) };
        let runs = connection.journal.runs(&filter).unwrap_or_else(|error| {
            tracing::warn!(%error, "runs cannot be read");
            Vec::new()
        });
        let text = |ns: i64| Timestamp::from_nanosecond(i128::from(ns)).map_or(String::new(), |time| time.to_string());
        let status = |run: crate::journal::runs::Run| RunStatus {
            run: run.run_id,
            process: run.process_id,
            state: run.state.word().to_owned(),
            created: text(run.created),
            fetched: run.results_fetched.is_some(),
        };
        runs.into_iter().map(status).collect()
    }
}

fn read(root: &std::path::Path) -> Result<Project, Failure> {
    match project::load(root) {
        Ok((project, warnings)) => {
            warnings.iter().for_each(|warning| tracing::info!(project = %root.display(), "{warning}"));
            Ok(project)
        }
        Err(error) => Err(Failure::of_project(&error)),
    }
}

/// A project that cannot be read starts nothing: what it would be is not known.
fn manners(project: &Result<Project, Failure>) -> Manners {
    let Ok(project) = project else { return Manners { on_save: OnSave::Off, ..Manners::default() } };
    let wishes = &project.settings.agent;
    Manners {
        on_save: wishes.on_save,
        when_busy: wishes.when_busy,
        quiet: Millis::try_from(wishes.quiet.as_millis()).unwrap_or(Millis::MAX),
        fetch: wishes.results == ResultsHome::Auto,
    }
}

fn watcher(state: Option<&watch::State>) -> Watcher {
    let Some(state) = state else { return Watcher { kind: "installing".into(), ..Watcher::default() } };
    let kind = match state {
        watch::State { lost: true, .. } => "lost",
        watch::State { installing: true, .. } => "installing",
        watch::State { kind: Kind::Events, .. } => "events",
        watch::State { kind: Kind::Partial, .. } => "partial",
        watch::State { kind: Kind::Polling, .. } => "polling",
    };
    Watcher { kind: kind.into(), watches: state.watches as u64, overflows: state.overflows, reason: state.reason.clone() }
}

/// Milliseconds from one time to another; none back in time.
pub fn millis_until(from: Timestamp, to: Timestamp) -> Millis {
    let span: SignedDuration = to.duration_since(from);
    Millis::try_from(span.as_millis()).unwrap_or(0)
}
