//! How far a container's log is written down, on disk beside it: no record twice and none lost, whenever the executor dies.
//!
//! A batch of records is first put into the position file, with the size that the output had, and then added to the output.
//! After a death in between, the output shows whether it was. What stands in the output before a batch is on the disk before
//! the position says that it was read, so that the death may be the machine's, too.

use super::lines::Mark;
use super::lines::Record;
use crate::durable;
use crate::executor::backend::Failure;
use crate::executor::backend::append;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::Serialize;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

/// How long a record may take until it is written down, ns. Where only the time of writing is known, what came so shortly before
/// it is read again: a line that comes twice is better than one that never comes.
const LATE: i128 = 5_000_000_000;
/// For the reader of an output whose position is lost.
const LOST: &str = "it is not known any more how far this log was read: about here lines may be missing, or stand twice";
/// For the reader of an output whose log was rotated while nobody read it.
const GAP: &str = "the cluster rotated this log away while it could not be read: lines may be missing here";

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    mark: Option<Mark>,
    /// Where there is no mark, and not all of the log is new: what is new came after this, ns since 1970.
    #[serde(default)]
    since: Option<i128>,
    /// The log is read to its end.
    is_whole: bool,
    /// Size of the output before the last batch.
    size: u64,
    /// The last batch, base64.
    batch: String,
}

/// Writes one container's log into an output, which may have other writers, too.
#[derive(Clone, Debug)]
pub struct Recorder {
    output: PathBuf,
    file: PathBuf,
    position: Position,
    /// Nothing failed: the last batch is in the output, whole.
    is_settled: bool,
}

impl Recorder {
    /// Goes on where an earlier life stopped.
    ///
    /// Where the position file makes no sense (it was written by a machine that died, or by somebody else), what stands in the
    /// output stays, and nothing is read from the start again, since that would double all of it: what the cluster has from a
    /// little before the file was last written is new, and a line in the output says that lines may be missing or stand twice.
    ///
    /// # Errors
    /// Those of the file system: a file that cannot be read at present may still be good.
    pub fn open(output: &Path, file: &Path) -> Result<Recorder, Failure> {
        let found = match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).ok(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Some(Position::default()),
            Err(e) => return Err(Failure::io("cannot read the position in the log", file)(e)),
        };
        let is_known = found.is_some();
        let mut recorder =
            Recorder { output: output.into(), file: file.into(), position: found.unwrap_or_default(), is_settled: true };
        if !is_known {
            recorder.begin_anew()?;
        }
        recorder.finish_batch()?;
        Ok(recorder)
    }

    /// The position is lost, but not when it was written.
    fn begin_anew(&mut self) -> Result<(), Failure> {
        tracing::warn!(file = %self.file.display(), "it is not known any more how far a log was read");
        let found = std::fs::metadata(&self.file).map_err(Failure::io("cannot read the position in the log", &self.file))?;
        let written = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        let size = self.size()?;
        let batch = BASE64_STANDARD.encode(self.own_line(size, LOST)?);
        self.position = Position { since: Some(written - LATE), size, batch, ..Position::default() };
        self.save()
    }

    /// Brings the output to where the position file says, where a write failed: a part of it may be there. Before that nothing
    /// may be read or added.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn settle(&mut self) -> Result<(), Failure> {
        if !self.is_settled {
            *self = Recorder::open(&self.output, &self.file)?;
        }
        Ok(())
    }

    /// Whether nothing has to be settled.
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// The last record that is written.
    pub fn mark(&self) -> Option<Mark> {
        self.position.mark
    }

    /// Where there is no last record: from when on the log is new, ns since 1970; none: all of it.
    pub fn since(&self) -> Option<i128> {
        self.position.since
    }

    /// Whether the log is read to its end.
    pub fn is_whole(&self) -> bool {
        self.position.is_whole
    }

    /// Adds records; `gap`: before them some may be missing.
    ///
    /// # Errors
    /// Those of the file system. Then a part of them may be there, and [`Recorder::settle`] has to be called.
    pub fn write(&mut self, records: &[Record], gap: bool) -> Result<(), Failure> {
        if records.is_empty() {
            return Ok(());
        }
        self.is_settled = false;
        let bytes = self.note(records, gap)?;
        append(&self.output)?.write_all(&bytes).map_err(Failure::io("cannot write to the output of the job", &self.output))?;
        self.is_settled = true;
        Ok(())
    }

    /// Writes down what is about to be added, and gives it.
    fn note(&mut self, records: &[Record], gap: bool) -> Result<Vec<u8>, Failure> {
        let size = self.size()?;
        let mut bytes = if gap { self.own_line(size, GAP)?.into_bytes() } else { Vec::new() };
        records.iter().for_each(|record| bytes.extend_from_slice(&record.bytes));
        let mark = records.iter().fold(self.position.mark, |mark, record| Some(Mark::after(mark, record)));
        self.position = Position { mark, size, batch: BASE64_STANDARD.encode(&bytes), ..Position::default() };
        self.save()?;
        Ok(bytes)
    }

    /// Size of the output, all of which is on the disk.
    fn size(&self) -> Result<u64, Failure> {
        let failed = || Failure::io("cannot write to the output of the job", &self.output);
        let output = append(&self.output)?;
        output.sync_data().map_err(failed())?;
        Ok(output.metadata().map_err(failed())?.len())
    }

    /// A line for the reader of the output, as it is to be added to an output of this size.
    fn own_line(&self, size: u64, text: &str) -> Result<String, Failure> {
        let begins = begins_a_line(&self.output, size).map_err(Failure::io("cannot read the output of the job", &self.output))?;
        let newline = if begins { "" } else { "\n" };
        Ok(format!("{newline}pollinator: {text}\n"))
    }

    /// Notes that nothing more will come.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn finish(&mut self) -> Result<(), Failure> {
        self.position.is_whole = true;
        self.save()
    }

    fn save(&self) -> Result<(), Failure> {
        let failed = || Failure::io("cannot write down the position in the log", &self.file);
        let text = serde_json::to_vec(&self.position).map_err(|e| failed()(e.into()))?;
        durable::replace(&self.file, &text).map_err(failed())
    }

    /// Adds what of the last batch is not in the output.
    fn finish_batch(&self) -> Result<(), Failure> {
        let failed = || Failure::io("cannot read the output of the job", &self.output);
        let Ok(batch) = BASE64_STANDARD.decode(&self.position.batch) else { return Ok(()) };
        if batch.is_empty() {
            return Ok(());
        }
        let mut added = Vec::new();
        match std::fs::File::open(&self.output) {
            Ok(mut output) => {
                output.seek(SeekFrom::Start(self.position.size)).map_err(failed())?;
                output.read_to_end(&mut added).map_err(failed())?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed()(e)),
        }
        // Lines of the executor's own may stand before and behind it.
        let is_there = added.windows(batch.len()).any(|part| part == batch);
        let begun = (0..=batch.len()).rev().find(|n| added.ends_with(&batch[..*n])).unwrap_or(0);
        if is_there {
            return Ok(());
        }
        let failed = Failure::io("cannot write to the output of the job", &self.output);
        append(&self.output)?.write_all(&batch[begun..]).map_err(failed)
    }
}

