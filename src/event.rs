//! The typed events that every long operation emits.
//!
//! One stream, several readers: the terminal's progress bars, `--json` (one event a line), and tests.
//! The names are part of the contract with scripts: they are added to, never changed.

use serde::Serialize;
use std::sync::Arc;

/// One of the three trees of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tree {
    /// `cfs/src`: code, brought to the executor as a snapshot.
    Src,
    /// `cfs/data`: data sets, brought to the executor and kept there.
    Data,
    /// `cfs/result`: what a run produced, brought home.
    Result,
}

impl Tree {
    /// All trees, in the order in which a run handles them.
    pub const ALL: [Tree; 3] = [Tree::Src, Tree::Data, Tree::Result];

    /// The name as it stands in paths, labels and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Tree::Src => "src",
            Tree::Data => "data",
            Tree::Result => "result",
        }
    }
}

impl std::fmt::Display for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Which way bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From this machine to the object store.
    Upload,
    /// From the object store to this machine.
    Download,
}

/// Something that happened during a long operation. Sizes are bytes.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The embedded local colony was started in the background.
    ColonyStarted {
        /// Address of its Colonies server, `host:port`.
        server: String,
    },
    /// A tree is about to be transferred.
    TransferStarted {
        /// The tree.
        tree: Tree,
        /// Which way.
        direction: Direction,
        /// Number of files.
        files: u64,
        /// Sum of their sizes.
        bytes: u64,
    },
    /// Bytes of one file moved (emitted often; readers sum them up).
    TransferProgress {
        /// The tree.
        tree: Tree,
        /// Which way.
        direction: Direction,
        /// Path below the tree.
        path: String,
        /// Bytes moved since the last event of this file.
        bytes: u64,
    },
    /// One file is whole on the other side: stored and registered, or verified and renamed into place.
    FileDone {
        /// The tree.
        tree: Tree,
        /// Which way.
        direction: Direction,
        /// Path below the tree.
        path: String,
        /// Its size.
        size: u64,
        /// How many bytes travelled for it: less where it was there in part, or under another name.
        travelled: u64,
    },
    /// One file could not be transferred or compared; the others go on.
    FileProblem {
        /// The tree.
        tree: Tree,
        /// Path below the tree.
        path: String,
        /// What happened, for a person.
        problem: String,
    },
    /// A file was removed on one side because it was deleted on the other.
    FileRemoved {
        /// The tree.
        tree: Tree,
        /// Path below the tree.
        path: String,
        /// True: removed here. False: removed from the colony.
        local: bool,
    },
    /// A local file that would have been overwritten or deleted was kept under another name.
    FileKept {
        /// The tree.
        tree: Tree,
        /// Path below the tree.
        path: String,
        /// The name it was kept under, below the tree.
        kept_as: String,
    },
    /// A tree's transfer ended.
    TransferFinished {
        /// The tree.
        tree: Tree,
        /// Which way.
        direction: Direction,
        /// Files that arrived.
        files: u64,
        /// Bytes that travelled for them; none for a file that was on this machine already.
        bytes: u64,
        /// How many bytes travelled for them.
        travelled: u64,
        /// Files that did not.
        problems: u64,
    },
    /// A sweep is about to be submitted: a process for each of its points.
    Sweep {
        /// Its id.
        sweep: String,
        /// Number of processes.
        points: u64,
        /// Where their results come to, below `cfs`.
        results: String,
    },
    /// All processes of a sweep have ended.
    SweepFinished {
        /// Its id.
        sweep: String,
        /// Those that succeeded.
        success: u64,
        /// Those that failed, or were never submitted.
        failed: u64,
        /// Those that were cancelled.
        cancelled: u64,
    },
    /// The process is registered with the Colonies server.
    Submitted {
        /// Run id.
        run: String,
        /// Process id.
        process: String,
        /// Page of the dashboard, when one is configured.
        dashboard: Option<String>,
    },
    /// The process changed its state.
    ProcessState {
        /// Process id.
        process: String,
        /// `waiting`, `running`, `success`, `failed`, `cancelled`.
        state: String,
        /// Name of the executor that holds it, once known.
        executor: Option<String>,
    },
    /// A piece of the process's log, as it came: not necessarily one line.
    Log {
        /// Process id.
        process: String,
        /// Server time, nanoseconds since 1970.
        timestamp: i64,
        /// The text.
        message: String,
    },
    /// The run is over.
    Finished {
        /// Process id.
        process: String,
        /// `success`, `failed`, `cancelled`.
        state: String,
        /// What the executor gave as reasons.
        errors: Vec<String>,
    },
    /// A port of this machine leads to the node of a process.
    TunnelOpened {
        /// Process id.
        process: String,
        /// Port of 127.0.0.1.
        local: u16,
        /// The node.
        node: String,
        /// Its port.
        remote: u16,
        /// The host that it leads through, where there is one.
        through: Option<String>,
    },
    /// A tunnel was lost, or could not be made; it is tried again.
    TunnelLost {
        /// Process id.
        process: String,
        /// Why.
        reason: String,
        /// Seconds until then.
        again_in: u64,
    },
    /// There is no tunnel, and will be none until somebody does something about it.
    TunnelFailed {
        /// Process id.
        process: String,
        /// Why.
        reason: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A tunnel is no more, since its process has ended, or nobody follows it any more.
    TunnelClosed {
        /// Process id.
        process: String,
    },
    /// Something a person should know that stops nothing.
    Warning {
        /// The text.
        message: String,
    },
    /// A step that people may like to see named (shown at once on a terminal).
    Note {
        /// The text.
        message: String,
    },
}

/// Where events go. Cheap to clone; emitting never blocks on the reader's I/O for long.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// A sink that hands every event to `reader`, in the order in which they are emitted by one task.
    pub fn new(reader: impl Fn(Event) + Send + Sync + 'static) -> Events {
        Events(Arc::new(reader))
    }

    /// A sink that drops everything.
    pub fn none() -> Events {
        Events::new(|_| {})
    }

    /// Hands over one event.
    pub fn emit(&self, event: Event) {
        (self.0)(event)
    }

    /// Hands over a [`Event::Warning`].
    pub fn warn(&self, message: impl Into<String>) {
        self.emit(Event::Warning { message: message.into() })
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}
