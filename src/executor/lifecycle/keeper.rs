//! The executor as a service: wishes from outside, how it stands, and its sign of life.

use super::Host;
use super::now_ms;
use super::retry::until_answered;
use crate::executor::Manager;
use crate::executor::control;
use crate::executor::control::model::PROTOCOL;
use crate::executor::control::model::Running;
use crate::executor::control::model::Status;
use crate::executor::control::model::StopMode;
use crate::executor::control::server::Answers;
use crate::executor::error::Error;
use crate::lock::Lock;
use crate::lock::Lost;
use crate::socket;
use crate::socket::Socket;
use jiff::Timestamp;
use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Duration;

/// How often wishes are looked for that nobody told of: those from another machine.
const LOOK: Duration = Duration::from_secs(2);
/// The round of asking for work that takes longer than this has come to a stop.
const LONGEST_TURN_MS: i64 = 15 * 60 * 1000;

impl Answers for Host {
    fn status(&self) -> Result<Status, String> {
        let open = self.journal.open_jobs().map_err(|e| e.to_string())?;
        let known = self.contact.known();
        let time = |ms: i64| Timestamp::from_millisecond(ms).ok();
        let access = self.client.access();
        Ok(Status {
            protocol: PROTOCOL,
            name: self.name.clone(),
            executor_type: self.executor_type.clone(),
            colony: access.colony.clone(),
            server: format!("{}:{}", access.host, access.port),
            backend: self.backend.into(),
            executor_id: self.client.id().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            running: true,
            answers: true,
            pid: Some(std::process::id()),
            host: crate::lock::host(),
            since: time(self.since),
            draining: self.room.is_draining(),
            drained: self.room.is_drained() && open.is_empty(),
            stopping: *self.ending.lock().unwrap_or_else(PoisonError::into_inner),
            heard: known.heard.and_then(time),
            problem: known.problem,
            room: Some(self.room.usage()),
            processes: open.iter().map(Running::of).collect(),
            state_dir: self.state_dir.clone(),
            fs_dir: self.fs_dir.clone(),
        })
    }

    fn look(&self) {
        self.wishes.notify_one();
    }
}

impl Host {
    /// Opens the socket and writes down who runs here. Whoever calls holds the lock.
    pub(super) fn open_door(self: &Arc<Host>) -> Result<Socket, Error> {
        // A wish to an earlier life.
        if control::take_stop(&self.state_dir).is_some() {
            tracing::debug!("a wish to stop came before the start");
        }
        self.room.set_draining(control::is_draining(&self.state_dir));
        let path = control::socket_path(&self.state_dir);
        let failed = |path: &std::path::Path| {
            let path = path.to_owned();
            move |source| Error::Folder { path, source }
        };
        let status = self.status().map_err(|reason| Error::Internal { reason })?;
        control::write_card(&self.state_dir, &status).map_err(failed(&self.state_dir))?;
        socket::serve(&path, control::server::router(self.clone())).map_err(failed(&path))
    }

    /// Looks after it all until the shutdown.
    pub(super) async fn keep(self: &Arc<Host>, lock: &Lock, manager: &dyn Manager) -> Result<(), Error> {
        let (mut room, mut contact) = (self.room.news(), self.contact.news());
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let every = manager.beat_every();
        let mut beat = tokio::time::interval(every.unwrap_or(LONGEST_BEAT));
        let mut told = String::new();
        loop {
            let path = || self.state_dir.clone();
            lock.keep().map_err(|lost| match lost {
                Lost::Gone => Error::FolderGone { path: path() },
                Lost::Taken(holder) => Error::InUse { path: path(), holder: holder.to_string() },
            })?;
            self.obey().await?;
            let now = self.summary();
            if now != told {
                manager.status(&now);
                tracing::info!("{now}");
                told = now;
            }
            tokio::select! {
                _ = look.tick() => {}
                _ = beat.tick(), if every.is_some() => self.show_life(manager),
                _ = room.changed() => {}
                _ = contact.changed() => {}
                () = self.wishes.notified() => {}
                () = self.shutdown.cancelled() => return Ok(()),
            }
        }
    }

    fn show_life(&self, manager: &dyn Manager) {
        if now_ms() - self.contact.known().turned < LONGEST_TURN_MS {
            manager.beat();
        } else {
            tracing::error!("asking for work has come to a stop: the service manager hears no more");
        }
    }

    /// Does what is wished.
    async fn obey(self: &Arc<Host>) -> Result<(), Error> {
        if let Some(mode) = control::take_stop(&self.state_dir) {
            tracing::info!(?mode, "told to stop");
            *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = Some(mode);
            if mode == StopMode::CancelJobs {
                self.cancel_all()?;
            }
        }
        let ending = *self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let draining = ending.is_some() || control::is_draining(&self.state_dir);
        if draining != self.room.is_draining() {
            tracing::info!(draining, "taking new work");
            self.room.set_draining(draining);
        }
        let done = match ending {
            None => false,
            Some(StopMode::Now) => true,
            Some(StopMode::WhenDrained | StopMode::CancelJobs) => self.room.is_drained() && self.live().is_empty(),
        };
        if done {
            self.shutdown.cancel();
        }
        Ok(())
    }

    /// Cancels every process at the server; its cancellation ends the job, as anybody's would.
    fn cancel_all(self: &Arc<Host>) -> Result<(), Error> {
        for entry in self.journal.open_jobs()? {
            let host = self.clone();
            tokio::spawn(async move {
                let id = &entry.process.processid;
                tokio::select! {
                    done = until_answered("cancelprocess", || host.client.cancel(id)) => if let Err(error) = done {
                        tracing::info!(process = id, %error, "cannot be cancelled: it has ended, perhaps");
                    },
                    () = host.shutdown.cancelled() => {}
                }
            });
        }
        Ok(())
    }

    /// How it stands, in a line.
    fn summary(&self) -> String {
        let usage = self.room.usage();
        let taken = format!("{} of {} slots taken", usage.slots.used, usage.slots.all.unwrap_or(0));
        let known = self.contact.known();
        match (known.problem, self.room.is_draining()) {
            (Some(problem), _) => format!("{taken}; {problem}"),
            (None, true) => format!("{taken}; takes no new work"),
            (None, false) if known.heard.is_none() => format!("{taken}; joining the colony {}", self.client.colony()),
            (None, false) => format!("{taken}; takes work"),
        }
    }
}

/// Where nobody wants to hear.
const LONGEST_BEAT: Duration = Duration::from_secs(3600);
