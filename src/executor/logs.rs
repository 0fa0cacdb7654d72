//! A job's outputs to the process log: in order, nothing lost, nothing doubled.
//!
//! An output is a file that grows; what the server has of it is an offset in the journal. Each message is written down
//! before it is sent and settled after it was accepted. Where it is not known whether the server took it (we died in
//! between, or the answer was lost) the end of the server's log tells: only we write there. The one thing that cannot be
//! told is a message that was preceded by [`COMPARABLE`] equal ones; it is then sent again rather than lost.

use super::backend::Output;
use super::backend::regular;
use super::error::Error;
use super::growth;
use super::growth::Growth;
use super::journal::Journal;
use super::journal::Pending;
use super::text;
use crate::blocking;
use crate::colonies;
use crate::colonies::Client;
use std::borrow::Cow;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Pause after a message; so at most about four small messages a second.
const PACE: Duration = Duration::from_millis(250);
/// Bytes read at once: one full message.
const CHUNK: usize = text::MESSAGE_LIMIT;
/// Full messages of one output before the others get their turn.
const TURN: usize = 16;
/// Equal messages in a row that can be counted in one page of the server's log.
pub const COMPARABLE: u32 = 400;
/// How often the server may answer a message with a fault of its own (5xx) before it is offered in plain ASCII instead.
const SERVER_TRIES: u32 = if cfg!(test) { 3 } else { 8 };
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// How streaming ended.
#[derive(Debug)]
pub enum Streamed {
    /// The job had ended, and everything is accepted.
    All,
    /// The server takes no log of this process from us (it is cancelled, or not ours any more).
    Refused(colonies::Error),
}

/// What one turn of one output brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moved {
    /// Nothing was new.
    Nothing,
    /// All that was new is sent.
    Something,
    /// The turn was over before all was sent.
    MoreThere,
}

/// The stream of one job.
#[derive(Debug)]
pub struct LogStream {
    /// The server.
    pub client: Client,
    /// Where positions are kept.
    pub journal: Journal,
    /// The process.
    pub process_id: String,
    /// The journal's row.
    pub job_id: i64,
    /// What the job writes.
    pub outputs: Vec<Output>,
    /// Tells when there is more.
    pub growth: Arc<Growth>,
}

impl LogStream {
    /// Sends what there is and what comes, until `over` says that the job has ended and the last byte is accepted.
    ///
    /// # Errors
    /// Those of the journal, and of reading an output.
    pub async fn run(&self, mut over: watch::Receiver<bool>) -> Result<Streamed, Error> {
        if let Some(pending) = self.journal.pending(self.job_id)? {
            let message = self.message_again(&pending).await?;
            if let Err(refused) = self.deliver(&pending, &message, true).await? {
                return Ok(Streamed::Refused(refused));
            }
        }
        let growing = self.growth.follow(self.outputs.iter().map(|o| o.path.clone()).collect());
        loop {
            // Asked before reading: what is read after the end is all there is.
            let ended = *over.borrow();
            if ended {
                self.refresh().await;
            }
            let mut moved = Moved::Nothing;
            for number in 0..self.outputs.len() {
                match self.send_some(number, ended).await? {
                    Ok(some) => moved = moved.max(some),
                    Err(refused) => return Ok(Streamed::Refused(refused)),
                }
            }
            if ended && moved == Moved::Nothing {
                return Ok(Streamed::All);
            }
            if ended || moved == Moved::MoreThere {
                continue;
            }
            if moved == Moved::Something {
                tokio::select! {
                    () = tokio::time::sleep(PACE) => {}
                    // There may be nothing more to wait for.
                    () = changed(&mut over) => continue,
                }
            }
            tokio::select! { () = growing.changed() => {}, () = changed(&mut over) => {} }
        }
    }

    /// Has a network file system ask for what other machines wrote last.
    async fn refresh(&self) {
        let paths: Vec<PathBuf> = self.outputs.iter().map(|output| output.path.clone()).collect();
        blocking::run(move || growth::refresh(paths.iter())).await;
    }

    /// The text of a message that was cut by an earlier life: the same bytes give the same text.
    async fn message_again(&self, pending: &Pending) -> Result<String, Error> {
        let offset = self.journal.positions(self.job_id)?.get(&pending.output).copied().unwrap_or(0);
        let Some(output) = self.outputs.get(pending.output as usize) else { return Ok(String::new()) };
        let mut bytes = read_at(&output.path, offset).await?;
        bytes.truncate(usize::try_from(pending.upto.saturating_sub(offset)).unwrap_or(CHUNK));
        Ok(cut(output, &bytes, true).0)
    }

