//! Following a process: its states by subscription, its log by a position that neither loses nor doubles an entry.

use super::Error;
use crate::colonies;
use crate::colonies::Client;
use crate::colonies::LogEntry;
use crate::colonies::Process;
use crate::colonies::ProcessState;
use crate::colonies::subscribe;
use crate::colonies::subscribe::Change;
use crate::event::Event;
use crate::event::Events;
use std::collections::HashMap;
use std::time::Duration;

/// Most entries the server gives at once.
const LARGEST_PAGE: i64 = 500;
/// Pause between two looks at the log while it grows.
const BUSY: Duration = Duration::from_millis(200);
/// Longest pause between two looks at a quiet log.
const QUIET: Duration = Duration::from_secs(2);
/// How often the log of a process that has ended is asked for before an unreachable server is told of.
/// Each try has the client's own retries in it.
const DRAIN_TRIES: u32 = 3;

/// A place in a log: the time of the last entry taken, and how many with that time were taken.
///
/// The server gives entries strictly after a time. Asking from just before the last one and leaving out those that were
/// seen loses nothing where several entries bear the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Nanoseconds since 1970; 0: the start.
    pub timestamp: i64,
    /// Entries taken that bear this time.
    pub seen: usize,
}

impl Position {
    /// What to send as `since`.
    fn since(self) -> i64 {
        (self.timestamp - 1).max(0)
    }

    /// Leaves out of a page what was taken already, and moves on behind it.
    fn advance(&mut self, page: Vec<LogEntry>) -> Vec<LogEntry> {
        let mut skip = if self.timestamp == 0 { 0 } else { self.seen };
        let mut fresh = Vec::with_capacity(page.len());
        for entry in page {
            if entry.timestamp == self.timestamp && skip > 0 {
                skip -= 1;
                continue;
            }
            if entry.timestamp == self.timestamp {
                self.seen += 1;
            } else {
                *self = Position { timestamp: entry.timestamp, seen: 1 };
            }
            fresh.push(entry);
        }
        fresh
    }
}

/// Reads a log from a position on.
#[derive(Debug)]
pub struct LogReader {
    client: Client,
    process: String,
    position: Position,
    page: i64,
}

impl LogReader {
    /// From the start, `page` entries at once (1 to 500).
    pub fn new(client: &Client, process: &str, page: i64) -> LogReader {
        LogReader { client: client.clone(), process: process.to_owned(), position: Position::default(), page }
    }

    /// All entries that came since the last call, page by page, as events. Gives how many.
    pub async fn take_all(&mut self, events: &Events) -> Result<usize, colonies::Error> {
        let mut taken = 0;
        let mut count = self.page;
        loop {
            let page = self.client.logs(&self.process, self.position.since(), count).await?;
            let full = page.len() as i64 >= count;
            let fresh = self.position.advance(page);
            if fresh.is_empty() && full && count < LARGEST_PAGE {
                // The page holds nothing but entries of one time that were seen: look further.
                count = LARGEST_PAGE;
                continue;
            }
            taken += fresh.len();
            let stuck = fresh.is_empty();
            for entry in fresh {
                events.emit(Event::Log { process: entry.processid, timestamp: entry.timestamp, message: entry.message });
            }
            if !full || stuck {
                return Ok(taken);
            }
        }
    }
}

/// Follows a process to its end: states and log as events, the log drained to its last entry *after* the end was seen.
///
/// A server that cannot be reached for a while is told of once and waited for. Dropping the future stops following; the
/// process goes on.
///
/// # Errors
/// [`Error::Colony`] when the server refuses (no such process, no member any more).
pub async fn follow(client: &Client, process_id: &str, page: i64, events: &Events) -> Result<Process, Error> {
    let mut changes = subscribe::watch(client, process_id);
    let mut log = LogReader::new(client, process_id, page);
    let mut names = ExecutorNames::new(client);
    let mut pause = BUSY;
    let mut running = false;
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            () = tokio::time::sleep(pause), if running => {
                pause = look_at_log(&mut log, pause, events).await?;
                continue;
            }
        };
        match change {
            Some(Ok(Change::Process(process))) => {
                if process.state.is_final() {
                    drain(&mut log, events).await?;
                    names.tell(&process, events).await;
                    finish(&process, events);
                    return Ok(*process);
                }
                names.tell(&process, events).await;
                // A process that was taken away has a log too.
                running = process.state == ProcessState::Running || process.retries > 0;
                pause = BUSY;
            }
            Some(Ok(Change::Offline(error))) => {
                events.warn(format!("{error}; the process goes on, waiting for the server"));
            }
            Some(Ok(Change::Online)) => events.emit(Event::Note { message: "the Colonies server answers again".into() }),
            Some(Err(error)) => return Err(error.into()),
            None => return Err(lost_watch(client, process_id)),
        }
    }
}

