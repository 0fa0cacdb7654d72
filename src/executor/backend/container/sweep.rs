//! Containers whose job is gone: an executor that was killed for good, or whose folders were removed by hand, left them.

use super::census::Census;
use super::cli::Cli;
use super::words;
use super::words::Names;
use crate::executor::backend::Failure;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between two sweeps, and after one that failed.
const PACE: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_secs(15);
/// How long removing may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Sweeps now and then until the shutdown.
pub(super) async fn run(cli: Cli, names: Names, jobs_dir: PathBuf, shutdown: CancellationToken) {
    loop {
        let pause = tokio::select! {
            swept = sweep(&cli, &names, &jobs_dir) => match swept {
                Ok(()) => PACE,
                Err(error) => {
                    tracing::debug!(%error, "containers of earlier jobs cannot be looked for");
                    PAUSE
                }
            },
            () = shutdown.cancelled() => return,
        };
        tokio::select! { () = tokio::time::sleep(pause) => {}, () = shutdown.cancelled() => return }
    }
}

async fn sweep(cli: &Cli, names: &Names, jobs_dir: &Path) -> Result<(), Failure> {
    let states = Census::new(cli.clone(), names.clone()).since(Instant::now()).await?;
    let orphans: Vec<String> = states.keys().filter(|name| is_orphan(names, jobs_dir, name)).cloned().collect();
    if orphans.is_empty() {
        return Ok(());
    }
    tracing::warn!(containers = ?orphans, "containers of jobs that are gone are removed");
    let answer = cli.call("cannot remove containers", &words::remove_by_force(cli.flavour, &orphans), LIMIT, false).await?;
    match answer.success {
        true => Ok(()),
        false => Err(Failure::Unanswered { what: "cannot remove containers".into(), reason: answer.complaint() }),
    }
}

/// Whether the folder of a container's job is surely gone: it is there before the container is.
fn is_orphan(names: &Names, jobs_dir: &Path, container: &str) -> bool {
    let Some(job) = names.job(container) else { return false };
    let there = jobs_dir.join(job).symlink_metadata();
    // A folder of jobs that is itself away (a disk that is not mounted) tells nothing.
    there.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) && jobs_dir.is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_surely_gone_is_swept() {
        let jobs = tempfile::tempdir().unwrap();
        let names = Names::new(jobs.path());
        std::fs::create_dir(jobs.path().join("p-1")).unwrap();
        let container = |job: &str| format!("pollinator-{}-{job}-0", names.mark);
        assert!(!is_orphan(&names, jobs.path(), &container("p-1")));
        assert!(is_orphan(&names, jobs.path(), &container("p-2")));
        assert!(!is_orphan(&names, jobs.path(), "somebody-elses"));
        assert!(!is_orphan(&names, &jobs.path().join("away"), &container("p-2")));
    }
}
