//! Large files come in ranges, several at once, each straight to its place in the file; what has come stays when the rest does
//! not come this time.

use super::download::Brought;
use super::download::Desk;
use super::download::Temporary;
use super::download::differs;
use super::download::gone;
use super::download::mode_of;
use super::download::not_fetched;
use super::here::digest_of;
use super::list::RemoteFile;
use super::place::Way;
use super::place::local;
use super::unfinished::Unfinished;
use super::upload::Failed;
use crate::blocking;
use crate::store;
use crate::store::ObjectInfo;
use crate::store::Ranged;
use futures_util::StreamExt;
use std::io::Seek;
use std::io::SeekFrom;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Objects above this size in bytes come in ranges.
pub(super) const LARGE: u64 = 32 * 1024 * 1024;
/// Bytes of a range.
const RANGE: u64 = 16 * 1024 * 1024;
/// Ranges of one file under way at once. Each takes a few MiB of memory.
pub(super) const AT_ONCE: usize = 4;

/// Brings a large file to a temporary one, verified and synced; none where the server gives no ranges.
pub(super) async fn fetch(
    desk: &Desk<'_>,
    file: &RemoteFile,
    way: &Way,
    progress: store::Progress<'_>,
) -> Result<Option<Brought>, Failed> {
    let object = desk.cfs.store.head(&file.object).await?.ok_or_else(gone)?;
    if object.size != file.size {
        return Err(Failed::File(format!(
            "the object in the store has {} bytes, and {} are registered; whoever has the file must bring it again",
            object.size, file.size
        )));
    }
    let (journal, root, way) = (desk.journal.cloned(), desk.root.to_owned(), way.clone());
    let (wanted, etag) = (file.clone(), object.etag.clone());
    let mut unfinished = blocking::run(move || Unfinished::open(journal.as_ref(), &root, &way, &wanted, &etag)).await?;
    loop {
        match fetch_ranges(desk, file, &object, &unfinished, progress).await {
            Ok(Ranged::Whole) => {}
            Ok(Ranged::Unsupported) => {
                blocking::run(move || unfinished.forget()).await?;
                return Ok(None);
            }
            Err(failed) if !failed.may_be_resumed => {
                blocking::run(move || unfinished.forget()).await?;
                return Err(failed.why);
            }
            Err(failed) => return Err(failed.why),
        }
        let was_resumed = unfinished.is_resumed();
        let (back, found) = blocking::run(move || digest(unfinished)).await?;
        unfinished = back;
        if found == (file.size, file.sha256.clone()) {
            break;
        }
        if !was_resumed {
            blocking::run(move || unfinished.forget()).await?;
            return Err(differs(file, found.0, &found.1));
        }
        tracing::warn!(path = %file.path, "what had come of it before is damaged; it is fetched from the start");
        unfinished = blocking::run(move || {
            unfinished.begin_anew()?;
            Ok::<_, Failed>(unfinished)
        })
        .await?;
    }
    let mode = mode_of(&object.metadata);
    Ok(Some(Brought { temporary: Temporary::Kept(unfinished), mode, etag: Some(object.etag) }))
}

/// Hashes what came, from the disk, and syncs it.
fn digest(unfinished: Unfinished) -> Result<(Unfinished, (u64, String)), Failed> {
    let mut file = unfinished.file();
    let found = file.rewind().and_then(|()| digest_of(&mut file)).and_then(|found| file.sync_all().map(|()| found));
    let found = found.map_err(|e| local(unfinished.at(), &e))?;
    Ok((unfinished, found))
}

/// Why the ranges did not come.
struct NotCome {
    why: Failed,
    /// What has come is still good for something.
    may_be_resumed: bool,
}

impl From<Failed> for NotCome {
    fn from(why: Failed) -> NotCome {
        NotCome { why, may_be_resumed: true }
    }
}

async fn fetch_ranges(
    desk: &Desk<'_>,
    file: &RemoteFile,
    object: &ObjectInfo,
    unfinished: &Unfinished,
    progress: store::Progress<'_>,
) -> Result<Ranged, NotCome> {
    let path = unfinished.at();
    let missing: Vec<Range<u64>> = ranges(file.size).filter(|range| !unfinished.has(range.start, range.end)).collect();
    let mut running = futures_util::stream::iter(missing)
        .map(|range| async move {
            // Never closed, so this never fails; without leave it would be a few connections too many.
            let _leave = desk.ranges.acquire().await;
            let writer = writer_at(path, range.start).map_err(|e| local(path, &e))?;
            match desk.cfs.store.get_range(&file.object, object, range.clone(), writer, progress).await {
                Ok(ranged) => Ok((range, ranged)),
                Err(error) => {
                    let may_be_resumed = !matches!(error, store::Error::Changed { .. });
                    Err(NotCome { why: not_fetched(error, path), may_be_resumed })
                }
            }
        })
        .buffer_unordered(AT_ONCE);
    while let Some(done) = running.next().await {
        match done? {
            (range, Ranged::Whole) => unfinished.note(range.start, range.end)?,
            (_, Ranged::Unsupported) => return Ok(Ranged::Unsupported),
        }
    }
    Ok(Ranged::Whole)
}

/// A writer of its own for a place in the file.
fn writer_at(path: &Path, first: u64) -> std::io::Result<tokio::fs::File> {
    let mut file = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    file.seek(SeekFrom::Start(first))?;
    Ok(tokio::fs::File::from_std(file))
}

/// The ranges of a file, in their order.
fn ranges(size: u64) -> impl Iterator<Item = Range<u64>> {
    (0..size.div_ceil(RANGE)).map(move |n| n * RANGE..size.min((n + 1) * RANGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_a_file_without_gap_or_overlap() {
        for size in [1, RANGE - 1, RANGE, RANGE + 1, LARGE, LARGE + 1, 10 * RANGE - 1] {
            let all: Vec<_> = ranges(size).collect();
            assert_eq!((all[0].start, all[all.len() - 1].end), (0, size));
            assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start), "{size}");
            assert!(all.iter().all(|range| !range.is_empty() && range.end - range.start <= RANGE), "{size}");
        }
        assert_eq!(ranges(0).count(), 0);
    }
}
