//! The agent's state machine for one project. Pure: `(state, input, now) -> (state, actions)`; no I/O, no clock, no randomness
//! but a seed.
//!
//! One operation is under way at a time. What may have changed is *dirt* ([`dirt`]): it is taken out when an operation begins and
//! put back when it fails, so nothing is ever forgotten between the two. No list of things to do is kept over a restart: the
//! first thing a new engine does is to look at everything.

pub mod dirt;
mod model;
mod retry;
#[cfg(test)]
mod simulation;
mod status;
#[cfg(test)]
mod tests;

pub use dirt::Place;
pub use dirt::Scope;
pub use model::Action;
pub use model::Ask;
pub use model::Done;
pub use model::Input;
pub use model::Manners;
pub use model::Outcome;
pub use model::Watching;
pub use retry::Failure;
pub use status::Phase;
pub use status::Status;

use crate::project::OnSave;
use crate::project::WhenBusy;
use dirt::Dirt;
use dirt::Taken;
use retry::Retry;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Milliseconds on a clock that only goes forward.
pub type Millis = u64;
/// Names one who asked, for the answer.
pub type AskId = u64;

/// Shortest pause between two looks at everything.
const LOOK_EVERY: Millis = 600_000;
/// As long as this many times what the last look took is waited: five hundredths of a percent of the time go into looking.
const LOOK_SHARE: Millis = 2_000;
/// Longest pause: a look that took long because the machine slept in it says nothing of the tree.
const LOOK_LONGEST: Millis = 6 * 3_600_000;
/// The same where changes are not told by the system.
const POLL_EVERY: Millis = 5_000;
/// See [`LOOK_SHARE`].
const POLL_SHARE: Millis = 50;
/// A tree was touched just now when it was touched within this time.
const RESTLESS: Millis = 2_000;
/// For so long after a look at everything a run believes that the colony holds what was seen then.
const TRUST: Millis = 900_000;

/// An operation under way.
#[derive(Clone, Debug)]
struct Operation {
    action: Action,
    dirt: Dirt,
    scope: Option<Scope>,
    since: Millis,
    /// Asks that are answered by its end.
    asks: Vec<AskId>,
    for_save: bool,
}

/// The state machine of one project.
#[derive(Clone, Debug)]
pub struct Engine {
    manners: Manners,
    watching: Watching,
    dirt: Dirt,
    operation: Option<Operation>,
    asks: Vec<(AskId, Ask)>,
    /// Open runs.
    open: BTreeSet<String>,
    /// Runs whose results are to come home.
    closed: BTreeSet<String>,
    /// Runs whose results wait to be asked for.
    offered: BTreeSet<String>,
    /// A save waits for its run.
    run_due: bool,
    paused: Option<Option<Millis>>,
    /// Nothing is begun before.
    held: Option<Millis>,
    retry: Retry,
    /// Of bringing results home: what is wrong there must not hold up what is saved.
    fetches: Retry,
    problems: BTreeMap<Place, String>,
    problems_again: Retry,
    /// When the last look at everything ended well, and how long it took.
    looked: Option<(Millis, Millis)>,
    synced: Option<Millis>,
}

impl Engine {
    /// A project that is taken up now. `seed` spreads the retries of many projects and machines.
    pub fn new(manners: Manners, seed: u64, now: Millis) -> Engine {
        let mut dirt = Dirt::default();
        dirt.everything(now);
        Engine {
            manners,
            watching: Watching::Installing,
            dirt,
            operation: None,
            asks: Vec::new(),
            open: BTreeSet::new(),
            closed: BTreeSet::new(),
            offered: BTreeSet::new(),
            run_due: false,
            paused: None,
            held: None,
            retry: Retry::new(seed),
            fetches: Retry::new(seed ^ 2),
            problems: BTreeMap::new(),
            problems_again: Retry::new(seed ^ 1),
            looked: None,
            synced: None,
        }
    }

