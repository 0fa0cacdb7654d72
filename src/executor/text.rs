//! Bytes of a job's output as messages of the process log. Pure.
//!
//! A message is at most [`MESSAGE_LIMIT`] bytes of UTF-8 without NUL (the server refuses NUL). Concatenated, the messages
//! are the output itself: invalid bytes become U+FFFD as in [`String::from_utf8_lossy`], and so does NUL.

/// Largest message, bytes.
pub const MESSAGE_LIMIT: usize = 64 << 10;

/// What stands for bytes that are no text.
const REPLACEMENT: &str = "\u{FFFD}";

/// Cuts the next message off the front of `bytes`: the text, and how many bytes it stands for (0: nothing yet).
///
/// `at_end` says that nothing more will come; until then an unfinished UTF-8 sequence at the end is left for later.
pub fn cut(bytes: &[u8], at_end: bool, limit: usize) -> (String, usize) {
    let mut text = String::new();
    let mut used = 0;
    for chunk in bytes.utf8_chunks() {
        // Runs between NULs are taken as they are.
        for (number, run) in chunk.valid().split('\0').enumerate() {
            if number > 0 {
                if text.len() + REPLACEMENT.len() > limit {
                    return (text, used);
                }
                text.push_str(REPLACEMENT);
                used += 1;
            }
            let fits = run.floor_char_boundary(limit - text.len());
            text.push_str(&run[..fits]);
            used += fits;
            if fits < run.len() {
                return (text, used);
            }
        }
        let invalid = chunk.invalid();
        if invalid.is_empty() {
            continue;
        }
        let last = used + invalid.len() == bytes.len();
        let unfinished = last && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
        if (unfinished && !at_end) || text.len() + REPLACEMENT.len() > limit {
            return (text, used);
        }
        text.push_str(REPLACEMENT);
        used += invalid.len();
    }
    (text, used)
}

/// As [`cut`], for one of several processes: every line gets a prefix, and only whole lines are taken, except at the end
/// and where a line does not fit one message (its pieces then stand on lines of their own).
pub fn cut_lines(bytes: &[u8], at_end: bool, prefix: &str, limit: usize) -> (String, usize) {
    let mut text = String::new();
    let mut used = 0;
    while used < bytes.len() {
        let rest = &bytes[used..];
        let newline = rest.iter().position(|b| *b == b'\n');
        let line = &rest[..newline.unwrap_or(rest.len())];
        // One for the newline.
        let Some(room) = limit.checked_sub(text.len() + prefix.len() + 1) else { break };
        let (piece, taken) = cut(line, at_end || newline.is_some(), room);
        let whole = taken == line.len();
        let too_long = piece.len() + REPLACEMENT.len() >= room || bytes.len() >= limit;
        let may = (whole && (newline.is_some() || at_end)) || (text.is_empty() && taken > 0 && too_long);
        if !may {
            break;
        }
        text.push_str(prefix);
        text.push_str(&piece);
        text.push('\n');
        used += taken + usize::from(whole && newline.is_some());
        if !whole {
            break;
        }
    }
    (text, used)
}

/// The last lines of an output, at most `lines` of them and about `limit` bytes: what a failure is told with.
pub fn tail(bytes: &[u8], lines: usize, limit: usize) -> String {
    let from = bytes.len().saturating_sub(limit);
    let text = String::from_utf8_lossy(&bytes[from..]).replace('\0', REPLACEMENT);
    let text = text.trim_end();
    let mut kept: Vec<&str> = text.lines().rev().take(lines).collect();
    kept.reverse();
    kept.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Cuts a whole output that arrives in the given portions.
    fn messages(portions: &[Vec<u8>], limit: usize) -> Vec<String> {
        let mut out = Vec::new();
        let mut buffer = Vec::new();
        for (i, portion) in portions.iter().enumerate() {
            buffer.extend_from_slice(portion);
            let at_end = i + 1 == portions.len();
            loop {
                let (text, used) = cut(&buffer, at_end, limit);
                assert_eq!(text.is_empty(), used == 0);
                if used == 0 {
                    break;
                }
                buffer.drain(..used);
                out.push(text);
            }
        }
        assert!(buffer.is_empty(), "everything is taken at the end");
        out
    }

    #[test]
    fn characters_are_never_torn() {
        let portions = vec!["aé".as_bytes()[..2].to_vec(), "aé".as_bytes()[2..].to_vec()];
        assert_eq!(messages(&portions, 100), ["a", "é"]);
        assert_eq!(messages(&[vec![0xE2, 0x82]], 100), ["\u{FFFD}"]);
        assert_eq!(messages(&[b"a\0b\xFF".to_vec()], 100), ["a\u{FFFD}b\u{FFFD}"]);
    }

    #[test]
    fn lines_of_several_processes_are_prefixed() {
        assert_eq!(cut_lines(b"one\ntwo\nthr", false, "[1] ", 100), ("[1] one\n[1] two\n".into(), 8));
        assert_eq!(cut_lines(b"thr", true, "[1] ", 100), ("[1] thr\n".into(), 3));
        assert_eq!(cut_lines(b"thr", false, "[1] ", 100), (String::new(), 0));
        let long = vec![b'x'; 300];
        let (text, used) = cut_lines(&long, false, "[1] ", 100);
        assert_eq!((text.len(), used), (100, 95));
    }

    #[test]
    fn tails() {
        assert_eq!(tail(b"a\nb\nc\n\n", 2, 100), "b\nc");
        assert_eq!(tail(b"", 2, 100), "");
        assert_eq!(tail(b"abcdef", 5, 3), "def");
    }

    proptest! {
        #[test]
        fn messages_concatenate_to_the_lossy_text(
            portions in prop::collection::vec(prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(b'a'),
                Just(0xE2), Just(0x82), Just(0xAC), Just(0xF0), Just(0x9F)], 0..40), 1..8),
            limit in 4usize..64,
        ) {
            let all: Vec<u8> = portions.concat();
            let got = messages(&portions, limit);
            prop_assert!(got.iter().all(|m| m.len() <= limit && !m.contains('\0')));
            prop_assert_eq!(got.concat(), String::from_utf8_lossy(&all).replace('\0', "\u{FFFD}"));
        }

        #[test]
        fn prefixed_lines_lose_nothing(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'a')], 0..200),
            limit in 16usize..64) {
            let mut rest = &bytes[..];
            let mut seen = String::new();
            loop {
                let (text, used) = cut_lines(rest, true, "> ", limit);
                if used == 0 { break }
                prop_assert!(text.len() <= limit);
                for line in text.lines() { seen.push_str(line.strip_prefix("> ").unwrap()) }
                rest = &rest[used..];
            }
            prop_assert!(rest.is_empty());
            let want: String = bytes.split(|b| *b == b'\n')
                .map(|l| String::from_utf8_lossy(l).replace('\0', "\u{FFFD}").replace('\r', "")).collect();
            prop_assert_eq!(seen.replace('\r', ""), want);
        }
    }
}
