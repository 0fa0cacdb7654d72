//! Somebody without root.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// A user of this machine, in a home of its own that goes away with all that is in it.
pub struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: tempfile::TempDir,
}

impl User {
    /// One that was made for tests (scripts/parts.sh containers).
    pub fn named(name: &str) -> User {
        let id = |option: &str| {
            let out = Command::new("id").args([option, name]).output().unwrap();
            let number = String::from_utf8_lossy(&out.stdout).trim().parse();
            number.unwrap_or_else(|_| panic!("there is no user {name}: scripts/parts.sh containers"))
        };
        let (uid, gid) = (id("-u"), id("-g"));
        let home = tempfile::tempdir().unwrap();
        let runtime = home.path().join("run");
        std::fs::create_dir(&runtime).unwrap();
        std::fs::set_permissions(&runtime, PermissionsExt::from_mode(0o700)).unwrap();
        for folder in [home.path(), &runtime] {
            chown(folder, Some(uid), Some(gid)).expect("run this test as root");
        }
        User { name: name.into(), uid, gid, home }
    }

    fn runtime(&self) -> PathBuf {
        self.home.path().join("run")
    }

    /// Has it run tests of this very program; gives what they print.
    pub fn runs(&self, tests: &[&str]) -> String {
        // Where it is built may be closed to others.
        let program = self.home.path().join("tests");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let mut command = Command::new(program);
        command.args(tests).current_dir(self.home.path()).uid(self.uid).gid(self.gid);
        command.env("HOME", self.home.path()).env("USER", &self.name).env("XDG_RUNTIME_DIR", self.runtime());
        let out = command.output().unwrap();
        [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
    }
}

impl Drop for User {
    /// Podman keeps a process for the user's namespace, wherever it writes down which.
    fn drop(&mut self) {
        let home = format!("HOME={}", self.home.path().display());
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let variables = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if variables.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes()) {
                // SAFETY: a signal to a process that was started for this home.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
    }
}
