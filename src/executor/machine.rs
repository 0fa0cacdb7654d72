//! What can be seen of this machine, for executors that run jobs on it.

use std::path::Path;

/// Processors that may be used.
pub fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u64)
}

/// Memory, MiB.
pub fn memory_mib() -> Option<u64> {
    // SAFETY: sysconf reads a number and touches nothing of ours.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let bytes = u64::try_from(pages).ok()?.checked_mul(u64::try_from(size).ok()?)?;
    Some(bytes >> 20)
}

/// GPUs whose driver says so: how many, and the model of the first.
pub fn gpus() -> Option<(u32, String)> {
    gpus_below(Path::new("/proc/driver/nvidia/gpus"))
}

fn gpus_below(folder: &Path) -> Option<(u32, String)> {
    let mut models: Vec<String> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter_map(|gpu| std::fs::read_to_string(gpu.path().join("information")).ok())
        .map(|text| text.lines().find_map(|line| line.strip_prefix("Model:")).unwrap_or_default().trim().to_owned())
        .collect();
    models.sort();
    let count = u32::try_from(models.len()).ok()?;
    models.into_iter().next().map(|first| (count, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_counted_as_their_driver_lists_them() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(gpus_below(folder.path()), None);
        for gpu in ["0000:01:00.0", "0000:02:00.0"] {
            std::fs::create_dir(folder.path().join(gpu)).unwrap();
            let text = "Model: \t\t Test GPU 40GB\nIRQ:   \t\t 76\n";
            std::fs::write(folder.path().join(gpu).join("information"), text).unwrap();
        }
        assert_eq!(gpus_below(folder.path()), Some((2, "Test GPU 40GB".into())));
        assert_eq!(gpus_below(Path::new("/nonexistent")), None);
        assert!(cores() > 0 && memory_mib().unwrap() > 0);
    }
}
