//! Who holds a lock.

use serde::Deserialize;
use serde::Serialize;
use std::path::Path;

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// The machine that it runs on: state folders may be shared by several.
    pub host: String,
    /// The boot of that machine.
    pub boot: String,
    /// Its version.
    pub version: String,
}

impl Holder {
    /// This process.
    pub fn here() -> Holder {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Holder {
            pid: std::process::id(),
            host: host(),
            boot: boot.trim().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whether it is on this machine, as this machine was booted last.
    pub fn is_here(&self) -> bool {
        let here = Holder::here();
        self.host == here.host && self.boot == here.boot
    }

    /// Whether it is on another machine than `here`, whose locks may not be seen there: containers of one machine share its locks, and
    /// a machine that was booted anew remembers nobody.
    pub(super) fn is_foreign(&self, here: &Holder) -> bool {
        let same_name = self.host == here.host && !here.host.starts_with("localhost");
        self.boot != here.boot && !same_name
    }

    /// Whether its process lives, as far as can be seen from here: one on another machine does.
    pub fn is_alive(&self) -> bool {
        let here = Holder::here();
        if self.host != here.host {
            return true;
        }
        if self.boot != here.boot {
            return false;
        }
        match std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            // The state stands behind the name, which may hold anything.
            Ok(stat) => !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
            Err(_) if Path::new("/proc/self/stat").exists() => false,
            // SAFETY: signal 0 only asks whether the process is there.
            Err(_) => i32::try_from(self.pid).is_ok_and(|pid| unsafe { libc::kill(pid, 0) } == 0),
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}, version {}", self.pid, self.host, self.version)
    }
}

/// The machine's name.
pub fn host() -> String {
    let mut name = [0u8; 256];
    // SAFETY: a buffer and its length.
    let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) } != 0;
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    if failed { "this machine".into() } else { String::from_utf8_lossy(&name[..end]).into_owned() }
}
