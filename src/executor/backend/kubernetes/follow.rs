//! Following the log of one container into an output, through broken connections, rotations and restarts.

use super::cluster::Cluster;
use super::cluster::chain;
use super::lines::Decoder;
use super::lines::Record;
use super::lines::Resume;
use super::position::Recorder;
use super::stream;
use super::stream::Extent;
use super::stream::NotOpened;
use super::stream::Stream;
use super::stream::Successor;
use crate::blocking;
use crate::executor::backend::Failure;
use futures_util::AsyncReadExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Lines wait so long for others before they are written.
const GATHER: Duration = Duration::from_millis(200);
/// So many bytes are written at once, about.
const BATCH: usize = 64 << 10;
/// Records that are held back wait so long for the mark.
const QUIET: Duration = Duration::from_secs(2);
/// A silent stream is opened anew after so long, and after longer and longer: kubelets have forgotten to follow.
const SILENCE: Duration = Duration::from_secs(60);
const LONGEST_SILENCE: Duration = Duration::from_secs(900);
/// After so many bytes of a log it may be rotated at any time. Kubelets up to 1.27 or so then go on with the old file, where
/// nothing more comes, and those of all versions look whether to rotate every ten seconds: what is not read until the next
/// rotation is lost. So a stream is opened anew soon, so many times.
const MUCH: usize = 256 << 10;
const SOON: Duration = Duration::from_secs(4);
const TIMES: u32 = 8;
/// Once a container is no longer followed, its stream is given up after so much silence, and in any case after so long: where one
/// process of a job failed, others may print on.
const LAST: Duration = Duration::from_millis(200);
const LONGEST_LAST: Duration = Duration::from_secs(5);
/// What a runtime writes beside a record, about.
const FRAME: usize = 40;
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
    /// Nothing more has come for long.
    Silent,
    /// Something else is wanted now.
    Turned,
    /// It was given up, and may have had more.
    Left,
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
    /// The last stream did not break: what there was before a rotation was read.
    pub was_open: bool,
    /// Opened before the last stream was given up, for what was wanted then.
    pub next: Option<(Wanted, Stream)>,
}

impl From<NotOpened> for Read {
    fn from(why: NotOpened) -> Read {
        match why {
            NotOpened::Gone => Read::None,
            NotOpened::Empty => Read::End,
            NotOpened::Refused(reason) => Read::Refused(reason),
            NotOpened::Broken(reason) => Read::Broken(reason),
        }
    }
}

