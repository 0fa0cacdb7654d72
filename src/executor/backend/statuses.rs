//! The statuses that a job's processes leave in its folder, and what they say about its end.
//!
//! `status.N` is that of process N, where there are several; `status` that of the whole. `init-done` (or `init-done.N`)
//! tells that the command of it began. A status counts once its newline is there.

use super::Ending;
use super::regular;
use std::io::Read;
use std::path::Path;

/// Statuses of a process that SIGTERM or SIGKILL ended.
const ENDED_BY_OTHERS: [i32; 2] = [128 + libc::SIGTERM, 128 + libc::SIGKILL];

/// The end, where the statuses decide it. `marks`: the folder of the `init-done` files.
pub fn ending(folder: &Path, marks: &Path, size: u32) -> Option<Ending> {
    let began = |rank: u32| marks.join("init-done").exists() || marks.join(format!("init-done.{rank}")).exists();
    let whole = read(&folder.join("status"));
    let ranks: Vec<Option<i32>> = match size {
        1 => Vec::new(),
        _ => (0..size).map(|r| read(&folder.join(format!("status.{r}")))).collect(),
    };
    let failed = ranks.iter().enumerate().filter_map(|(r, s)| s.filter(|s| *s != 0).map(|s| (r as u32, s)));
    // Of several, one that ended by itself: the others were ended because of it.
    let failed = failed.min_by_key(|(rank, status)| (ENDED_BY_OTHERS.contains(status), *rank));
    if let Some((rank, status)) = failed {
        return Some(Ending::Exited { status, rank: Some(rank), in_init: !began(rank), because: None });
    }
    let status = whole?;
    if status == 0 && ranks.contains(&None) {
        return Some(Ending::Vanished { reason: "one of its processes left no exit status (was the disk full?)".into() });
    }
    Some(Ending::Exited { status, rank: None, in_init: status != 0 && !began(0), because: None })
}

/// A status file; none until its newline is there.
///
/// A job can put anything in its place: what is no file, or is a link to something else, is not read, and of a large file
/// only the beginning.
pub fn read(path: &Path) -> Option<i32> {
    let file = regular::open(path).ok()??;
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.strip_suffix('\n')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(status: i32, rank: Option<u32>, in_init: bool) -> Option<Ending> {
        Some(Ending::Exited { status, rank, in_init, because: None })
    }

    #[test]
    fn one_process() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let put = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        assert_eq!(ending(dir, dir, 1), None);
        put("status", "3");
        assert_eq!(ending(dir, dir, 1), None, "it is being written");
        put("status", "3\n");
        assert_eq!(ending(dir, dir, 1), exited(3, None, true));
        put("init-done.0", "");
        assert_eq!(ending(dir, dir, 1), exited(3, None, false));
        put("status", "0\n");
        assert_eq!(ending(dir, dir, 1), exited(0, None, false));
    }

    #[test]
    fn what_a_job_puts_in_place_of_a_status_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status");
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(read(&path), None);
        std::fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert_eq!(read(&path), None, "and nobody waits for its writer");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "1".repeat(1 << 20)).unwrap();
        assert_eq!(read(&path), None);
    }

    #[test]
    fn several_processes() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let put = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        put("init-done.0", "");
        put("status.0", "0\n");
        assert_eq!(ending(dir, dir, 2), None);
        put("status.1", "5\n");
        assert_eq!(ending(dir, dir, 2), exited(5, Some(1), true), "the first that fails decides");
        put("init-done.1", "");
        assert_eq!(ending(dir, dir, 2), exited(5, Some(1), false));
        put("status.0", "143\n");
        assert_eq!(ending(dir, dir, 2), exited(5, Some(1), false), "the other was ended because of it");
        put("status.0", "0\n");
        std::fs::remove_file(dir.join("status.1")).unwrap();
        put("status", "0\n");
        assert!(matches!(ending(dir, dir, 2), Some(Ending::Vanished { .. })));
        put("status.1", "0\n");
        assert_eq!(ending(dir, dir, 2), exited(0, None, false));
    }
}
