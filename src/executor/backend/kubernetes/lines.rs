//! A container's log as the cluster tells it, made into records, each told once however often it is read. Pure.
//!
//! Every line comes with the time at which the runtime took it. A log is read again after a broken connection, a rotation or
//! a restart of the executor: from a little before the last record, which is then looked for by its time and content. What
//! follows it is new. (Times alone do not tell: those of stdout and stderr may stand in the log in the wrong order.)
//!
//! Runtimes cut long lines into pieces of 16 KiB, and kubelets before 1.27 or so put a time before each piece. Records are
//! such pieces, so that they are the same whoever cuts.

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

/// Longest piece of a line.
pub const PIECE: usize = 16 << 10;
/// Longest text of a time: `2026-11-28T02:43:37.123456789+00:00`.
const LONGEST_TIME: usize = 35;
/// How far apart pieces of one line may be, ns.
const SAME_LINE: i128 = 3_600_000_000_000;
/// A record so much later than the last one seen is new, whether that one was found or not, ns.
const SURELY_LATER: i128 = 1_000_000_000;

/// A line of the log, or a piece of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When the runtime took it, ns since 1970.
    pub time: i128,
    /// What the container printed, its newline included.
    pub bytes: Vec<u8>,
}

/// Tells a record from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Its time.
    pub time: i128,
    /// Digest of its content.
    digest: u64,
    /// How many like it there were up to it.
    pub count: u32,
}

impl Mark {
    /// The mark after a record, `last` being the one before.
    pub fn after(last: Option<Mark>, record: &Record) -> Mark {
        let mark = Mark { time: record.time, digest: digest(&record.bytes), count: 1 };
        match last {
            Some(last) if last.is(record) => Mark { count: last.count.saturating_add(1), ..mark },
            _ => mark,
        }
    }

    fn is(&self, record: &Record) -> bool {
        self.time == record.time && self.digest == digest(&record.bytes)
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    hash.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Makes records of a stream of bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Time of the line that was begun.
    time: Option<i128>,
    /// What the cluster itself said instead of a line.
    pub foreign: Vec<String>,
}

impl Decoder {
    /// Takes bytes as they come.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Record> {
        self.buffer.extend_from_slice(bytes);
        let mut records = Vec::new();
        let mut used = 0;
        while let Some((record, more)) = self.next(used) {
            records.extend(record);
            used += more;
        }
        self.buffer.drain(..used);
        records
    }

    /// What is left at the end of a log: a line without a newline.
    pub fn finish(&mut self) -> Option<Record> {
        let rest = std::mem::take(&mut self.buffer);
        let (line, own) = (self.time.take(), time_at(&rest));
        let (time, start) = match (line, own) {
            (Some(line), Some((time, start))) if (0..SAME_LINE).contains(&(time - line)) => (time, start),
            (Some(line), _) => (line, 0),
            (None, Some(found)) => found,
            (None, None) => {
                self.foreign.extend((!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned()));
                return None;
            }
        };
        (start < rest.len()).then(|| Record { time, bytes: rest[start..].to_vec() })
    }

    /// The next record from this offset, and how many bytes it takes.
    fn next(&mut self, from: usize) -> Option<(Option<Record>, usize)> {
        let rest = &self.buffer[from..];
        let newline = rest.iter().take(PIECE + LONGEST_TIME + 2).position(|byte| *byte == b'\n');
        let (time, start) = match (self.time, time_at(rest)) {
            // A time of its own, if it is one: the text of a line may begin with anything.
            (Some(line), Some((time, start))) if (0..SAME_LINE).contains(&(time - line)) => (time, start),
            (Some(line), _) => (line, 0),
            (None, Some(found)) => found,
            (None, None) => {
                // No line without a time is the container's.
                let end = newline.or((rest.len() > PIECE).then_some(PIECE))?;
                self.foreign.push(String::from_utf8_lossy(&rest[..end]).into_owned());
                return Some((None, end + 1));
            }
        };
        // Whether a time follows the last piece is not to be seen before it is there.
        if self.time.is_some() && start == 0 && newline.is_none() && rest.len() <= LONGEST_TIME {
            return None;
        }
        match newline {
            Some(newline) if newline - start <= PIECE => {
                self.time = None;
                Some((Some(Record { time, bytes: rest[start..=newline].to_vec() }), newline + 1))
            }
            _ if rest.len() - start > PIECE => {
                self.time = Some(time);
                Some((Some(Record { time, bytes: rest[start..start + PIECE].to_vec() }), start + PIECE))
            }
            _ => None,
        }
    }
}

