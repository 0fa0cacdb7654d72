//! A folder where something is mounted.

use std::path::PathBuf;

/// Unmounted when it is dropped, also where somebody is still in it.
pub struct Mounted(pub PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // It may be unmounted already.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