    /// Takes one input; gives what is to be done now. Times never go back.
    pub fn step(&mut self, now: Millis, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Touched { place, open } => {
                self.dirt.touch(now, place, open);
                self.retry.something_changed(now, self.manners.quiet);
            }
            Input::Rescan => self.dirt.everything(now),
            Input::Watching(watching) => self.watching_is(now, watching),
            Input::Ended(outcome) => self.ended(now, outcome, &mut actions),
            Input::Opened(run) => {
                self.open.insert(run);
            }
            Input::Closed { run, fetch } => self.closed(run, fetch),
            Input::Fetched(run) => {
                self.closed.remove(&run);
                self.offered.remove(&run);
            }
            Input::Ask(id, ask) => self.asks.push((id, ask)),
            Input::Forget(id) => self.asks.retain(|(other, _)| *other != id),
            Input::Pause(until) => self.paused = Some(until),
            Input::Resume => {
                self.paused = None;
                self.retry.now(now);
                self.fetches.now(now);
            }
            Input::Manners(manners) => {
                self.manners = manners;
                self.retry.something_changed(now, self.manners.quiet);
            }
            Input::WokeUp => {
                self.dirt.everything(now);
                self.retry.now(now);
                self.fetches.now(now);
            }
            Input::Hold(until) => self.held = Some(until),
            Input::Tick => {}
        }
        self.pass(now);
        if self.operation.is_none() {
            self.next(now, &mut actions);
        }
        actions
    }

    /// When something is to be done though nothing happens; none: never. While an operation is under way, that is its end.
    pub fn wake(&self) -> Option<Millis> {
        let until = match self.paused {
            Some(until) => return until,
            None if self.operation.is_some() => return None,
            None => self.not_before(),
        };
        let work = [self.due_at(), self.look_at(), self.problems_at()].into_iter().flatten().min();
        let run = until.filter(|_| self.run_due_now());
        let fetch = if self.closed.is_empty() { None } else { self.fetches.not_before() };
        let work = [work, run, fetch].into_iter().flatten().min();
        let pending = run.is_some() || !self.closed.is_empty() && fetch.is_none();
        match (work, until) {
            (_, Some(until)) if pending => Some(until),
            (Some(work), Some(until)) => Some(work.max(until)),
            (work, None) => work,
            (None, Some(_)) => None,
        }
    }

    /// When something may be begun by itself.
    fn not_before(&self) -> Option<Millis> {
        self.retry.not_before().max(self.held)
    }

    /// Whether files are being touched just now.
    pub fn is_restless(&self, now: Millis) -> bool {
        self.dirt.last().is_some_and(|last| now < last + RESTLESS)
    }

    /// When dirt is to be taken up.
    fn due_at(&self) -> Option<Millis> {
        // Until the watches stand, a look would have to be repeated.
        if self.manners.on_save == OnSave::Off || self.watching == Watching::Installing {
            return None;
        }
        self.dirt.due_at(self.manners.quiet)
    }

    /// When everything is to be looked at though nobody said that it changed.
    fn look_at(&self) -> Option<Millis> {
        let (ended, took) = self.looked?;
        let is_due_anyway = self.dirt.is_whole();
        if is_due_anyway || self.manners.on_save == OnSave::Off || self.watching == Watching::Installing {
            return None;
        }
        let pause = match self.watching {
            Watching::Polling => (took * POLL_SHARE).clamp(POLL_EVERY, LOOK_EVERY),
            _ => (took * LOOK_SHARE).clamp(LOOK_EVERY, LOOK_LONGEST),
        };
        Some(ended + pause)
    }

    /// When files that could not be brought over are tried again.
    fn problems_at(&self) -> Option<Millis> {
        if self.problems.is_empty() || self.manners.on_save == OnSave::Off || self.watching == Watching::Installing {
            return None;
        }
        self.problems_again.not_before()
    }

    /// What the passing of time alone changes.
    fn pass(&mut self, now: Millis) {
        if let Some(Some(until)) = self.paused
            && until <= now
        {
            self.paused = None;
        }
        self.held = self.held.filter(|until| *until > now);
        if self.operation.is_none() && self.look_at().is_some_and(|at| at <= now) {
            self.dirt.everything(now.saturating_sub(self.manners.quiet));
        }
        if self.operation.is_none() && self.problems_at().is_some_and(|at| at <= now) {
            for place in self.problems.keys() {
                self.dirt.touch(now.saturating_sub(self.manners.quiet), place.clone(), false);
            }
        }
    }

    fn watching_is(&mut self, now: Millis, watching: Watching) {
        let is_watched = |watching| matches!(watching, Watching::Live | Watching::Extending);
        let goes_on = is_watched(self.watching) && is_watched(watching);
        // Whatever changed while nobody watched is found by a look.
        if watching != self.watching && !goes_on && matches!(watching, Watching::Live | Watching::Extending | Watching::Polling) {
            self.dirt.everything(now.saturating_sub(self.manners.quiet));
            self.retry.something_changed(now, self.manners.quiet);
        }
        self.watching = watching;
    }

    fn closed(&mut self, run: String, fetch: bool) {
        self.open.remove(&run);
        if fetch && self.manners.fetch {
            self.closed.insert(run);
        } else if fetch {
            self.offered.insert(run);
        }
    }

    /// Begins the next operation, if there is one to begin.
    fn next(&mut self, now: Millis, actions: &mut Vec<Action>) {
        // Who asks does not wait for a pause or for the next try.
        if let Some((id, ask)) = self.asks.first().copied() {
            return self.begin_asked(now, id, ask, actions);
        }
        if self.paused.is_some() || self.not_before().is_some_and(|at| at > now) {
            return;
        }
        if !self.closed.is_empty() && self.fetches.not_before().is_none_or(|at| at <= now) {
            let runs = self.closed.iter().cloned().collect();
            return self.begin(now, Action::Fetch { runs, by: None }, Dirt::default(), None, Vec::new(), actions);
        }
        let taken = match self.due_at() {
            Some(at) if at <= now => self.dirt.take(now, self.manners.quiet),
            _ => None,
        };
        match taken {
            Some(taken) => {
                self.note_run_due(&taken.dirt);
                if self.run_due_now() {
                    self.begin_run_for_save(now, taken.dirt, actions);
                } else {
                    self.begin_sync(now, taken, None, Vec::new(), actions);
                }
            }
            None if self.run_due_now() => {
                let dirt = self.dirt.take_all().dirt;
                self.begin_run_for_save(now, dirt, actions);
            }
            None => {}
        }
    }

    /// What is brought over is to run, too.
    fn note_run_due(&mut self, dirt: &Dirt) {
        let wanted = self.manners.on_save == OnSave::Run && !dirt.is_clean();
        if wanted && (self.open.is_empty() || self.manners.when_busy != WhenBusy::Skip) {
            self.run_due = true;
        }
    }

    fn run_due_now(&self) -> bool {
        let free = self.open.is_empty() || self.manners.when_busy == WhenBusy::Replace;
        self.run_due && free && self.manners.on_save == OnSave::Run && self.watching != Watching::Installing
    }

    fn begin_asked(&mut self, now: Millis, id: AskId, ask: Ask, actions: &mut Vec<Action>) {
        match ask {
            Ask::Flush => {
                let flushes: Vec<AskId> = self.take_asks(Ask::Flush);
                if self.is_in_sync() {
                    actions.extend(flushes.into_iter().map(|id| Action::Answer(id, Ok(()))));
                    return self.next(now, actions);
                }
                // Without watches the events that came are not all that happened.
                if self.watching != Watching::Live {
                    self.dirt.everything(now);
                }
                for place in self.problems.keys() {
                    self.dirt.touch(now, place.clone(), false);
                }
                let taken = self.dirt.take_all();
                self.note_run_due(&taken.dirt);
                self.begin_sync(now, taken, None, flushes, actions);
            }
            Ask::Sync => {
                self.asks.remove(0);
                let dirt = self.dirt.take_all().dirt;
                self.note_run_due(&dirt);
                self.begin_sync(now, Taken { scope: Scope::Whole, dirt }, Some(id), vec![id], actions);
            }
            Ask::Run => {
                self.asks.remove(0);
                let trusted = self.looked.is_some_and(|(at, _)| now < at + TRUST);
                let fresh = trusted && self.is_in_sync();
                let dirt = self.dirt.take_all().dirt;
                let scope = if fresh { None } else { Some(Scope::Whole) };
                let action = Action::Run { by: Some(id), fresh, replace: Vec::new() };
                self.begin(now, action, dirt, scope, vec![id], actions);
            }
            Ask::RunOther => {
                self.asks.remove(0);
                let action = Action::Run { by: Some(id), fresh: false, replace: Vec::new() };
                self.begin(now, action, Dirt::default(), None, vec![id], actions);
            }
            Ask::Fetch => {
                self.asks.remove(0);
                let action = Action::Fetch { runs: self.closed.iter().cloned().collect(), by: Some(id) };
                self.begin(now, action, Dirt::default(), None, vec![id], actions);
            }
        }
    }

    fn take_asks(&mut self, wanted: Ask) -> Vec<AskId> {
        let (taken, left) = std::mem::take(&mut self.asks).into_iter().partition(|(_, ask)| *ask == wanted);
        self.asks = left;
        let taken: Vec<(AskId, Ask)> = taken;
        taken.into_iter().map(|(id, _)| id).collect()
    }

    fn begin_run_for_save(&mut self, now: Millis, dirt: Dirt, actions: &mut Vec<Action>) {
        let replace = self.open.iter().cloned().collect();
        let action = Action::Run { by: None, fresh: false, replace };
        self.begin(now, action, dirt, Some(Scope::Whole), Vec::new(), actions);
    }

    fn begin_sync(&mut self, now: Millis, taken: Taken, by: Option<AskId>, asks: Vec<AskId>, actions: &mut Vec<Action>) {
        let action = Action::Sync { scope: taken.scope.clone(), all: !asks.is_empty(), by };
        self.begin(now, action, taken.dirt, Some(taken.scope), asks, actions);
    }

    fn begin(
        &mut self,
        now: Millis,
        action: Action,
        dirt: Dirt,
        scope: Option<Scope>,
        asks: Vec<AskId>,
        actions: &mut Vec<Action>,
    ) {
        let for_save = matches!(action, Action::Run { by: None, .. });
        actions.push(action.clone());
        self.operation = Some(Operation { action, dirt, scope, since: now, asks, for_save });
    }

    fn ended(&mut self, now: Millis, outcome: Outcome, actions: &mut Vec<Action>) {
        let Some(operation) = self.operation.take() else { return };
        match outcome {
            Outcome::Done(done) => {
                self.retry.succeeded();
                if matches!(operation.action, Action::Fetch { .. }) {
                    self.fetches.succeeded();
                }
                self.brought_over(now, &operation, &done);
                if operation.for_save {
                    self.run_due = false;
                }
                self.open.extend(done.runs.iter().cloned());
                for run in &done.fetched {
                    self.closed.remove(run);
                    self.offered.remove(run);
                }
                let answer = left_behind(&done.problems).map_or(Ok(()), Err);
                actions.extend(operation.asks.into_iter().map(|id| Action::Answer(id, answer.clone())));
            }
            Outcome::Failed { failure, synced } => {
                if synced {
                    self.brought_over(now, &operation, &Done::default());
                    // It was taken for a run that was not made.
                    self.note_run_due(&operation.dirt);
                } else {
                    self.dirt.put_back(operation.dirt);
                }
                // Where nobody answers, nothing else need be tried.
                let only_results = matches!(operation.action, Action::Fetch { by: None, .. }) && !failure.offline;
                let retry = if only_results { &mut self.fetches } else { &mut self.retry };
                retry.failed(now, failure.clone());
                actions.extend(operation.asks.into_iter().map(|id| Action::Answer(id, Err(failure.clone()))));
            }
        }
    }

    /// Trees were brought over: what was left is dirt again.
    fn brought_over(&mut self, now: Millis, operation: &Operation, done: &Done) {
        let Some(scope) = &operation.scope else { return };
        match scope {
            Scope::Whole => {
                self.looked = Some((now, now - operation.since));
                self.problems.clear();
            }
            Scope::Paths(paths) => {
                let is_within = |place: &Place, looked: &Place| {
                    let rest = place.1.strip_prefix(&looked.1);
                    place.0 == looked.0 && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                self.problems.retain(|place, _| !paths.iter().any(|looked| is_within(place, looked)));
            }
        }
        self.problems.extend(done.problems.iter().cloned());
        if self.problems.is_empty() {
            self.problems_again.succeeded();
        } else {
            self.problems_again.failed(now, Failure::default());
        }
        for place in &done.busy {
            self.dirt.touch(now, place.clone(), true);
        }
        self.synced = Some(now);
    }

    /// Paths that wait, at most `most`.
    pub fn pending(&self, most: usize) -> Vec<Place> {
        let under_way = self.operation.as_ref().map(|operation| operation.dirt.some(most)).unwrap_or_default();
        let mut places = self.dirt.some(most);
        places.extend(under_way);
        places.sort();
        places.dedup();
        places.truncate(most);
        places
    }

    /// Whether what is stored is what is here, as far as anybody can know.
    pub fn is_in_sync(&self) -> bool {
        self.watching == Watching::Live
            && self.dirt.is_clean()
            && self.problems.is_empty()
            && self.looked.is_some()
            && self.operation.as_ref().is_none_or(|operation| operation.scope.is_none())
    }
}

/// What who asked for all is told when some files could not be brought over.
fn left_behind(problems: &[(Place, String)]) -> Option<Failure> {
    let ((tree, path), why) = problems.first()?;
    let others = match problems.len() - 1 {
        0 => String::new(),
        others => format!(", and {others} more"),
    };
    let reason = format!("not everything could be brought over: {tree}/{path} {why}{others}");
    Some(Failure { reason, code: 1, ..Failure::default() })
}
