//! File-system events of projects' trees, told as they come: which path was touched, that anything may have changed, how well a
//! project is watched.
//!
//! Every folder that is not left out by the ignore rules has a watch of its own (on Linux), set before the folder is read, so that
//! what is created meanwhile is either read or told of. Reading makes no events: opening is not asked for. Events are hints only:
//! whoever hears them compares contents.
//!
//! One thread serves all projects over one queue of the system. So a file made in a watched folder of ours, the *cookie*, is told
//! of behind every change that was made before it: [`Watcher::barrier`] (the idea is watchman's).

mod backend;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(not(target_os = "linux"), test))]
mod portable;
mod projects;
#[cfg(test)]
mod tests;
mod worker;

use crate::event::Tree;
use serde::Serialize;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

/// Names a project here.
pub type ProjectId = u64;

/// What is watched of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Names it in signals.
    pub id: ProjectId,
    /// Canonical folder of the project.
    pub folder: PathBuf,
    /// Look from time to time instead, whatever the file system can do.
    pub poll: bool,
}

/// How a project is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The system tells of changes.
    Events,
    /// The system tells of changes in some folders; the others are looked at from time to time.
    Partial,
    /// Everything is looked at from time to time.
    Polling,
}

/// How well a project is watched, for people and for the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// How changes become known.
    pub kind: Kind,
    /// Folders that are watched.
    pub watches: usize,
    /// How often events were lost since the agent started.
    pub overflows: u64,
    /// Watches are being set.
    pub installing: bool,
    /// Watches of folders that are new are being set.
    pub extending: bool,
    /// The project's folder is not there.
    pub lost: bool,
    /// Why it is not watched as it should be, and what to do about it.
    pub reason: Option<String>,
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A path below a tree was touched: a file, or a folder with all that is below it.
    Touched {
        /// The project.
        project: ProjectId,
        /// The tree.
        tree: Tree,
        /// Below it.
        path: String,
        /// It was written and is not closed, as far as is known.
        open: bool,
    },
    /// Anything may have changed.
    Rescan {
        /// The project.
        project: ProjectId,
    },
    /// `project.yaml` was touched.
    Settings {
        /// The project.
        project: ProjectId,
    },
    /// How well it is watched now.
    State {
        /// The project.
        project: ProjectId,
        /// How.
        state: State,
    },
    /// All that was changed before this barrier was asked for has been told.
    Barrier(u64),
}

enum Command {
    Watch(Target),
    Unwatch(ProjectId),
    Again,
    Barrier(u64, oneshot::Sender<bool>),
}

/// The watching thread. It ends when this is dropped.
#[derive(Clone, Debug)]
pub struct Watcher {
    commands: mpsc::UnboundedSender<Command>,
}

impl Watcher {
    /// Starts watching nothing. `cookies` is a private folder of ours. Signals come in the order in which things happened.
    ///
    /// # Errors
    /// No thread, no folder. A system that gives no events is no error: projects are polled then, and their state says why.
    pub fn start(cookies: &Path) -> io::Result<(Watcher, mpsc::UnboundedReceiver<Signal>)> {
        crate::sqlite::private_folder(cookies)?;
        let (commands, orders) = mpsc::unbounded_channel();
        let (tell, told) = mpsc::unbounded_channel();
        let cookies = cookies.canonicalize()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        std::thread::Builder::new().name("watch".into()).spawn(move || {
            runtime.block_on(async move { worker::Worker::new(cookies, tell).run(orders).await });
        })?;
        Ok((Watcher { commands }, told))
    }

    /// Watches a project, from now on.
    pub fn watch(&self, target: Target) {
        self.send(Command::Watch(target));
    }

    /// Watches it no more.
    pub fn unwatch(&self, project: ProjectId) {
        self.send(Command::Unwatch(project));
    }

    /// Sets all watches again: a limit may have been raised.
    pub fn again(&self) {
        self.send(Command::Again);
    }

    /// Has [`Signal::Barrier`] told when everything that changed until now was told. False: there are no events to wait for.
    pub async fn barrier(&self, number: u64) -> bool {
        let (tell, told) = oneshot::channel();
        self.send(Command::Barrier(number, tell));
        told.await.unwrap_or(false)
    }

    /// The thread lives as long as this does; where it died of a panic, nothing is told, and barriers answer false.
    fn send(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::error!("the watching thread has ended");
        }
    }
}
