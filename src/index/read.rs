//! Reading a file once: BLAKE3, SHA-256 and the chunk list of one pass. SHA-256 is the slowest of them, so that large files get
//! a thread for the whole-file digests beside the one that reads, cuts and names chunks.

use crate::content::CHUNKED_ABOVE;
use crate::content::Chunk;
use crate::content::Content;
use crate::content::Cutter;
use crate::content::Digest;
use crate::content::chunk;
use sha2::Digest as _;
use sha2::Sha256;
use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

/// Bytes that are read at once; the rest of the last cut stands before them.
const BLOCK: usize = 1024 * 1024;
/// Blocks of one file in memory: one is read, one waits, one is hashed.
const BLOCKS: usize = 3;

/// Opens a file for reading. What became a pipe since it was looked at is refused instead of waited for.
///
/// # Errors
/// Those of the system; "is not a file" for anything but a regular file.
pub fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("is not a file any more"));
    }
    Ok((file, metadata))
}

/// Reads to the end. `size` is what the file is expected to hold; above [`CHUNKED_ABOVE`] there is a chunk list.
///
/// # Errors
/// Those of reading.
pub fn content_of(file: &mut impl Read, size: u64) -> io::Result<Content> {
    if size > CHUNKED_ABOVE { large(file) } else { small(file, size) }
}

/// The digests of the whole, fed piece by piece.
#[derive(Default)]
struct Whole {
    sha256: Sha256,
    blake3: blake3::Hasher,
    size: u64,
}

impl Whole {
    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.blake3.update(bytes);
        self.size += bytes.len() as u64;
    }

    fn content(self, chunks: Vec<Chunk>) -> Content {
        let (sha256, blake3) = (hex::encode(self.sha256.finalize()), Digest(*self.blake3.finalize().as_bytes()));
        Content { size: self.size, blake3, sha256, chunks }
    }
}

fn small(file: &mut impl Read, size: u64) -> io::Result<Content> {
    // One byte more than is expected, so that the end is seen by the first read.
    let mut buffer = vec![0; (size as usize + 1).clamp(512, 256 * 1024)];
    let mut whole = Whole::default();
    loop {
        match read_some(file, &mut buffer)? {
            0 => return Ok(whole.content(Vec::new())),
            n => whole.update(&buffer[..n]),
        }
    }
}

fn read_some(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Bytes of the file: those from `fresh` on were not in the block before.
struct Block {
    bytes: Vec<u8>,
    fresh: usize,
    end: usize,
}

fn large(file: &mut impl Read) -> io::Result<Content> {
    let (send, blocks) = mpsc::sync_channel::<Arc<Block>>(BLOCKS);
    let (give_back, free) = mpsc::channel::<Arc<Block>>();
    std::thread::scope(|scope| {
        let whole = scope.spawn(move || {
            let mut whole = Whole::default();
            for block in blocks {
                whole.update(&block.bytes[block.fresh..block.end]);
                // Nobody waits for it at the end of the file.
                let _ = give_back.send(block);
            }
            whole
        });
        let chunks = chunks_of(file, send, &free);
        match (whole.join(), chunks) {
            (Ok(whole), Ok(chunks)) => Ok(whole.content(chunks)),
            (_, Err(error)) => Err(error),
            (Err(panic), _) => std::panic::resume_unwind(panic),
        }
    })
}

/// Reads, hands every block over for the digests of the whole, and cuts. The channel closes at the end.
fn chunks_of(
    file: &mut impl Read,
    send: mpsc::SyncSender<Arc<Block>>,
    free: &mpsc::Receiver<Arc<Block>>,
) -> io::Result<Vec<Chunk>> {
    let gone = || io::Error::other("the hashing thread ended");
    let (cutter, mut chunks, mut carry, mut made) = (Cutter::new(), Vec::new(), Vec::new(), 0);
    loop {
        let mut block = if made < BLOCKS {
            made += 1;
            Block { bytes: vec![0; BLOCK + chunk::LARGEST], fresh: 0, end: 0 }
        } else {
            Arc::into_inner(free.recv().map_err(|_| gone())?).ok_or_else(gone)?
        };
        block.bytes[..carry.len()].copy_from_slice(&carry);
        block.fresh = carry.len();
        block.end = block.fresh;
        while block.end < block.fresh + BLOCK {
            match read_some(file, &mut block.bytes[block.end..block.fresh + BLOCK])? {
                0 => break,
                n => block.end += n,
            }
        }
        let is_end = block.end < block.fresh + BLOCK;
        let block = Arc::new(block);
        send.send(Arc::clone(&block)).map_err(|_| gone())?;
        let mut rest = &block.bytes[..block.end];
        while let Some(cut) = cutter.cut(rest, is_end) {
            let (bytes, after) = rest.split_at(cut);
            chunks.push(Chunk { digest: Digest::of(bytes), len: cut as u32 });
            rest = after;
        }
        carry.clear();
        carry.extend_from_slice(rest);
        if is_end {
            return Ok(chunks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in pieces of odd sizes.
    struct Odd<'a>(&'a [u8], usize);

    impl Read for Odd<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = (self.1 * 7 + 13) % 100_003;
            let n = buffer.len().min(self.0.len()).min(self.1);
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn one_pass_gives_what_several_would() {
        for size in [0, 1, 4096, 5 << 20, (5 << 20) + 1, (11 << 20) + 77] {
            let mut bytes = vec![0; size];
            blake3::Hasher::new().update(b"seed").finalize_xof().fill(&mut bytes);
            let content = content_of(&mut Odd(&bytes, 1), size as u64).unwrap();
            assert_eq!(content.size, size as u64);
            assert_eq!(content.sha256, hex::encode(Sha256::digest(&bytes)));
            assert_eq!(content.blake3, Digest::of(&bytes));
            let wanted = if size > 5 << 20 { chunk::chunks(&bytes) } else { Vec::new() };
            assert!(content.chunks == wanted, "{size}");
        }
    }

    #[test]
    fn a_failing_disk_is_an_error_at_any_size() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let n = self.0.min(buffer.len());
                self.0 -= n;
                if n == 0 { Err(io::Error::other("bad sector")) } else { Ok(n) }
            }
        }
        for size in [0, 100, 3 << 20, 9 << 20] {
            assert!(content_of(&mut Broken(size), 20 << 20).is_err());
            assert!(content_of(&mut Broken(size), 10).is_err());
        }
    }
}