/// The watch ends only with a final state or an error; a task that was killed (a panic) shows here.
fn lost_watch(client: &Client, process_id: &str) -> Error {
    Error::Colony(colonies::Error::Garbage {
        server: client.server(),
        call: "subscribeprocessmsg".into(),
        reason: format!("the watch on process {process_id} ended too early"),
    })
}

/// One look; gives the pause before the next. "Unreachable" is told by the watch, not here.
async fn look_at_log(log: &mut LogReader, pause: Duration, events: &Events) -> Result<Duration, Error> {
    match log.take_all(events).await {
        Ok(0) => Ok((pause * 3 / 2).min(QUIET)),
        Ok(_) => Ok(BUSY),
        Err(error) if error.is_temporary() => {
            tracing::debug!(%error, "the log cannot be read at the moment");
            Ok(QUIET)
        }
        Err(error) => Err(error.into()),
    }
}

/// The rest of the log of a process that has ended. What the server cannot give is told, and does not change its fate.
async fn drain(log: &mut LogReader, events: &Events) -> Result<(), Error> {
    for attempt in 1..=DRAIN_TRIES {
        match log.take_all(events).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_temporary() && attempt < DRAIN_TRIES => {
                tracing::debug!(%error, attempt, "the end of the log cannot be read yet");
                tokio::time::sleep(QUIET).await;
            }
            Err(error) => {
                events.warn(format!("the end of the log could not be read: {error}"));
                return Ok(());
            }
        }
    }
    Ok(())
}

fn finish(process: &Process, events: &Events) {
    events.emit(Event::Finished {
        process: process.processid.clone(),
        state: process.state.word().into(),
        errors: process.errors.clone(),
    });
}

/// Names of executors by their ids, asked for once each.
#[derive(Debug)]
pub struct ExecutorNames {
    client: Client,
    known: HashMap<String, Option<String>>,
}

impl ExecutorNames {
    /// Knows none yet.
    pub fn new(client: &Client) -> ExecutorNames {
        ExecutorNames { client: client.clone(), known: HashMap::new() }
    }

    /// Name of the executor that holds or held a process; none where nobody does, or the server does not know.
    pub async fn of(&mut self, process: &Process) -> Option<String> {
        let id = &process.assignedexecutorid;
        if id.is_empty() {
            return None;
        }
        if !self.known.contains_key(id) {
            let name = match self.client.executor_by_id(id).await {
                Ok(executor) => Some(executor.executorname),
                Err(error) => {
                    tracing::debug!(%error, "the executor's name cannot be read");
                    None
                }
            };
            self.known.insert(id.clone(), name);
        }
        self.known.get(id).cloned().flatten()
    }

    async fn tell(&mut self, process: &Process, events: &Events) {
        let executor = self.of(process).await;
        events.emit(Event::ProcessState { process: process.processid.clone(), state: process.state.word().into(), executor });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(timestamp: i64, number: usize) -> LogEntry {
        LogEntry { timestamp, message: number.to_string(), ..LogEntry::default() }
    }

    /// A server's page: strictly after `since`, oldest first, at most `count`.
    fn page(log: &[LogEntry], since: i64, count: usize) -> Vec<LogEntry> {
        log.iter().filter(|e| e.timestamp > since).take(count).cloned().collect()
    }

    proptest! {
        /// However the log grows between two looks, and however many entries share a time, each is taken once, in order.
        #[test]
        fn no_entry_is_lost_or_doubled(steps in prop::collection::vec((0i64..3, 1usize..4), 1..60), looks in prop::collection::vec(1usize..20, 1..60)) {
            let mut time = 1;
            let mut all = Vec::new();
            for (step, burst) in steps {
                time += step;
                for _ in 0..burst {
                    all.push(entry(time, all.len()));
                }
            }
            let mut position = Position::default();
            let mut taken = Vec::new();
            let mut there = 0;
            for growth in looks.into_iter().chain([all.len()]) {
                there = (there + growth).min(all.len());
                loop {
                    let fresh = position.advance(page(&all[..there], position.since(), 1000));
                    if fresh.is_empty() { break; }
                    taken.extend(fresh);
                }
            }
            prop_assert_eq!(taken, all);
        }
    }
}
