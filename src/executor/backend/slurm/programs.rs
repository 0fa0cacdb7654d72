//! Slurm's programs: started with words, never through a shell, in an environment of their own, and not waited for longer
//! than is sensible.

use super::settings::Settings;
use crate::executor::backend::Failure;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// How long a program may take before it counts as silent. `sbatch` itself asks a busy controller again for some time.
const PATIENCE: Duration = Duration::from_secs(90);
/// Variables that a job inherits as from a login.
const INHERITED: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "SLURM_CONF", "SLURM_CLUSTERS"];
/// Where PATH is not set at all.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// What Slurm says where it does not know, in lower case: asking again can help.
const PASSING: [&str; 19] = [
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "connection reset",
    "connection timed out",
    "transport endpoint",
    "communication",
    "resource temporarily unavailable",
    "temporarily unable",
    "zero bytes were transmitted",
    "slurm backup controller in standby",
    "job submit limit",
    "configured maxjobcount",
    "slurm_persist_conn_open",
    // Maintenance, the controller's disk, a restart of munged or its clock.
    "required partition not available",
    "i/o error writing script/environment to file",
    "protocol authentication error",
    "munge encode failed",
    "munge decode failed",
];

/// The programs.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: Option<PathBuf>,
    variables: BTreeMap<String, String>,
}

impl Programs {
    /// As the settings say.
    pub fn new(settings: &Settings) -> Programs {
        let wanted =
            |name: &str| INHERITED.contains(&name) || name.starts_with("LC_") || settings.inherit.iter().any(|n| n == name);
        let own = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        let mut variables: BTreeMap<String, String> = own.filter(|(name, _)| wanted(name)).collect();
        variables.entry("PATH".into()).or_insert_with(|| PATH.into());
        Programs { folder: settings.programs.clone(), variables }
    }

    /// The file of a program, as far as the settings say it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.as_ref().map_or_else(|| name.into(), |folder| folder.join(name))
    }

    /// Runs a program to its end; gives what it printed.
    ///
    /// # Errors
    /// [`Failure::Unanswered`] where asking again can help, else [`Failure::Refused`] with the program's words.
    pub async fn run(&self, name: &str, words: impl IntoIterator<Item = OsString>) -> Result<String, Failure> {
        let mut command = tokio::process::Command::new(self.path(name));
        command.args(words).env_clear().envs(&self.variables).current_dir("/");
        command.stdin(Stdio::null()).kill_on_drop(true);
        // Slurm hands the limits of `sbatch` on to the job.
        crate::open_files::give_back(command.as_std_mut());
        let unanswered = |reason: String| Failure::Unanswered { what: name.into(), reason };
        let output = match tokio::time::timeout(PATIENCE, command.output()).await {
            Err(_) => return Err(unanswered(format!("no answer for {} s", PATIENCE.as_secs()))),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                let reason =
                    "there is no such program: is Slurm installed here, and is its folder in PATH or `programs` of the settings?";
                return Err(Failure::Refused { what: self.path(name).display().to_string(), reason: reason.into() });
            }
            Ok(Err(error)) => return Err(unanswered(error.to_string())),
            Ok(Ok(output)) => output,
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let reason: Vec<&str> = words.lines().map(|line| line.trim_start_matches(&format!("{name}: "))).collect();
        let reason = if reason.is_empty() { output.status.to_string() } else { reason.join("; ") };
        match passes(&words) || output.status.code().is_none() {
            true => Err(unanswered(reason)),
            false => Err(Failure::Refused { what: name.into(), reason }),
        }
    }
}

/// Whether what a program says may be otherwise soon.
fn passes(words: &str) -> bool {
    let words = words.to_lowercase();
    PASSING.iter().any(|passing| words.contains(passing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_and_what_does_not() {
        for words in [
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "slurm_load_jobs error: Socket timed out on send/recv operation",
            "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        ] {
            assert!(passes(words), "{words}");
        }
        for words in [
            "sbatch: error: invalid partition specified: x",
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
        ] {
            assert!(!passes(words), "{words}");
        }
    }

    #[tokio::test]
    async fn nothing_of_the_executor_reaches_them_but_what_is_meant_to() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/usr/bin/env", folder.path().join("squeue")).unwrap();
        let settings =
            Settings { programs: Some(folder.path().into()), inherit: vec!["CARGO_MANIFEST_DIR".into()], ..Settings::default() };
        let said = Programs::new(&settings).run("squeue", []).await.unwrap();
        let names: Vec<&str> = said.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert!(names.contains(&"PATH") && names.contains(&"CARGO_MANIFEST_DIR"), "{names:?}");
        let meant = |name: &str| INHERITED.contains(&name) || name.starts_with("LC_") || name == "CARGO_MANIFEST_DIR";
        assert!(names.iter().all(|name| meant(name)), "{names:?}");
        assert!(std::env::vars_os().count() > names.len(), "there was something to keep back");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there() {
        let settings = Settings { programs: Some("/nowhere".into()), ..Settings::default() };
        let error = Programs::new(&settings).run("sbatch", []).await.unwrap_err();
        assert!(!error.is_temporary());
        assert!(error.to_string().starts_with("/nowhere/sbatch: there is no such program"), "{error}");
    }
}
