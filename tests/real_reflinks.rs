//! Snapshots on file systems whose files can share blocks: real XFS and Btrfs, on loop devices.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

#[path = "common/loop_disk.rs"]
mod loop_disk;
#[path = "common/rig.rs"]
mod rig;

use loop_disk::LoopDisk;
use pollinator::colonies::ProcessState;
use pollinator::executor::files::ShareSnapshots;
use rig::*;
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

const XFS: &[&str] = &["/usr/sbin/mkfs.xfs", "-q", "-m", "reflink=1"];
/// As old clusters have it.
const XFS_WITHOUT: &[&str] = &["/usr/sbin/mkfs.xfs", "-q", "-m", "reflink=0"];
const BTRFS: &[&str] = &["/usr/sbin/mkfs.btrfs", "-q"];

/// Runs a command in the next snapshot of src, in a folder of its own; gives the folder.
async fn run(rig: &Rig, cmd: &str) -> PathBuf {
    let place = |spec: &mut serde_json::Value| {
        let id = spec["fs"]["snapshots"][0]["snapshotid"].as_str().unwrap().to_owned();
        spec["fs"]["snapshots"][0]["dir"] = json!(format!("/pollinator/p/{id}/src"));
    };
    let id = rig.submit_with(cmd, &[], place).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}\n{log}", process.errors);
    rig.fs(process.spec.fs.snapshots.as_ref().unwrap()[0].dir.trim_start_matches('/'))
}

/// Whether all blocks of a file are those of another one, too: what the file system says of its extents.
fn is_shared(path: &Path) -> bool {
    let said = std::process::Command::new("/usr/sbin/filefrag").args(["-s", "-v"]).arg(path).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said = String::from_utf8(said.stdout).unwrap();
    let extents: Vec<&str> = said.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit())).collect();
    assert!(!extents.is_empty(), "{said}");
    extents.iter().all(|extent| extent.contains("shared"))
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

/// Another snapshot of the same files takes no room, and yet what a job writes in one is not seen in the other.
async fn share_blocks_and_nothing_else(program: &[&str]) {
    let rig = Rig::new().await;
    let _disk = LoopDisk::new(program, &rig.folder.path().join("disk"), &rig.fs(""));
    let content = |n: usize| char::from(b'a' + n as u8).to_string().repeat(1 << 20);
    for n in 0..4 {
        rig.write("src", &format!("sub/f{n}"), &content(n));
    }
    rig.write("src", "empty", "");
    let running = rig.start_with(|options| options.share_snapshots = ShareSnapshots::Auto);
    let first = run(&rig, "true").await;
    let second = run(&rig, "true").await;
    assert_ne!(first, second);
    for n in 0..4 {
        let (one, other) = (first.join(format!("sub/f{n}")), second.join(format!("sub/f{n}")));
        assert_ne!(inode(&one), inode(&other), "a file of its own");
        assert!(is_shared(&one) && is_shared(&other), "f{n} takes room twice");
        assert_eq!(read(&other), content(n));
    }
    assert_eq!(read(second.join("empty")), "");
    // A job changes a file of its snapshot.
    let third = run(&rig, &format!("chmod u+w {0}/sub/f1 && echo edited > {0}/sub/f1", second.display())).await;
    assert_eq!(read(second.join("sub/f1")), "edited\n");
    for whole in [&first, &third] {
        assert_eq!(read(whole.join("sub/f1")), content(1));
    }
    running.stop().await;
}

#[tokio::test]
async fn snapshots_on_xfs_share_blocks_and_nothing_else() {
    share_blocks_and_nothing_else(XFS).await;
}

#[tokio::test]
async fn snapshots_on_btrfs_share_blocks_and_nothing_else() {
    share_blocks_and_nothing_else(BTRFS).await;
}

#[tokio::test]
async fn where_blocks_cannot_be_shared_files_are_linked_or_their_own_as_is_set() {
    let rig = Rig::new().await;
    let _disk = LoopDisk::new(XFS_WITHOUT, &rig.folder.path().join("disk"), &rig.fs(""));
    rig.write("src", "f", &"x".repeat(100_000));
    let running = rig.start_with(|options| options.share_snapshots = ShareSnapshots::Auto);
    let first = run(&rig, "true").await;
    let second = run(&rig, "true").await;
    assert_eq!(inode(&first.join("f")), inode(&second.join("f")));
    running.stop().await;
    let running = rig.start_with(|options| options.share_snapshots = ShareSnapshots::Reflink);
    let third = run(&rig, "true").await;
    assert_ne!(inode(&first.join("f")), inode(&third.join("f")), "no link was allowed");
    assert_eq!(read(third.join("f")), read(first.join("f")));
    running.stop().await;
}