/// Whether what is added to a file of this size begins a line.
fn begins_a_line(output: &Path, size: u64) -> std::io::Result<bool> {
    let Some(last) = size.checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    std::fs::File::open(output)?.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::backend::say;

    fn record(n: i128) -> Record {
        Record { time: n, bytes: format!("line {n}\n").into_bytes() }
    }

    fn lines(numbers: std::ops::RangeInclusive<i128>) -> String {
        numbers.map(|n| format!("line {n}\n")).collect()
    }

    #[test]
    fn a_death_at_any_byte_loses_and_doubles_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (output, file) = (folder.path().join("log"), folder.path().join("position.0"));
        let mut recorder = Recorder::open(&output, &file).unwrap();
        recorder.write(&[record(1), record(2)], false).unwrap();
        say(&output, "a line of the executor's").unwrap();
        recorder.write(&[record(3), record(4)], false).unwrap();
        let whole = std::fs::read(&output).unwrap();
        let before = whole.len() - b"line 3\nline 4\n".len();
        for cut in before..=whole.len() {
            for more in [false, true] {
                std::fs::write(&output, &whole[..cut]).unwrap();
                if more && cut == whole.len() {
                    say(&output, "and another").unwrap();
                }
                let again = Recorder::open(&output, &file).unwrap();
                assert_eq!(again.mark(), recorder.mark());
                assert!(std::fs::read(&output).unwrap().starts_with(&whole));
            }
        }
    }

    /// The disk gets full in the midst of a batch, and is emptied again.
    #[test]
    fn a_write_that_fails_at_any_byte_loses_and_doubles_nothing() {
        for cut in 0..b"line 3\nline 4\n".len() {
            let folder = tempfile::tempdir().unwrap();
            let (output, file) = (folder.path().join("log"), folder.path().join("position.0"));
            let mut recorder = Recorder::open(&output, &file).unwrap();
            recorder.write(&[record(1), record(2)], false).unwrap();
            // What `write` does, but for its last bytes.
            recorder.is_settled = false;
            let bytes = recorder.note(&[record(3), record(4)], false).unwrap();
            append(&output).unwrap().write_all(&bytes[..cut]).unwrap();
            recorder.settle().unwrap();
            assert!(recorder.is_settled());
            assert_eq!(recorder.mark().unwrap().time, 4);
            recorder.write(&[record(5)], false).unwrap();
            assert_eq!(std::fs::read_to_string(&output).unwrap(), lines(1..=5));
        }
    }

    #[test]
    fn a_write_that_never_began_has_written_nothing_down() {
        let folder = tempfile::tempdir().unwrap();
        let (output, file) = (folder.path().join("log"), folder.path().join("position.0"));
        let mut recorder = Recorder::open(&output, &file).unwrap();
        recorder.write(&[record(1)], false).unwrap();
        let aside = folder.path().join("aside");
        std::fs::rename(&output, &aside).unwrap();
        std::fs::create_dir(&output).unwrap();
        assert!(recorder.write(&[record(2)], false).is_err());
        assert!(!recorder.is_settled() && recorder.settle().is_err());
        std::fs::remove_dir(&output).unwrap();
        std::fs::rename(&aside, &output).unwrap();
        recorder.settle().unwrap();
        assert_eq!(recorder.mark().unwrap().time, 1);
        recorder.write(&[record(2)], false).unwrap();
        assert_eq!(std::fs::read_to_string(&output).unwrap(), lines(1..=2));
    }

    #[test]
    fn a_lost_position_is_told_once_and_the_log_goes_on() {
        for (left, sight) in [("", "line 1\nline 2\n"), ("{\"mark\":", "line 1\nlin"), ("\0\0\0", "")] {
            let folder = tempfile::tempdir().unwrap();
            let (output, file) = (folder.path().join("log"), folder.path().join("position.0"));
            std::fs::write(&output, sight).unwrap();
            std::fs::write(&file, left).unwrap();
            let now = jiff::Timestamp::now().as_nanosecond();
            let recorder = Recorder::open(&output, &file).unwrap();
            assert_eq!(recorder.mark(), None);
            let since = recorder.since().unwrap();
            assert!((now - since - LATE).abs() < 60_000_000_000, "{since} {now}");
            let mut again = Recorder::open(&output, &file).unwrap();
            assert_eq!((again.mark(), again.since()), (None, Some(since)));
            again.write(&[record(3)], false).unwrap();
            assert_eq!(again.since(), None);
            let newline = if sight.is_empty() || sight.ends_with('\n') { "" } else { "\n" };
            let want = format!("{sight}{newline}pollinator: {LOST}\nline 3\n");
            assert_eq!(std::fs::read_to_string(&output).unwrap(), want);
        }
    }

    #[test]
    fn a_gap_is_told_before_what_follows_it() {
        let folder = tempfile::tempdir().unwrap();
        let (output, file) = (folder.path().join("log"), folder.path().join("position.0"));
        let mut recorder = Recorder::open(&output, &file).unwrap();
        recorder.write(&[record(1)], false).unwrap();
        recorder.write(&[], true).unwrap();
        recorder.write(&[record(8)], true).unwrap();
        assert_eq!(recorder.mark(), Some(Mark::after(None, &record(8))));
        assert_eq!(std::fs::read_to_string(&output).unwrap(), format!("line 1\npollinator: {GAP}\nline 8\n"));
    }

    #[test]
    fn the_end_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let (output, file) = (folder.path().join("log"), folder.path().join("position.0"));
        let mut recorder = Recorder::open(&output, &file).unwrap();
        recorder.write(&[record(1)], false).unwrap();
        assert!(!Recorder::open(&output, &file).unwrap().is_whole());
        recorder.finish().unwrap();
        assert!(Recorder::open(&output, &file).unwrap().is_whole());
        assert_eq!(std::fs::read_to_string(&output).unwrap(), "line 1\n");
    }

    #[test]
    fn positions_of_earlier_versions_are_understood() {
        let folder = tempfile::tempdir().unwrap();
        let (output, file) = (folder.path().join("log"), folder.path().join("position.0"));
        std::fs::write(&file, r#"{"mark":null,"is_whole":false,"size":0,"batch":"YQo="}"#).unwrap();
        let recorder = Recorder::open(&output, &file).unwrap();
        assert_eq!((recorder.mark(), recorder.since()), (None, None));
        assert_eq!(std::fs::read_to_string(&output).unwrap(), "a\n");
    }
}