/// The time at the front of a text with the space behind it, and how long both are.
fn time_at(text: &[u8]) -> Option<(i128, usize)> {
    let end = text.iter().take(LONGEST_TIME + 1).position(|byte| *byte == b' ')?;
    // The shortest is `2026-11-28T02:43:37Z`.
    let word = text.get(..end).filter(|word| word.len() >= 20 && word[0].is_ascii_digit())?;
    let time: Timestamp = std::str::from_utf8(word).ok()?.parse().ok()?;
    Some((time.as_nanosecond(), end + 1))
}

/// Lets those records of a log through that come after a mark.
#[derive(Debug)]
pub struct Resume {
    last: Option<Mark>,
    seen: u32,
    held: Vec<Record>,
    /// The log begins behind the mark.
    gap: bool,
}

impl Resume {
    /// After this mark; none: all of them.
    pub fn after(last: Option<Mark>) -> Resume {
        Resume { last, seen: 0, held: Vec::new(), gap: false }
    }

    /// Takes the next record of a log that is read again; gives those that are new.
    pub fn admit(&mut self, record: Record) -> Vec<Record> {
        let Some(last) = self.last else { return vec![record] };
        if last.is(&record) {
            self.seen += 1;
            if self.seen == last.count {
                self.last = None;
                self.held.clear();
                return Vec::new();
            }
        }
        let later = record.time > last.time + SURELY_LATER;
        self.held.push(record);
        if later { self.give_up() } else { Vec::new() }
    }

    /// Whether records are held back that may be new.
    pub fn holds(&self) -> bool {
        self.last.is_some_and(|last| self.held.iter().any(|record| record.time > last.time))
    }

    /// The mark does not come: the log was rotated beyond it. What is later than it is new.
    pub fn give_up(&mut self) -> Vec<Record> {
        let Some(last) = self.last.take() else { return Vec::new() };
        let held = std::mem::take(&mut self.held);
        let all = held.len();
        let new: Vec<Record> = held.into_iter().filter(|record| record.time > last.time).collect();
        // With one of its time or before, it is not sure that there was ever anything between.
        self.gap = !new.is_empty() && new.len() == all;
        new
    }

