//! Following the log of one container into an output, through broken connections, rotations and restarts.

use super::cluster::Cluster;
use super::cluster::chain;
use super::lines::Decoder;
use super::lines::Record;
use super::lines::Resume;
use super::position::Recorder;
use crate::executor::backend::Failure;
use futures_util::AsyncReadExt;
use jiff::Timestamp;
use kube::api::LogParams;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Lines wait so long for others before they are written.
const GATHER: Duration = Duration::from_millis(100);
/// So many bytes are written at once, about.
const BATCH: usize = 64 << 10;
/// Records that are held back wait so long for the mark.
const QUIET: Duration = Duration::from_secs(2);
/// A silent stream is opened anew after so long, and after longer and longer: kubelets have forgotten to follow.
const SILENCE: Duration = Duration::from_secs(60);
const LONGEST_SILENCE: Duration = Duration::from_secs(900);
/// How long the server may take to open a stream.
const OPENING: Duration = Duration::from_secs(30);
/// Pauses before a log is asked for again.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often the end of a log may be refused, before it is given up.
const REFUSALS: u32 = 25;

/// What is wanted of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing yet: the container does not run.
    Wait,
    /// What comes.
    Follow,
    /// What is there: the container has ended, or is not waited for.
    Finish,
}

/// How one reading ended.
enum Read {
    /// It was read to where it ends at present.
    End,
    /// Something else is wanted now.
    Turned,
    /// There is no such log, and will not be.
    None,
    /// The connection broke, or there was none.
    Broken(String),
    /// The cluster cannot or will not tell.
    Refused(String),
}

/// Follows one log.
pub struct Follower {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// The pod's name.
    pub pod: String,
    /// The container's.
    pub container: String,
    /// Where it is written.
    pub recorder: Recorder,
    /// What is wanted.
    pub wanted: watch::Receiver<Wanted>,
}

impl Follower {
    /// Follows to the end; tells whether all of it could be read.
    pub async fn run(mut self) -> bool {
        if self.recorder.is_whole() {
            return true;
        }
        let (mut pause, mut silence, mut refusals) = (PAUSE, SILENCE, 0);
        loop {
            let wanted = *self.wanted.borrow_and_update();
            let before = self.recorder.mark();
            let read = match wanted {
                Wanted::Wait => match self.wanted.changed().await {
                    Ok(()) => continue,
                    Err(_) => return false,
                },
                Wanted::Follow | Wanted::Finish => self.read(wanted, silence).await,
            };
            let progress = self.recorder.mark() != before;
            silence = if progress { SILENCE } else { (silence * 2).min(LONGEST_SILENCE) };
            match read {
                Ok(Read::End) if wanted == Wanted::Finish => {
                    return self.recorder.finish().inspect_err(|error| self.complain(&error.to_string())).is_ok();
                }
                Ok(Read::None) => return false,
                Ok(Read::Turned) => continue,
                Ok(Read::End) => {}
                Ok(Read::Broken(reason)) => self.complain(&reason),
                Ok(Read::Refused(reason)) => {
                    self.complain(&reason);
                    refusals += u32::from(wanted == Wanted::Finish);
                    if refusals >= REFUSALS {
                        return false;
                    }
                }
                // A full disk: it may be emptied.
                Err(error) => self.complain(&error.to_string()),
            }
            pause = if progress { PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            tokio::select! { () = tokio::time::sleep(pause) => {}, changed = self.wanted.changed() => if changed.is_err() { return false } }
        }
    }

    fn complain(&self, reason: &str) {
        tracing::debug!(
            pod = self.pod,
            container = self.container,
            reason,
            "the log of a container cannot be read; asking again"
        );
    }

    /// Reads the log from the last record.
    async fn read(&mut self, wanted: Wanted, silence: Duration) -> Result<Read, Failure> {
        let mark = self.recorder.mark();
        let params = LogParams {
            container: Some(self.container.clone()),
            follow: wanted == Wanted::Follow,
            timestamps: true,
            // In whole seconds, and stdout may stand behind stderr.
            since_time: mark.and_then(|mark| Timestamp::from_nanosecond(mark.time - 1_500_000_000).ok()),
            ..LogParams::default()
        };
        let pods = self.cluster.pods.clone();
        let opened = match tokio::time::timeout(OPENING, pods.log_stream(&self.pod, &params)).await {
            Ok(opened) => opened,
            Err(_) => return Ok(Read::Broken("no answer".into())),
        };
        let mut stream = match opened {
            Ok(stream) => std::pin::pin!(stream),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Read::None),
            // It never began, and there is nothing to read.
            Err(kube::Error::Api(status)) if wanted == Wanted::Finish && status.message.contains("is waiting to start") => {
                return Ok(Read::End);
            }
            Err(kube::Error::Api(status)) => return Ok(Read::Refused(status.message.clone())),
            Err(error) => return Ok(Read::Broken(chain(&error))),
        };
        let (mut decoder, mut resume) = (Decoder::default(), Resume::after(mark));
        let mut batch = Batch::default();
        let mut buffer = vec![0; 32 << 10];
        let read = loop {
            tokio::select! {
                read = stream.read(&mut buffer) => match read {
                    Ok(0) => break Read::End,
                    Ok(length) => {
                        let records = decoder.push(&buffer[..length]);
                        batch.add(records.into_iter().flat_map(|record| resume.admit(record)));
                        if batch.size >= BATCH {
                            self.write(&mut batch).await?;
                        }
                    }
                    Err(error) => break Read::Broken(chain(&error)),
                },
                () = sleep_until(batch.due) => self.write(&mut batch).await?,
                () = tokio::time::sleep(QUIET), if resume.holds() => batch.add(resume.give_up().into_iter()),
                () = tokio::time::sleep(silence), if wanted == Wanted::Follow => break Read::End,
                changed = self.wanted.changed() => if changed.is_err() || *self.wanted.borrow() != wanted { break Read::Turned },
            }
        };
        // While a container runs its line may go on; after its end it does not.
        if wanted == Wanted::Finish && matches!(read, Read::End) {
            batch.add(decoder.finish().into_iter().flat_map(|record| resume.admit(record)));
        }
        batch.add(resume.give_up().into_iter());
        self.write(&mut batch).await?;
        match decoder.foreign.pop() {
            Some(message) if matches!(read, Read::End) => Ok(Read::Refused(message)),
            _ => Ok(read),
        }
    }

    async fn write(&mut self, batch: &mut Batch) -> Result<(), Failure> {
        let records = std::mem::take(batch).records;
        let mut recorder = self.recorder.clone();
        // The volume may be slow.
        let written = tokio::task::spawn_blocking(move || recorder.write(&records).map(|()| recorder)).await;
        match written {
            Ok(recorder) => self.recorder = recorder?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => return Err(Failure::Unanswered { what: "write the log".into(), reason: error.to_string() }),
        }
        Ok(())
    }
}

/// Records that are to be written.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    size: usize,
    due: Option<Instant>,
}

impl Batch {
    fn add(&mut self, records: impl Iterator<Item = Record>) {
        for record in records {
            self.size += record.bytes.len();
            self.due.get_or_insert_with(|| Instant::now() + GATHER);
            self.records.push(record);
        }
    }
}

async fn sleep_until(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then).await,
        None => std::future::pending().await,
    }
}
