//! Content-defined chunks: FastCDC (Xia et al., USENIX ATC 2016, in its 2020 form), which cuts where a rolling hash of the last
//! bytes says so. An insertion moves the cuts with it, and only the chunks around it change.

use super::Digest;
use fastcdc::v2020;

/// Smallest chunk but for the last one of a file, bytes.
pub const SMALLEST: usize = 32 * 1024;
/// About what chunks are on average, bytes. An edit costs about this much where a scratch object is used, and a gigabyte has
/// some 6,500 of them.
pub const AVERAGE: usize = 128 * 1024;
/// Largest chunk, bytes.
pub const LARGEST: usize = 512 * 1024;

/// Names the algorithm and its parameters. Chunk lists of another generation are never compared with ours: they would have
/// nothing in common.
pub const GENERATION: &str = "fastcdc-v2020-32k-128k-512k-1";

/// Bytes that one chunk takes in an encoded list.
const ENCODED: usize = 36;

/// A piece of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chunk {
    /// Of its bytes.
    pub digest: Digest,
    /// How many they are.
    pub len: u32,
}

/// Finds cuts.
#[derive(Clone, Copy, Debug)]
pub struct Cutter {
    strict: u64,
    relaxed: u64,
}

impl Default for Cutter {
    fn default() -> Cutter {
        Cutter::new()
    }
}

impl Cutter {
    /// With the parameters of [`GENERATION`].
    pub fn new() -> Cutter {
        let (strict, relaxed) = v2020::select_masks(AVERAGE, v2020::Normalization::Level1);
        Cutter { strict, relaxed }
    }

    /// Length of the first chunk of `window`. None where more bytes have to be seen first: only at the end of the content
    /// (`is_end`) may the window be shorter than [`LARGEST`].
    pub fn cut(&self, window: &[u8], is_end: bool) -> Option<usize> {
        if window.is_empty() || (window.len() < LARGEST && !is_end) {
            return None;
        }
        let (strict, relaxed) = (self.strict, self.relaxed);
        let (_, cut) = v2020::cut(window, SMALLEST, AVERAGE, LARGEST, strict, relaxed, strict << 1, relaxed << 1);
        Some(cut)
    }
}

/// All chunks of bytes in memory.
pub fn chunks(bytes: &[u8]) -> Vec<Chunk> {
    let cutter = Cutter::new();
    let (mut rest, mut chunks) = (bytes, Vec::new());
    while let Some(cut) = cutter.cut(rest, true) {
        let (chunk, after) = rest.split_at(cut);
        chunks.push(Chunk { digest: Digest::of(chunk), len: cut as u32 });
        rest = after;
    }
    chunks
}

/// A chunk list as bytes: digest and length (little-endian) of each.
pub fn encode(chunks: &[Chunk]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(chunks.len() * ENCODED);
    for chunk in chunks {
        bytes.extend_from_slice(&chunk.digest.0);
        bytes.extend_from_slice(&chunk.len.to_le_bytes());
    }
    bytes
}

/// The chunk list that [`encode`] made; none where the bytes are not such a list, or not of `size` bytes of content.
pub fn decode(bytes: &[u8], size: u64) -> Option<Vec<Chunk>> {
    let (entries, rest) = bytes.as_chunks::<ENCODED>();
    let chunks: Vec<Chunk> = entries
        .iter()
        .map(|entry| {
            let (mut digest, mut len) = ([0; 32], [0; 4]);
            digest.copy_from_slice(&entry[..32]);
            len.copy_from_slice(&entry[32..]);
            Chunk { digest: Digest(digest), len: u32::from_le_bytes(len) }
        })
        .collect();
    let total: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
    (rest.is_empty() && total == size).then_some(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn noise(size: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; size];
        blake3::Hasher::new_keyed(&[seed as u8; 32]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_list_survives_encoding_and_damage_is_seen() {
        let bytes = noise(3 << 20, 1);
        let list = chunks(&bytes);
        let encoded = encode(&list);
        assert_eq!(decode(&encoded, 3 << 20).unwrap(), list);
        assert_eq!(decode(&encoded, (3 << 20) + 1), None);
        assert_eq!(decode(&encoded[..encoded.len() - 1], 3 << 20), None);
        assert_eq!(decode(&[], 0).unwrap(), []);
    }

    /// The cuts are part of the generation: chunk lists that are stored were made with them.
    #[test]
    fn cuts_are_those_of_the_generation() {
        let lens: Vec<u32> = chunks(&noise(1 << 20, 2)).iter().map(|c| c.len).collect();
        assert_eq!(lens, [312_134, 167_731, 163_291, 243_519, 121_186, 40_715]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn an_insertion_changes_few_chunks(at in 0usize..4_000_000, len in 1usize..2_000, seed in 0u64..100) {
            let old = noise(4_000_000, seed);
            let mut new = old.clone();
            new.splice(at..at, noise(len, seed + 1));
            let known: HashSet<_> = chunks(&old).into_iter().collect();
            let (list, mut end) = (chunks(&new), 0);
            prop_assert!(list.iter().filter(|c| !known.contains(c)).count() <= 4);
            for chunk in list {
                let begin = end;
                end += chunk.len as usize;
                prop_assert_eq!(chunk.digest, Digest::of(&new[begin..end]));
                prop_assert!(chunk.len as usize <= LARGEST && (chunk.len as usize > SMALLEST || end == new.len()));
            }
            prop_assert_eq!(end, new.len());
        }
    }
}
