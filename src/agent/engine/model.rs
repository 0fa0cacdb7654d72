//! What the engine is told, and what it orders. Pure.

use super::AskId;
use super::Millis;
use super::Place;
use super::Scope;
use super::retry::Failure;
use crate::project::OnSave;
use crate::project::WhenBusy;

/// How a project wants to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manners {
    /// What a save starts.
    pub on_save: OnSave,
    /// What becomes of it while a run is under way.
    pub when_busy: WhenBusy,
    /// How long a tree must be still.
    pub quiet: Millis,
    /// Whether results are fetched when a process closes.
    pub fetch: bool,
}

impl Default for Manners {
    fn default() -> Manners {
        Manners { on_save: OnSave::Sync, when_busy: WhenBusy::Queue, quiet: 300, fetch: true }
    }
}

/// How changes become known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watching {
    /// Watches are being set: changes may be missed, a look follows when they are.
    #[default]
    Installing,
    /// Every folder is watched.
    Live,
    /// As [`Watching::Live`], but for folders that are new: what is in them is told of when they are watched.
    Extending,
    /// Changes are looked for from time to time, in all folders or in those that are not watched.
    Polling,
    /// The folder is not there.
    Lost,
}

/// What happens to a project.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The system told of a path. `open`: it was written, and not closed as far as is known.
    Touched {
        /// Which.
        place: Place,
        /// Somebody may still write it.
        open: bool,
    },
    /// Anything may have changed: events were lost, rules or settings changed.
    Rescan,
    /// How changes become known, from now on.
    Watching(Watching),
    /// The operation under way has ended.
    Ended(Outcome),
    /// A process of this project is known to be open.
    Opened(String),
    /// A process of this project has ended; its run. `fetch`: nobody else brings its results home.
    Closed {
        /// The run.
        run: String,
        /// Whether to bring them home.
        fetch: bool,
    },
    /// Somebody else brought a run's results home.
    Fetched(String),
    /// Somebody asks. All events of changes made before have been handed over.
    Ask(AskId, Ask),
    /// Nobody waits for this answer any more.
    Forget(AskId),
    /// Nothing is done until then (none: until told).
    Pause(Option<Millis>),
    /// The pause is over.
    Resume,
    /// The project's wishes changed.
    Manners(Manners),
    /// The machine slept, or its clock jumped: what was told before may be half of it, and networks may be back.
    WokeUp,
    /// Somebody is in the middle of a large change (git, of a checkout): nothing is begun by itself until then.
    Hold(Millis),
    /// Time has passed.
    Tick,
}

/// What somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// All that was changed before is to be stored.
    Flush,
    /// The trees are to be compared with the colony as a whole.
    Sync,
    /// A run of what is here.
    Run,
    /// A run of something else than what is here: a commit.
    RunOther,
    /// Results of a run.
    Fetch,
}

/// What is to be done. One that is not an [`Action::Answer`] is an operation, and ends with an [`Input::Ended`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bring trees over. Files that somebody writes are left, unless `all`.
    Sync {
        /// What to look at.
        scope: Scope,
        /// Take files that are being written as they are.
        all: bool,
        /// Who asked for this, where somebody did: it has wishes of its own.
        by: Option<AskId>,
    },
    /// Make a run, bringing the trees over first.
    Run {
        /// Who asked for it; none: a save did. A run for a save is not made where the tree has run before.
        by: Option<AskId>,
        /// What is stored is what is here, as far as is known: nothing need be looked at.
        fresh: bool,
        /// Runs to cancel first.
        replace: Vec<String>,
    },
    /// Bring results home.
    Fetch {
        /// Of these runs; of none in particular where somebody asked.
        runs: Vec<String>,
        /// Who asked.
        by: Option<AskId>,
    },
    /// Somebody gets an answer: what was asked for is done, or why not.
    Answer(AskId, Result<(), Failure>),
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was done.
    Done(Done),
    /// It was not.
    Failed {
        /// Why.
        failure: Failure,
        /// The trees were brought over all the same.
        synced: bool,
    },
}

/// What came out of an operation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Done {
    /// Files that somebody writes, and that were left.
    pub busy: Vec<Place>,
    /// Files that could not be brought over, and why.
    pub problems: Vec<(Place, String)>,
    /// Runs that were made.
    pub runs: Vec<String>,
    /// Results that came home.
    pub fetched: Vec<String>,
}
