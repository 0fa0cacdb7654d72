//! How a container ended: by what it left, or by what the engine knows of one that left nothing.

use super::cli;
use super::cli::Cli;
use super::words;
use crate::executor::backend::Ending;
use crate::executor::backend::Failure;
use crate::executor::backend::Task;
use crate::executor::backend::payload;
use crate::executor::backend::statuses;
use std::time::Duration;

/// The file of a job's folder that keeps the end, once it is known: a container that is removed tells no more.
const FILE: &str = "ending";
/// How long the engine may take to tell about one container.
const LIMIT: Duration = Duration::from_secs(60);

/// The end, where the statuses that the job left decide it.
pub(super) fn left(task: &Task) -> Option<Ending> {
    let folder = payload::folder(&task.folder);
    let size = task.job.processes();
    match statuses::ending(&folder, &folder, size) {
        Some(Ending::Exited { status, rank, in_init, .. }) => {
            let killed = status != 0 && folder.join(format!("oom.{}", rank.unwrap_or(0))).exists();
            Some(Ending::Exited { status, rank, in_init, because: killed.then(|| out_of_memory(task)) })
        }
        Some(other) => Some(other),
        None if size > 1 && (0..size).all(|rank| has_ended(task, rank)) => {
            Some(Ending::Exited { status: 0, rank: None, in_init: false, because: None })
        }
        None => None,
    }
}

/// Whether one process left its status.
pub(super) fn has_ended(task: &Task, rank: u32) -> bool {
    statuses::read(&payload::folder(&task.folder).join(words::status_name(task, rank))).is_some()
}

fn out_of_memory(task: &Task) -> String {
    match task.job.mem_mib {
        0 => "OUT_OF_MEMORY: the kernel killed a process of it, since memory was short".into(),
        limit => format!("OUT_OF_MEMORY: the kernel killed a process of it at the limit of {limit} MiB (conditions.mem)"),
    }
}

/// It left no status.
pub(super) fn vanished(task: &Task, rank: u32, what: &str) -> Ending {
    let which = if task.job.processes() > 1 { format!("process {rank}: ") } else { String::new() };
    Ending::Vanished { reason: format!("{which}{what}") }
}

/// Asks the engine about a container that ended without a status.
pub(super) async fn ask(cli: &Cli, task: &Task, rank: u32, name: &str) -> Result<Ending, Failure> {
    let what = "cannot ask how the container ended";
    let format = "{{.State.ExitCode}}\t{{.State.OOMKilled}}\t{{.State.Error}}";
    let answer = cli.call(what, &cli::words(&["inspect", "--format", format, name]), LIMIT, true).await?;
    if !answer.success {
        return Err(Failure::Unanswered { what: what.into(), reason: answer.complaint() });
    }
    let mut parts = answer.stdout.trim_end().splitn(3, '\t');
    let mut next = || parts.next().unwrap_or_default().trim().to_owned();
    let (status, oom, error) = (next(), next(), next());
    // Where the first process could not even open its output, it complained to the engine.
    let said = cli.call(what, &cli::words(&["logs", "--tail", "5", name]), LIMIT, true).await?;
    let said = format!("{}{}", said.stdout, said.stderr);
    // Where the first process was killed, too, it could not say so itself.
    let oom = oom == "true" || task.folder.join("oom").exists();
    Ok(told(task, rank, status.parse().ok(), oom, &[error.trim(), said.trim()].join(" ")))
}

/// What the engine's words mean.
fn told(task: &Task, rank: u32, status: Option<i32>, oom: bool, words: &str) -> Ending {
    let several = task.job.processes() > 1;
    // It ends with the command's status, also where the disk is too full to write that down.
    if status == Some(0) && !several && payload::folder(&task.folder).join("init-done.0").exists() {
        return Ending::Exited { status: 0, rank: None, in_init: false, because: None };
    }
    let because = match words.trim() {
        "" => String::new(),
        words => format!(": {words}"),
    };
    match status {
        Some(status) if oom => {
            Ending::Exited { status, rank: several.then_some(rank), in_init: false, because: Some(out_of_memory(task)) }
        }
        Some(-1) => Ending::Stopped { reason: format!("TIMEOUT: the engine ended it after its walltime{because}") },
        Some(137) => vanished(task, rank, &format!("its container was killed from outside{because}")),
        Some(status) => vanished(task, rank, &format!("its container ended with exit status {status} by itself{because}")),
        None => vanished(task, rank, &format!("its container ended{because}")),
    }
}

/// The end as an earlier look found it.
pub(super) fn remembered(task: &Task) -> Option<Ending> {
    serde_json::from_slice(&std::fs::read(task.folder.join(FILE)).ok()?).ok()
}

/// Keeps the end for a later life of ours.
pub(super) fn remember(task: &Task, ending: &Ending) {
    let written = serde_json::to_vec(ending).map_err(|e| e.to_string()).and_then(|bytes| {
        let temporary = task.folder.join("ending.new");
        payload::private_file(&temporary, &bytes).map_err(|e| e.to_string())?;
        std::fs::rename(&temporary, task.folder.join(FILE)).map_err(|e| e.to_string())
    });
    if let Err(error) = written {
        // Only a restart at this very moment would miss it.
        tracing::warn!(process = task.job.process_id, error, "the end of a job cannot be written down");
    }
}

