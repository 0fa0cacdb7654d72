//! Content, and nothing but content: cutting it into chunks, naming it by digests, and planning which bytes of a changed file
//! have to travel. Pure: no files, no clock, no randomness.
//!
//! [`chunk`] cuts a stream where its content says so, so that an edit changes few chunks; [`matching`] finds what two contents
//! have in common; [`parts`] makes the cheapest legal multipart upload of it.

pub mod chunk;
pub mod matching;
pub mod parts;

pub use chunk::Chunk;
pub use chunk::Cutter;

use std::fmt;

/// BLAKE3 of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..6]))
    }
}

/// Files up to this size in bytes have no chunk list: S3 composes objects from parts of 5 MiB or more, so nothing of them could
/// be copied.
pub const CHUNKED_ABOVE: u64 = 5 * 1024 * 1024;

/// What is known of the bytes of a file after one pass over them.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of all of it.
    pub blake3: Digest,
    /// SHA-256, hex: what CFS registers.
    pub sha256: String,
    /// Chunks in their order; empty up to [`CHUNKED_ABOVE`].
    pub chunks: Vec<Chunk>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes, {} chunks)", &self.sha256, self.size, self.chunks.len())
    }
}
