//! How far a container's log is written down, on disk beside it: no record twice and none lost, whenever the executor dies.
//!
//! A batch of records is first put into the position file, with the size that the output had, and then added to the output.
//! After a death in between, the output shows whether it was.

use super::lines::Mark;
use super::lines::Record;
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
use std::path::Path;
use std::path::PathBuf;

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    mark: Option<Mark>,
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
}

impl Recorder {
    /// Goes on where an earlier life stopped.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(output: &Path, file: &Path) -> Result<Recorder, Failure> {
        let position = match std::fs::read(file) {
            // Replaced whole each time: what cannot be read is not ours.
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| Failure::io("cannot read the position in the log", file)(e.into()))?
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Position::default(),
            Err(e) => return Err(Failure::io("cannot read the position in the log", file)(e)),
        };
        let recorder = Recorder { output: output.into(), file: file.into(), position };
        recorder.finish_batch()?;
        Ok(recorder)
    }

    /// The last record that is written.
    pub fn mark(&self) -> Option<Mark> {
        self.position.mark
    }

    /// Whether the log is read to its end.
    pub fn is_whole(&self) -> bool {
        self.position.is_whole
    }

    /// Adds records.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&mut self, records: &[Record]) -> Result<(), Failure> {
        if records.is_empty() {
            return Ok(());
        }
        let mark = records.iter().fold(self.position.mark, |mark, record| Some(Mark::after(mark, record)));
        let bytes: Vec<u8> = records.iter().flat_map(|record| record.bytes.iter().copied()).collect();
        let mut output = append(&self.output)?;
        let failed = || Failure::io("cannot write to the output of the job", &self.output);
        let size = output.metadata().map_err(failed())?.len();
        self.position = Position { mark, is_whole: false, size, batch: BASE64_STANDARD.encode(&bytes) };
        self.save()?;
        output.write_all(&bytes).map_err(failed())
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
        let new = self.file.with_extension("new");
        crate::executor::backend::payload::private_file(&new, &text)?;
        std::fs::rename(&new, &self.file).map_err(failed())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::backend::say;

    fn record(n: i128) -> Record {
        Record { time: n, bytes: format!("line {n}\n").into_bytes() }
    }

    #[test]
    fn a_death_at_any_byte_loses_and_doubles_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (output, file) = (folder.path().join("log"), folder.path().join("position.0"));
        let mut recorder = Recorder::open(&output, &file).unwrap();
        recorder.write(&[record(1), record(2)]).unwrap();
        say(&output, "a line of the executor's").unwrap();
        recorder.write(&[record(3), record(4)]).unwrap();
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

    #[test]
    fn the_end_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let (output, file) = (folder.path().join("log"), folder.path().join("position.0"));
        let mut recorder = Recorder::open(&output, &file).unwrap();
        recorder.write(&[record(1)]).unwrap();
        assert!(!Recorder::open(&output, &file).unwrap().is_whole());
        recorder.finish().unwrap();
        assert!(Recorder::open(&output, &file).unwrap().is_whole());
        assert_eq!(std::fs::read_to_string(&output).unwrap(), "line 1\n");
    }
}
