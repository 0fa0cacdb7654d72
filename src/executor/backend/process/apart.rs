//! A mount namespace for a job: it sees its files at the mount point itself, as in a container.
//!
//! The job gets a root folder of its own in which everything of the machine's root is bound but the mount point, and there
//! its folders. Nothing of the machine changes: mounts are the job's own and end with it. Where the executor is not root,
//! a user namespace gives the right to do so; the job is the same user in it. All is prepared before the fork, since
//! between fork and exec nothing may be allocated.

use crate::executor::backend::Failure;
use crate::executor::backend::binds::Bind;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;

/// What a child does before it becomes the job.
#[derive(Debug)]
pub(super) struct Plan {
    /// Lines of `uid_map` and `gid_map`, where a user namespace is needed.
    maps: Option<(CString, CString)>,
    root: CString,
    binds: Vec<(CString, CString)>,
    /// What is made unwritable, with the flags that such a mount has already and must keep.
    read_only: Vec<(CString, u64)>,
    work_folder: CString,
}

/// Whether a job's folders can be shown at this mount point, as far as paths tell. `real`: paths of this machine that the
/// job's own scripts need.
pub(super) fn is_possible(mount: &str, real: &[&Path]) -> bool {
    let Some(top) = top_of(mount) else { return false };
    // A folder within one of the machine's own would have to be made there.
    let is_shallow = mount.trim_start_matches('/') == top || !Path::new("/").join(&top).exists();
    let hides = |path: &&Path| path.starts_with(Path::new("/").join(&top));
    is_shallow && !["proc", "sys", "dev", "bin", "lib", "lib64", "usr", "etc"].contains(&top.as_str()) && !real.iter().any(hides)
}

fn top_of(mount: &str) -> Option<String> {
    mount.strip_prefix('/')?.split('/').next().filter(|t| !t.is_empty()).map(str::to_owned)
}

/// Prepares a root folder at `root` (made where it is missing, in a place that nobody else writes).
pub(super) fn plan(root: &Path, mount: &str, binds: &[Bind], work_folder: &str) -> Result<Plan, Failure> {
    let failed = |path: &Path| Failure::io("cannot prepare the root folder of the job", path.to_path_buf());
    let make = |path: &Path| match std::fs::DirBuilder::new().mode(0o755).recursive(true).create(path) {
        Ok(()) => Ok(()),
        Err(e) => Err(failed(path)(e)),
    };
    make(root)?;
    let mut steps = Vec::new();
    let top = top_of(mount).unwrap_or_default();
    let entries = std::fs::read_dir("/").map_err(failed(Path::new("/")))?;
    let names: BTreeSet<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p != &Path::new("/").join(&top)).collect();
    // The one that holds the root folder comes first: later ones would be bound a second time within it.
    let (around, others): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| root.starts_with(name));
    for path in around.into_iter().chain(others) {
        let target = inner(root, &path);
        let found = path.symlink_metadata().map_err(failed(&path))?;
        if found.is_symlink() {
            let to = std::fs::read_link(&path).map_err(failed(&path))?;
            match std::os::unix::fs::symlink(to, &target) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(&target)(e)),
                _ => continue,
            }
        }
        if found.is_dir() {
            make(&target)?;
        } else {
            std::fs::File::create(&target).map_err(failed(&target))?;
        }
        steps.push((c_text(&path)?, c_text(&target)?));
    }
    let mut read_only = Vec::new();
    for bind in binds {
        let target = inner(root, Path::new(&bind.inside));
        make(&target)?;
        steps.push((c_text(&bind.host)?, c_text(&target)?));
        if bind.read_only {
            read_only.push((c_text(&target)?, kept_flags(&bind.host)?));
        }
    }
    make(&inner(root, Path::new(work_folder)))?;
    // SAFETY: both only give numbers of this process.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let map = |id: u32| c_text(Path::new(&format!("{id} {id} 1")));
    let maps = if user == 0 { None } else { Some((map(user)?, map(group)?)) };
    Ok(Plan { maps, root: c_text(root)?, binds: steps, read_only, work_folder: c_text(Path::new(work_folder))? })
}

