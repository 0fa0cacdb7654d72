//! Whether a file is a whole SIF. Pure but for reading its head.

use std::io::Read;
use std::path::Path;

/// Bytes of the header: launch script, magic, versions, ids, times, sizes.
const HEADER: usize = 128;
/// Where the magic word stands, behind the launch script.
const MAGIC: (usize, &[u8]) = (32, b"SIF_MAGIC\0");

/// Checks a file.
///
/// # Errors
/// In words, what it is instead.
pub fn check(path: &Path) -> Result<u64, String> {
    let look = || -> std::io::Result<(Vec<u8>, u64)> {
        let file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        let mut head = Vec::with_capacity(HEADER);
        file.take(HEADER as u64).read_to_end(&mut head)?;
        Ok((head, length))
    };
    let (head, length) = look().map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    check_head(&head, length).map(|()| length).map_err(|reason| format!("{} {reason}", path.display()))
}

/// Checks the first bytes of a file of this length.
fn check_head(head: &[u8], length: u64) -> Result<(), String> {
    let (at, magic) = MAGIC;
    if head.len() < HEADER || &head[at..at + magic.len()] != magic {
        return Err("is no SIF image".into());
    }
    // Little-endian: offsets and lengths of the descriptors and of the data.
    let number = |at: usize| head[at..at + 8].try_into().map(i64::from_le_bytes).unwrap_or(-1);
    let ends = [number(96).checked_add(number(104)), number(112).checked_add(number(120))];
    for end in ends {
        match end.map(u64::try_from) {
            Some(Ok(end)) if end <= length => {}
            _ => return Err(format!("is a SIF image that was cut off: it has {length} bytes, and its header tells of more")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(data: i64) -> Vec<u8> {
        let mut head = vec![0u8; HEADER];
        head[32..42].copy_from_slice(b"SIF_MAGIC\0");
        for (at, value) in [(96, 4096i64), (104, 100), (112, 32768), (120, data)] {
            head[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        head
    }

    #[test]
    fn a_whole_one_and_others() {
        assert_eq!(check_head(&head(1000), 33_768), Ok(()));
        assert!(check_head(&head(1000), 33_767).unwrap_err().contains("cut off"));
        assert!(check_head(&head(i64::MAX), 33_768).unwrap_err().contains("cut off"));
        assert!(check_head(&head(1)[..100], 100).unwrap_err().contains("no SIF"));
        assert!(check_head(b"#!/bin/sh\n", 10).unwrap_err().contains("no SIF"));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(mut head in prop::collection::vec(any::<u8>(), 0..200), length in any::<u64>(), magic in any::<bool>()) {
            if magic && head.len() >= 42 {
                head[32..42].copy_from_slice(b"SIF_MAGIC\0");
            }
            let _ = check_head(&head, length);
        }
    }
}