/// The engine's complaint about a start, of its several lines the telling one.
pub(super) fn start_complaint(stderr: &str) -> String {
    let lines: Vec<&str> =
        stderr.lines().filter(|l| !l.trim().is_empty() && !l.starts_with("Error: failed to start containers")).collect();
    explained(&cli::complaint(&lines.join("\n")))
}

/// What to do about a container that cannot be made or started.
pub(super) fn explained(complaint: &str) -> String {
    let says = |words: &[&str]| words.iter().all(|w| complaint.contains(w));
    let advice = if says(&["/bin/sh", "no such file"]) || says(&["/bin/sh", "not found"]) {
        "the image holds no /bin/sh, which runs the command: take one with a shell"
    } else if says(&["exec format error"]) {
        "the image is made for machines of another kind: take one for this machine's architecture"
    } else if says(&["could not select device driver"]) || says(&["unresolvable CDI devices"]) {
        "GPUs are not set up for containers here: install the NVIDIA container toolkit, or see the setting `gpus`"
    } else if says(&["rlimit"]) || says(&["ulimit"]) {
        "limits cannot be raised here: give lower ones, as `run-options = [\"--ulimit=nofile=4096:4096\"]`"
    } else if says(&["no space left"]) {
        "the engine's disk is full"
    } else {
        return complaint.to_owned();
    };
    format!("{advice} ({complaint})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::backend::process::tests::task;
    use serde_json::json;
    use std::sync::Arc;

    fn of(processes: u32) -> (tempfile::TempDir, Task) {
        let root = tempfile::tempdir().unwrap();
        let mut task = task(root.path(), "true", &[], json!({}));
        let mut job = (*task.job).clone();
        (job.processes_per_node, job.mem_mib) = (processes, 64);
        task.job = Arc::new(job);
        std::fs::create_dir_all(payload::folder(&task.folder)).unwrap();
        (root, task)
    }

    fn put(task: &Task, name: &str, text: &str) {
        std::fs::write(payload::folder(&task.folder).join(name), text).unwrap();
    }

    #[test]
    fn statuses_decide() {
        let (_root, one) = of(1);
        assert_eq!(left(&one), None);
        put(&one, "init-done.0", "");
        put(&one, "oom.0", "");
        put(&one, "status", "137\n");
        let Some(Ending::Exited { status: 137, because: Some(because), .. }) = left(&one) else { panic!() };
        assert!(because.starts_with("OUT_OF_MEMORY: ") && because.contains("64 MiB"), "{because}");
        put(&one, "status", "0\n");
        assert_eq!(left(&one), Some(Ending::Exited { status: 0, rank: None, in_init: false, because: None }), "it got over it");
        let (_root, two) = of(2);
        put(&two, "status.0", "0\n");
        assert_eq!(left(&two), None);
        put(&two, "status.1", "0\n");
        assert_eq!(left(&two), Some(Ending::Exited { status: 0, rank: None, in_init: false, because: None }));
        put(&two, "status.1", "4\n");
        assert!(matches!(left(&two), Some(Ending::Exited { status: 4, rank: Some(1), .. })));
    }

    #[test]
    fn what_the_engine_tells_of_one_that_left_nothing() {
        let (_root, two) = of(2);
        assert!(matches!(
            told(&two, 1, Some(137), true, ""),
            Ending::Exited { status: 137, rank: Some(1), because: Some(_), .. }
        ));
        let Ending::Vanished { reason } = told(&two, 1, Some(137), false, "") else { panic!() };
        assert_eq!(reason, "process 1: its container was killed from outside");
        assert!(matches!(told(&two, 0, Some(-1), false, ""), Ending::Stopped { .. }));
        let Ending::Vanished { reason } = told(&two, 0, Some(2), false, " cannot open ") else { panic!() };
        assert!(reason.ends_with("exit status 2 by itself: cannot open"), "{reason}");
    }

    /// The disk was too full for the status, say.
    #[test]
    fn an_end_that_could_not_be_written_down_is_the_engines() {
        let (_root, one) = of(1);
        assert!(matches!(told(&one, 0, Some(0), false, ""), Ending::Vanished { .. }), "it never began");
        put(&one, "init-done.0", "");
        assert_eq!(told(&one, 0, Some(0), false, ""), Ending::Exited { status: 0, rank: None, in_init: false, because: None });
        assert!(matches!(told(&one, 0, Some(137), false, ""), Ending::Vanished { .. }));
    }

    #[test]
    fn the_end_is_remembered() {
        let (_root, one) = of(1);
        assert_eq!(remembered(&one), None);
        let ending = Ending::Vanished { reason: "x".into() };
        remember(&one, &ending);
        assert_eq!(remembered(&one), Some(ending));
    }

    #[test]
    fn a_start_that_fails_is_explained() {
        let podman = "Error: unable to start container \"ab\": runc: runc create failed: unable to start container process: exec: \"/bin/sh\": stat /bin/sh: no such file or directory: OCI runtime attempted to invoke a command that was not found";
        let docker = "Error response from daemon: failed to create shim task: OCI runtime create failed: exec: \"/bin/sh\": stat /bin/sh: no such file or directory: unknown\nError: failed to start containers: x1";
        for stderr in [podman, docker] {
            assert!(start_complaint(stderr).starts_with("the image holds no /bin/sh"), "{}", start_complaint(stderr));
        }
        assert_eq!(explained("something else"), "something else");
    }
}