fn inner(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn c_text(path: &Path) -> Result<CString, Failure> {
    let bytes = path.as_os_str().as_bytes();
    CString::new(bytes).map_err(|e| Failure::io("cannot name a folder of the job", path)(e.into()))
}

/// Flags of the mount that a folder is on: in a user namespace they cannot be taken away.
fn kept_flags(path: &Path) -> Result<u64, Failure> {
    let name = c_text(path)?;
    // SAFETY: zeros are a valid statvfs, and the call gets a path that ends with NUL and a place for its answer.
    let (status, found) = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(name.as_ptr(), &mut found), found)
    };
    if status != 0 {
        return Err(Failure::io("cannot look at a folder of the job", path)(std::io::Error::last_os_error()));
    }
    let pairs = [
        (libc::ST_NOSUID, libc::MS_NOSUID),
        (libc::ST_NODEV, libc::MS_NODEV),
        (libc::ST_NOEXEC, libc::MS_NOEXEC),
        (libc::ST_NOATIME, libc::MS_NOATIME),
        (libc::ST_NODIRATIME, libc::MS_NODIRATIME),
        (libc::ST_RELATIME, libc::MS_RELATIME),
    ];
    Ok(pairs.iter().filter(|(has, _)| found.f_flag & has != 0).fold(0, |all, (_, flag)| all | flag))
}

impl Plan {
    /// Lets a command run in the namespace.
    pub(super) fn apply(self, command: &mut std::process::Command) {
        use std::os::unix::process::CommandExt;
        // SAFETY: between fork and exec `enter` makes system calls only, all of them async-signal-safe, with what was
        // prepared before the fork; it neither allocates nor takes a lock.
        unsafe { command.pre_exec(move || self.enter()) };
    }

    fn enter(&self) -> std::io::Result<()> {
        let none = std::ptr::null();
        // SAFETY: every call gets numbers, and texts that end with NUL and live as long as `self`.
        unsafe {
            let spaces = if self.maps.is_some() { libc::CLONE_NEWUSER } else { 0 };
            check(libc::unshare(spaces | libc::CLONE_NEWNS))?;
            if let Some((users, groups)) = &self.maps {
                put(c"/proc/self/setgroups", c"deny")?;
                put(c"/proc/self/uid_map", users)?;
                put(c"/proc/self/gid_map", groups)?;
            }
            // What is mounted here stays here.
            check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_SLAVE, none.cast()))?;
            let root = self.root.as_ptr();
            check(libc::mount(root, root, none, libc::MS_BIND, none.cast()))?;
            for (from, to) in &self.binds {
                check(libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_BIND | libc::MS_REC, none.cast()))?;
            }
            for (target, kept) in &self.read_only {
                let flags = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY | kept;
                check(libc::mount(none, target.as_ptr(), none, flags, none.cast()))?;
            }
            check(libc::chdir(root))?;
            check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) as i32)?;
            check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
            check(libc::chdir(self.work_folder.as_ptr()))
        }
    }
}

fn check(status: i32) -> std::io::Result<()> {
    if status == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes a text to a file that is there. Async-signal-safe.
fn put(file: &std::ffi::CStr, text: &std::ffi::CStr) -> std::io::Result<()> {
    // SAFETY: the texts end with NUL, the length is the text's, and the descriptor is closed by who opened it.
    unsafe {
        let fd = libc::open(file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(fd)?;
        let length = text.to_bytes().len();
        let written = libc::write(fd, text.as_ptr().cast(), length);
        let error = std::io::Error::last_os_error();
        libc::close(fd);
        if written == length as isize { Ok(()) } else { Err(error) }
    }
}

/// Whether this machine lets us: tried with a folder below `state_dir`.
///
/// # Errors
/// Why not.
pub(super) fn probe(state_dir: &Path) -> Result<(), String> {
    let folder = tempfile::tempdir_in(state_dir).map_err(|e| e.to_string())?;
    let files = folder.path().join("files");
    std::fs::create_dir(&files).and_then(|()| std::fs::write(files.join("there"), "")).map_err(|e| e.to_string())?;
    let mount = "/pollinator-probe";
    let bind = |inside: &str, read_only| Bind { host: files.clone(), inside: inside.into(), read_only };
    let binds = [bind(mount, false), bind("/pollinator-probe-fixed", true)];
    let plan = plan(&folder.path().join("root"), mount, &binds, mount).map_err(|e| e.to_string())?;
    let mut command = std::process::Command::new("/bin/sh");
    let test = "test -e there && test -r /proc/self/stat && : > /dev/null && ! ( : > /pollinator-probe-fixed/new )";
    command.args(["-c", test]).env_clear().stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    plan.apply(&mut command);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("a trial ended with {status}")),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_mount_point_can_be_shown() {
        assert!(is_possible("/cfs", &[Path::new("/var/x")]));
        assert!(is_possible("/no-such-folder/deep", &[Path::new("/var/x")]));
        assert!(!is_possible("/var/lib/cfs", &[]), "it would have to be made in /var");
        assert!(!is_possible("/cfs", &[Path::new("/cfs/jobs")]), "the job's own folder would be hidden");
        assert!(!is_possible("/usr", &[]));
        assert!(!is_possible("", &[]));
    }
}
