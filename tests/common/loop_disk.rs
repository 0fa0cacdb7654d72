//! A real file system in a file, mounted by way of a loop device.

#[path = "mounted.rs"]
mod mounted;

use mounted::Mounted;
use std::path::Path;
use std::process::Command;

/// The file system; it is unmounted in the end.
pub struct LoopDisk(#[expect(dead_code)] Mounted);

impl LoopDisk {
    /// Makes one with `program` (a maker of file systems and its options) in the file `image`, and mounts it at `folder`.
    pub fn new(program: &[&str], image: &Path, folder: &Path) -> LoopDisk {
        // What the makers of XFS hold to be the least; the file takes only what is written.
        std::fs::File::create(image).unwrap().set_len(512 << 20).unwrap();
        std::fs::create_dir_all(folder).unwrap();
        succeed(Command::new(program[0]).args(&program[1..]).arg(image), "bring it with `scripts/parts.sh disks`");
        let mount = ["-o", "loop"];
        succeed(
            Command::new("mount").args(mount).arg(image).arg(folder),
            "run this test as root, where loop devices may be used",
        );
        LoopDisk(Mounted(folder.to_owned()))
    }
}

fn succeed(command: &mut Command, advice: &str) {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; {advice}"));
    assert!(done.status.success(), "{command:?}: {}; {advice}", String::from_utf8_lossy(&done.stderr));
}