    /// Whether the log begins behind the mark, told once: it was rotated, and what stood between can be read nowhere. Before the
    /// records that were let through last some are missing, unless they were read before the rotation.
    pub fn take_gap(&mut self) -> bool {
        std::mem::take(&mut self.gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(text: &[u8], portion: usize) -> (Vec<Record>, Vec<String>) {
        let mut decoder = Decoder::default();
        let records = text.chunks(portion).flat_map(|chunk| decoder.push(chunk)).collect();
        assert!(decoder.buffer.is_empty(), "{:?}", String::from_utf8_lossy(&decoder.buffer));
        (records, decoder.foreign)
    }

    fn text(records: &[Record]) -> String {
        records.iter().map(|r| String::from_utf8_lossy(&r.bytes).into_owned()).collect()
    }

    fn time(n: u32) -> String {
        format!("2026-11-28T02:43:{:02}.{:09}Z", n / 1000, n % 1000)
    }

    #[test]
    fn lines_with_their_times() {
        let log = format!("{} one\n{} \nunable to retrieve container logs\n2026-11-28T03:43:38+01:00 2026 x\n", time(1), time(2));
        for portion in [1, 3, 1000] {
            let (records, foreign) = decode(log.as_bytes(), portion);
            assert_eq!(text(&records), "one\n\n2026 x\n");
            assert_eq!(records[1].time - records[0].time, 1);
            assert_eq!(foreign, ["unable to retrieve container logs"]);
        }
    }

    #[test]
    fn the_last_line_may_have_no_newline() {
        let mut decoder = Decoder::default();
        let log = format!("{} one\n{} two", time(1), time(2));
        assert_eq!(text(&decoder.push(log.as_bytes())), "one\n");
        assert_eq!(decoder.finish().unwrap().bytes, b"two");
        assert_eq!(decoder.finish(), None);
        decoder.push(b"unable to retrieve container logs");
        assert_eq!((decoder.finish(), decoder.foreign.len()), (None, 1));
    }

    #[test]
    fn long_lines_are_the_same_with_and_without_times_inside() {
        let content: String = (0..40_000).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
        let pieces = [&content[..PIECE], &content[PIECE..2 * PIECE], &content[2 * PIECE..]];
        let old: String = pieces.iter().enumerate().map(|(n, piece)| format!("{} {piece}", time(n as u32))).collect();
        for log in [format!("{old}\n{} end\n", time(9)), format!("{} {content}\n{} end\n", time(0), time(9))] {
            for portion in [61, 4096, 100_000] {
                let (records, foreign) = decode(log.as_bytes(), portion);
                assert_eq!(records.len(), 4);
                assert!(text(&records) == format!("{content}\nend\n"));
                assert!(foreign.is_empty());
            }
        }
        let exact = format!("{} {}\n", time(0), &content[..PIECE]);
        assert_eq!(decode(exact.as_bytes(), 5).0.len(), 1);
        let twice = format!("{} {}{} {}\n", time(0), &content[..PIECE], time(1), &content[..PIECE]);
        assert_eq!(decode(twice.as_bytes(), 5).0.len(), 2);
    }

    #[test]
    fn a_rotated_log_goes_on_with_what_is_later() {
        let record = |n: u32| Record { time: i128::from(n), bytes: b"x\n".to_vec() };
        let mark = Mark::after(None, &record(5));
        let mut resume = Resume::after(Some(mark));
        assert_eq!(resume.admit(record(6)), []);
        assert_eq!(resume.admit(record(3)), []);
        assert!(resume.holds());
        assert_eq!(resume.give_up(), [record(6)]);
        assert!(!resume.take_gap());
        assert_eq!(resume.admit(record(4)), [record(4)]);
        let mut resume = Resume::after(Some(mark));
        assert_eq!(resume.admit(record(2_000_000_000)), [record(2_000_000_000)]);
    }

    #[test]
    fn a_log_that_begins_behind_the_mark_has_a_gap() {
        let record = |n: u32| Record { time: i128::from(n), bytes: b"x\n".to_vec() };
        let mark = Mark::after(None, &record(5));
        let gap = |numbers: &[u32]| {
            let mut resume = Resume::after(Some(mark));
            let mut new: Vec<Record> = numbers.iter().flat_map(|n| resume.admit(record(*n))).collect();
            new.extend(resume.give_up());
            (new.len(), resume.take_gap(), resume.take_gap())
        };
        assert_eq!(gap(&[7, 6]), (2, true, false));
        assert_eq!(gap(&[2_000_000_000, 2_000_000_001]), (2, true, false));
        // The mark is there; another is of its time, or earlier; there is nothing.
        assert_eq!(gap(&[5, 6]), (1, false, false));
        assert_eq!(gap(&[4, 6]), (1, false, false));
        assert_eq!(gap(&[]), (0, false, false));
        // Earlier ones alone are waited with, however long it takes.
        let mut resume = Resume::after(Some(mark));
        assert_eq!((resume.admit(record(4)), resume.holds()), (vec![], false));
        assert_eq!((resume.admit(record(6)), resume.holds()), (vec![], true));
    }

    proptest! {
        /// Wherever a log is cut, and however far back it is read again, each record comes once.
        #[test]
        fn each_record_once(lines in prop::collection::vec((1u32..4, any::<bool>()), 1..60), cuts in prop::collection::vec((0usize..60, 0usize..60), 0..6)) {
            // The same line several times at one moment, and moments in the wrong order.
            let log: Vec<Record> = lines.iter().enumerate().flat_map(|(n, (times, late))| {
                let time = i128::from(n as u32) * 2 - if *late { 3 } else { 0 };
                vec![Record { time, bytes: b"x\n".to_vec() }; *times as usize]
            }).collect();
            let (mut got, mut mark, mut at) = (Vec::new(), None::<Mark>, 0usize);
            for (ahead, back) in cuts.into_iter().chain([(usize::MAX, 60)]) {
                // Never from amidst equal records: the server leaves out whole seconds.
                let from = log.iter().position(|r| mark.is_none_or(|m| m.is(r))).unwrap_or(0).saturating_sub(back);
                let end = at.saturating_add(ahead).min(log.len());
                let mut resume = Resume::after(mark);
                for record in &log[from..end.max(from)] {
                    for new in resume.admit(record.clone()) {
                        mark = Some(Mark::after(mark, &new));
                        got.push(new);
                    }
                }
                at = at.max(end);
            }
            prop_assert_eq!(got, log);
        }
    }
}
