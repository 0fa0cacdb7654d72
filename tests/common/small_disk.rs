//! A file system of a few MiB, in memory.

#[path = "mounted.rs"]
mod mounted;

use mounted::Mounted;
use std::path::Path;

/// The file system; it goes away in the end.
pub struct SmallDisk(Mounted);

impl SmallDisk {
    /// Ten MiB at a folder.
    pub fn new(folder: &Path) -> SmallDisk {
        assert!(
            mount(folder, "size=10m,mode=700"),
            "a tmpfs must be mounted for this test: run it as root, or below `unshare -rm`"
        );
        SmallDisk(Mounted(folder.to_owned()))
    }

    /// Makes room.
    pub fn enlarge(&self) {
        assert!(mount(&self.0.0, "remount,size=64m"));
    }
}

fn mount(folder: &Path, options: &str) -> bool {
    let mount = ["-t", "tmpfs", "-o", options, "tmpfs"];
    std::process::Command::new("mount").args(mount).arg(folder).output().is_ok_and(|o| o.status.success())
}