impl Follower {
    /// Follows to the end; tells whether all of it could be read.
    pub async fn run(mut self) -> bool {
        if self.recorder.is_whole() {
            return true;
        }
        let (mut pause, mut silence, mut refusals) = (PAUSE, Silence::default(), 0);
        loop {
            let wanted = *self.wanted.borrow_and_update();
            let before = self.recorder.mark();
            let read = match wanted {
                Wanted::Wait => match self.wanted.changed().await {
                    Ok(()) => continue,
                    Err(_) => return false,
                },
                Wanted::Follow | Wanted::Finish => self.read(wanted, &mut silence).await,
            };
            self.was_open = matches!(read, Ok(Read::End | Read::Silent | Read::Turned));
            let progress = self.recorder.mark() != before;
            silence.take(progress);
            match read {
                Ok(Read::End) if wanted == Wanted::Finish => {
                    let finished = self.record(Recorder::finish).await;
                    return finished.inspect_err(|error| self.complain(&error.to_string())).is_ok();
                }
                Ok(Read::None) => return false,
                Ok(Read::Turned | Read::Silent | Read::Left) => continue,
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

    /// From a little before the last record that was written.
    fn extent(&self, wanted: Wanted) -> Extent {
        Extent {
            pod: self.pod.clone(),
            container: self.container.clone(),
            follow: wanted == Wanted::Follow,
            // In whole seconds, and stdout may stand behind stderr.
            since: self.recorder.mark().map(|mark| mark.time - 1_500_000_000).or(self.recorder.since()),
        }
    }

    /// Reads the log from the last record.
    async fn read(&mut self, wanted: Wanted, silence: &mut Silence) -> Result<Read, Failure> {
        if !self.recorder.is_settled() {
            self.record(Recorder::settle).await?;
        }
        let opened = match self.next.take() {
            Some((then, stream)) if then == wanted => Ok(stream),
            _ => stream::open(&self.cluster, self.extent(wanted)).await,
        };
        let stream = match opened {
            Ok(stream) => stream,
            Err(why) => return Ok(why.into()),
        };
        let mut intake = Intake {
            decoder: Decoder::default(),
            resume: Resume::after(self.recorder.mark()),
            // Without one that broke, all that came before a rotation was read.
            batch: Batch { tells_gap: !self.was_open, ..Batch::default() },
            times_much: 0,
        };
        let read = self.listen(stream, wanted, silence, &mut intake).await?;
        // While a container runs its line may go on; after its end it does not.
        intake.end(wanted == Wanted::Finish && matches!(read, Read::End));
        self.write(&mut intake.batch).await?;
        match intake.decoder.foreign.pop() {
            Some(message) if matches!(read, Read::End | Read::Silent) => Ok(Read::Refused(message)),
            _ => Ok(read),
        }
    }

    /// Takes what a stream gives, as long as it is the one to be read.
    async fn listen(
        &mut self,
        mut stream: Stream,
        wanted: Wanted,
        silence: &mut Silence,
        intake: &mut Intake,
    ) -> Result<Read, Failure> {
        let mut buffer = vec![0; 32 << 10];
        let (mut successor, mut now_wanted) = (Successor::default(), wanted);
        // Until when it is listened to, since something else is wanted.
        let mut deadline = None;
        let mut is_sure = true;
        loop {
            let is_turned = deadline.is_some();
            let limit = if is_turned { LAST } else { silence.limit() };
            let may_be_given_up = successor.is_none() && (is_turned || wanted == Wanted::Follow);
            tokio::select! {
                biased;
                changed = self.wanted.changed(), if !is_turned => {
                    now_wanted = *self.wanted.borrow_and_update();
                    if changed.is_err() || now_wanted == Wanted::Wait {
                        return Ok(Read::Turned);
                    }
                    if now_wanted != wanted {
                        successor.drop_it();
                        deadline = Some(Instant::now() + LONGEST_LAST);
                    }
                }
                () = sleep_until(deadline) => return Ok(Read::Left),
                // What a stream has comes before it is given up.
                read = stream.read(&mut buffer) => match read {
                    Ok(0) => return Ok(if is_turned { Read::Turned } else { Read::End }),
                    Ok(length) => {
                        successor.drop_it();
                        is_sure = true;
                        if intake.take(&buffer[..length]) {
                            silence.look_soon();
                        }
                        if intake.batch.size >= BATCH {
                            self.write(&mut intake.batch).await?;
                        }
                    }
                    Err(error) => return Ok(Read::Broken(chain(&error))),
                },
                opened = successor.opened() => match opened {
                    Ok(stream) => {
                        self.next = Some((now_wanted, stream));
                        return Ok(if !is_sure { Read::Left } else if is_turned { Read::Turned } else { Read::Silent });
                    }
                    // The first may live all the same; or neither, and then there may be a gap.
                    Err(why) => {
                        tracing::debug!(pod = self.pod, container = self.container, ?why, "no second stream; going on with the first");
                        successor.drop_it();
                        is_sure = false;
                        silence.take(false);
                    }
                },
                () = sleep_until(intake.batch.due) => self.write(&mut intake.batch).await?,
                () = tokio::time::sleep(QUIET), if intake.resume.holds() => intake.give_up(),
                () = tokio::time::sleep(limit), if may_be_given_up => {
                    silence.looked();
                    successor.begin(&self.cluster, self.extent(now_wanted));
                }
            }
        }
    }

    async fn write(&mut self, batch: &mut Batch) -> Result<(), Failure> {
        let (records, gap) = batch.empty();
        self.record(move |recorder| recorder.write(&records, gap)).await
    }

    /// Has the recorder do something. The volume may be slow.
    async fn record<F>(&mut self, work: F) -> Result<(), Failure>
    where
        F: FnOnce(&mut Recorder) -> Result<(), Failure> + Send + 'static,
    {
        let mut recorder = self.recorder.clone();
        let done = blocking::run(move || {
            let done = work(&mut recorder);
            (recorder, done)
        });
        let (recorder, done) = done.await;
        // Also where it failed: it knows that it has to be settled.
        self.recorder = recorder;
        done
    }
}

/// How long a silent stream is believed.
struct Silence {
    usual: Duration,
    /// So many more times not so long.
    soon: u32,
}

impl Default for Silence {
    fn default() -> Silence {
        Silence { usual: SILENCE, soon: 0 }
    }
}

impl Silence {
    fn limit(&self) -> Duration {
        if self.soon > 0 { SOON } else { self.usual }
    }

    /// Much was read.
    fn look_soon(&mut self) {
        self.soon = TIMES;
    }

    /// One that is silent is not believed.
    fn looked(&mut self) {
        self.soon = self.soon.saturating_sub(1);
    }

    /// A stream has ended, and brought something or nothing.
    fn take(&mut self, progress: bool) {
        self.usual = match (progress, self.soon) {
            (true, _) => SILENCE,
            (false, 0) => (self.usual * 2).min(LONGEST_SILENCE),
            (false, _) => self.usual,
        };
    }
}

/// What one stream gave.
struct Intake {
    decoder: Decoder,
    resume: Resume,
    batch: Batch,
    /// How often so much came that the log may be rotated.
    times_much: usize,
}

impl Intake {
    /// Takes bytes; tells each time when so much came that the log may be rotated.
    fn take(&mut self, bytes: &[u8]) -> bool {
        for record in self.decoder.push(bytes) {
            self.batch.add(self.resume.admit(record), &mut self.resume);
        }
        let much = self.batch.read / MUCH;
        much > std::mem::replace(&mut self.times_much, much)
    }

    /// The mark does not come.
    fn give_up(&mut self) {
        self.batch.add(self.resume.give_up(), &mut self.resume);
    }

    /// Nothing more comes; what was begun is a line where the log has ended, too.
    fn end(&mut self, ends_line: bool) {
        if ends_line && let Some(last) = self.decoder.finish() {
            self.batch.add(self.resume.admit(last), &mut self.resume);
        }
        self.give_up();
    }
}

/// Records that are to be written.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    size: usize,
    due: Option<Instant>,
    /// Of this batch and those before it, in the log.
    read: usize,
    /// Whether it is told that records are missing.
    tells_gap: bool,
    /// They are missing before the first.
    gap: bool,
}

impl Batch {
    fn add(&mut self, records: Vec<Record>, resume: &mut Resume) {
        self.gap |= resume.take_gap() && self.tells_gap;
        for record in records {
            self.size += record.bytes.len();
            self.read += record.bytes.len() + FRAME;
            self.due.get_or_insert_with(|| Instant::now() + GATHER);
            self.records.push(record);
        }
    }

    /// Gives the records, and whether some are missing before them.
    fn empty(&mut self) -> (Vec<Record>, bool) {
        (self.size, self.due) = (0, None);
        (std::mem::take(&mut self.records), std::mem::take(&mut self.gap))
    }
}

async fn sleep_until(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