    /// Sends what is new in one output, at most some full messages.
    async fn send_some(&self, number: usize, ended: bool) -> Result<Result<Moved, colonies::Error>, Error> {
        let output = &self.outputs[number];
        let number = number as u32;
        let mut moved = Moved::Nothing;
        for _ in 0..TURN {
            let offset = self.journal.positions(self.job_id)?.get(&number).copied().unwrap_or(0);
            let bytes = read_at(&output.path, offset).await?;
            let full = bytes.len() == CHUNK;
            let (message, used) = cut(output, &bytes, ended && !full);
            if used == 0 {
                return Ok(Ok(moved));
            }
            let pending = self.journal.sending(self.job_id, number, offset + used as u64, &message)?;
            if let Err(refused) = self.deliver(&pending, &message, false).await? {
                return Ok(Err(refused));
            }
            moved = Moved::Something;
            if !full {
                return Ok(Ok(moved));
            }
        }
        Ok(Ok(Moved::MoreThere))
    }

    /// Sends one message until it is accepted or refused for good. `unsure`: the server may have it already.
    async fn deliver(&self, pending: &Pending, message: &str, mut unsure: bool) -> Result<Result<(), colonies::Error>, Error> {
        let mut message = Cow::Borrowed(message);
        let mut pause = PACE;
        let mut server_errors = 0;
        loop {
            let tried = match unsure {
                true => self.has(pending, &message).await,
                false => Ok(false),
            };
            let tried = match tried {
                Ok(true) => Ok(()),
                Ok(false) => self.client.add_log(&self.process_id, &message).await,
                Err(e) => Err(e),
            };
            let error = match tried {
                Ok(()) => return Ok(Ok(self.journal.sent(self.job_id, pending, true)?)),
                Err(error) => error,
            };
            let at_fault = error.is_fault_of_the_server() && !error.is_temporary();
            server_errors += u32::from(at_fault);
            if error.status() == Some(403) && !error.is_not_member() {
                return Ok(Err(error));
            }
            if server_errors == SERVER_TRIES {
                tracing::warn!(process = self.process_id, %error, "a log message is offered in plain ASCII");
                message = Cow::Owned(message.replace(|c: char| !c.is_ascii_graphic() && !" \t\n".contains(c), "?"));
            }
            if !(error.is_temporary() || error.is_not_member() || at_fault) {
                tracing::warn!(process = self.process_id, %error, "the server does not take a log message: it is passed over");
                return Ok(Ok(self.journal.sent(self.job_id, pending, false)?));
            }
            tracing::debug!(process = self.process_id, %error, ?pause, "a log message is tried again");
            unsure = true;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether the server's log ends with this message, beyond those that were equal before it.
    async fn has(&self, pending: &Pending, message: &str) -> Result<bool, colonies::Error> {
        if pending.same_before >= COMPARABLE {
            return Ok(false);
        }
        let count = pending.same_before as usize + 1;
        let last = self.client.latest_logs(&self.process_id, count as i64).await?;
        Ok(last.len() == count && last.iter().all(|entry| entry.message == message))
    }
}

/// Waits for news; for ever where nobody will say more: the last value stands.
async fn changed(over: &mut watch::Receiver<bool>) {
    if over.changed().await.is_err() {
        std::future::pending().await
    }
}

/// The next message of an output, and how many bytes it stands for.
fn cut(output: &Output, bytes: &[u8], at_end: bool) -> (String, usize) {
    match &output.prefix {
        None => text::cut(bytes, at_end, text::MESSAGE_LIMIT),
        Some(prefix) => text::cut_lines(bytes, at_end, prefix, text::MESSAGE_LIMIT),
    }
}

/// Up to [`CHUNK`] bytes from an offset; none where the file is not there (yet).
async fn read_at(path: &Path, offset: u64) -> Result<Vec<u8>, Error> {
    let path = path.to_path_buf();
    let read = blocking::run(move || {
        let result = (|| {
            let Some(mut file) = regular::open(&path)? else { return Ok(Vec::new()) };
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::with_capacity(CHUNK);
            file.take(CHUNK as u64).read_to_end(&mut bytes)?;
            Ok(bytes)
        })();
        result.map_err(|source| Error::Folder { path, source })
    });
    read.await
}

/// The last lines of an output, for the reasons of a failure.
pub async fn tail_of(path: &Path) -> String {
    const LINES: usize = 20;
    const LIMIT: u64 = 4096;
    let path = path.to_path_buf();
    let read = blocking::run(move || -> std::io::Result<Vec<u8>> {
        let Some(mut file) = regular::open(&path)? else { return Ok(Vec::new()) };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LIMIT)))?;
        let mut bytes = Vec::new();
        file.take(LIMIT).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    match read.await {
        Ok(bytes) => text::tail(&bytes, LINES, LIMIT as usize),
        // It says nothing more about the failure; the verdict stands without it.
        _ => String::new(),
    }
}
