//! Work that goes on when its hook has ended.

use super::Error;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

/// A log that is longer than this begins anew.
const LONGEST_LOG: u64 = 1 << 20;

/// Where the work of a project's hooks is logged: one file a project, by its name and folder.
pub fn log_of(state_folder: &Path, project_name: &str, project_folder: &Path) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = project_name.chars().take(24).map(plain).collect();
    let folder = blake3::hash(project_folder.as_os_str().as_encoded_bytes()).to_hex();
    state_folder.join("logs").join(format!("hook-{name}-{}.log", &folder[..8]))
}

/// Starts a command in a session of its own, so that nobody waits for it and no Ctrl-C reaches it, with its output in a log,
/// below a title.
pub fn start(mut command: Command, log: &Path, title: &str) -> Result<(), Error> {
    let failed = |source| Error::File { what: "cannot write", path: log.to_owned(), source };
    let mut output = open(log).map_err(failed)?;
    writeln!(output, "--- {title}").map_err(failed)?;
    let both = output.try_clone().map_err(failed)?;
    command.stdin(Stdio::null()).stdout(output).stderr(both);
    // SAFETY: between fork and exec only setsid is called, which is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| if libc::setsid() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) });
    }
    let program = PathBuf::from(command.get_program());
    command.spawn().map_err(|source| Error::File { what: "cannot start", path: program, source })?;
    Ok(())
}

fn open(log: &Path) -> std::io::Result<File> {
    if let Some(folder) = log.parent() {
        crate::sqlite::private_folder(folder)?;
    }
    if log.metadata().is_ok_and(|file| file.len() > LONGEST_LOG) {
        fs::remove_file(log)?;
    }
    File::options().create(true).append(true).mode(0o600).open(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_project_has_a_log_that_does_not_grow_for_ever() {
        let state = tempfile::tempdir().unwrap();
        let one = log_of(state.path(), "a/b ü", Path::new("/x"));
        assert!(one.starts_with(state.path().join("logs")));
        assert!(one.file_name().unwrap().to_string_lossy().starts_with("hook-a_b__-"), "{one:?}");
        assert_ne!(one, log_of(state.path(), "a/b ü", Path::new("/y")));
        fs::create_dir_all(one.parent().unwrap()).unwrap();
        fs::write(&one, vec![b'x'; LONGEST_LOG as usize + 1]).unwrap();
        drop(open(&one).unwrap());
        assert_eq!(fs::metadata(&one).unwrap().len(), 0);
        fs::write(&one, "said before\n").unwrap();
        drop(open(&one).unwrap());
        assert_eq!(fs::read_to_string(&one).unwrap(), "said before\n");
    }
}
