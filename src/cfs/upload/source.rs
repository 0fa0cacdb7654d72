//! The local file: read whole, or piece by piece with every chunk checked against what the file was found to hold.

use super::Failed;
use crate::blocking;
use crate::content::Content;
use crate::content::Digest;
use crate::index;
use crate::index::LocalFile;
use crate::index::RelPath;
use crate::index::Stat;
use bytes::Bytes;
use std::fs::File;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Where a file of the tree is.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    /// The tree's folder.
    pub(super) root: PathBuf,
    /// Below it.
    pub(super) path: RelPath,
}

impl Spot {
    /// Opens it for reading, unless it leads out of the tree by now.
    pub(super) fn open(&self) -> std::io::Result<(File, Metadata)> {
        index::open_in_tree(&self.root, &self.path)
    }
}

/// A file as it is now.
pub(super) struct Look {
    pub(super) local: LocalFile,
    pub(super) content: Content,
}

fn unreadable(error: &std::io::Error) -> Failed {
    Failed::File(match error.kind() {
        ErrorKind::NotFound => "vanished before it was sent".into(),
        _ => format!("cannot be read: {error}"),
    })
}

/// Looks at a file by reading it.
pub(super) async fn look(full: &Spot) -> Result<Look, Failed> {
    let full = full.clone();
    blocking::run(move || {
        let (mut file, metadata) = full.open().map_err(|e| unreadable(&e))?;
        let content = index::content_of(&mut file, metadata.len()).map_err(|e| unreadable(&e))?;
        let (stat, mode) = (Stat::of(&metadata), metadata.permissions().mode() & 0o7777);
        let local = LocalFile { size: content.size, sha256: content.sha256.clone(), mode, stat };
        Ok(Look { local, content })
    })
    .await
}

/// The permission bits of a file that is still what was looked at. The time of the inode tells of a new mode, too, and of
/// another file that took this one's name.
pub(super) async fn mode_if_unchanged(full: &Spot, local: &LocalFile) -> Result<Option<u32>, Failed> {
    let metadata = tokio::fs::metadata(full.path.under(&full.root)).await.map_err(|e| unreadable(&e))?;
    let unchanged = metadata.is_file() && Stat::of(&metadata) == local.stat && metadata.len() == local.size;
    Ok(unchanged.then(|| metadata.permissions().mode() & 0o7777))
}

/// All bytes of a file of `size` bytes, and its permission bits; none where it changed while it was read.
pub(super) async fn read_whole(full: &Spot, size: u64) -> Result<Option<(Bytes, u32)>, Failed> {
    let full = full.clone();
    blocking::run(move || {
        let (file, before) = full.open().map_err(|e| unreadable(&e))?;
        // A file that grows as fast as it is read has no end.
        let mut bytes = Vec::with_capacity(size as usize + 1);
        (&file).take(size + 1).read_to_end(&mut bytes).map_err(|e| unreadable(&e))?;
        let after = file.metadata().map_err(|e| unreadable(&e))?;
        let unchanged = Stat::of(&before) == Stat::of(&after) && bytes.len() as u64 == before.len() && before.len() == size;
        Ok(unchanged.then(|| (Bytes::from(bytes), before.permissions().mode() & 0o7777)))
    })
    .await
}

/// A large file of which pieces are read.
#[derive(Clone, Debug)]
pub(super) struct Source {
    spot: Spot,
    content: std::sync::Arc<Content>,
    /// Where each chunk begins.
    begins: std::sync::Arc<[u64]>,
}

impl Source {
    pub(super) fn new(spot: &Spot, content: std::sync::Arc<Content>) -> Source {
        let mut at = 0;
        let begins = content.chunks.iter().map(|chunk| {
            at += u64::from(chunk.len);
            at - u64::from(chunk.len)
        });
        let begins = begins.collect();
        Source { spot: spot.clone(), content, begins }
    }

    /// SHA-256 of all of it, hex.
    pub(super) fn sha256(&self) -> &str {
        &self.content.sha256
    }

    /// These bytes of the content; none where the file holds something else by now. Whole chunks are read, because only they
    /// can be checked.
    pub(super) async fn read(&self, begin: u64, end: u64) -> Result<Option<Bytes>, Failed> {
        let source = self.clone();
        blocking::run(move || source.read_here(begin, end)).await
    }

    fn read_here(&self, begin: u64, end: u64) -> Result<Option<Bytes>, Failed> {
        let first = self.begins.partition_point(|at| *at <= begin).saturating_sub(1);
        let last = self.begins.partition_point(|at| *at < end);
        let chunks = &self.content.chunks[first..last];
        let (from, length) = (self.begins[first], chunks.iter().map(|chunk| chunk.len as usize).sum::<usize>());
        let (file, _) = self.spot.open().map_err(|e| unreadable(&e))?;
        let mut bytes = vec![0; length];
        match file.read_exact_at(&mut bytes, from) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(unreadable(&error)),
        }
        let mut rest = bytes.as_slice();
        for chunk in chunks {
            let (piece, after) = rest.split_at(chunk.len as usize);
            if Digest::of(piece) != chunk.digest {
                return Ok(None);
            }
            rest = after;
        }
        Ok(Some(Bytes::from(bytes).slice((begin - from) as usize..(end - from) as usize)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_are_checked_by_their_chunks() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let path = root.join("f");
        let spot = Spot { root, path: RelPath::parse("f").unwrap() };
        let mut bytes = vec![0; 7 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let Look { content, local } = look(&spot).await.unwrap();
        assert_eq!(mode_if_unchanged(&spot, &local).await.unwrap(), Some(local.mode));
        let source = Source::new(&spot, content.into());
        for (begin, end) in [(0, 1), (0, 7 << 20), (5, 600_000), (1 << 20, 6 << 20), ((7 << 20) - 1, 7 << 20)] {
            let piece = source.read(begin, end).await.unwrap().unwrap();
            assert!(piece == bytes[begin as usize..end as usize], "{begin}..{end}");
        }
        bytes[3 << 20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(source.read(3 << 20, 4 << 20).await.unwrap().is_none());
        assert!(source.read(0, 1 << 20).await.unwrap().is_some());
        std::fs::write(&path, &bytes[..1 << 20]).unwrap();
        assert!(source.read(3 << 20, 4 << 20).await.unwrap().is_none());
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(source.read(0, 1).await, Err(Failed::File(why)) if why.contains("vanished")));
    }
}
