//! How many files and connections this process may have open at once.
//!
//! Login shells allow 1,024, and an executor with a thousand running jobs holds a connection for each. So services take what
//! the system lets them have, and give their children back what they were started with: a job, and the scheduler that hands
//! limits on to jobs, are to find the usual ones.

use std::sync::OnceLock;

/// More is of no use, and programs that look at every number that could be open get slow by it.
const ENOUGH: libc::rlim_t = 16_384;

/// The limit that this process was started with.
static BEFORE: OnceLock<libc::rlimit> = OnceLock::new();

/// Raises the limit as far as the system allows, up to what is enough. Where it cannot be raised, all goes on with what there is.
pub fn raise() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes into the struct that it is given, and nothing else.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return;
    }
    let wanted = limit.rlim_max.min(ENOUGH);
    if limit.rlim_cur >= wanted {
        return;
    }
    let more = libc::rlimit { rlim_cur: wanted, ..limit };
    // SAFETY: setrlimit reads the struct that it is given.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &more) } {
        0 => _ = BEFORE.set(limit),
        _ => {
            let error = std::io::Error::last_os_error();
            tracing::debug!(%error, "the number of open files stays at {}", limit.rlim_cur);
        }
    }
}

/// Lets a command begin with the limit that this process had before [`raise`].
pub fn give_back(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let Some(before) = BEFORE.get().copied() else { return };
    // SAFETY: between fork and exec only setrlimit is called, which is async-signal-safe, with a copy of its own.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &before) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one test, since the limit is that of the whole process; it is only ever raised here.
    #[test]
    fn children_have_what_we_had() {
        let of = |command: &mut std::process::Command| {
            let output = command.output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap()
        };
        let ask = || {
            let mut command = std::process::Command::new("/bin/sh");
            command.args(["-c", "ulimit -n"]);
            command
        };
        let before = of(&mut ask());
        raise();
        let (after, mut child) = (of(&mut ask()), ask());
        give_back(&mut child);
        assert!(after >= before);
        assert_eq!(of(&mut child), before);
    }
}
