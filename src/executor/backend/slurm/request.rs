//! What a job asks of Slurm: the options of `sbatch` and of the job step. Pure.

use super::settings::GpuRequest;
use super::settings::MemoryPer;
use super::settings::Settings;
use crate::executor::backend::Failure;
use crate::executor::backend::Task;
use crate::executor::spec::Job;
use std::ffi::OsString;
use std::path::Path;

/// Arguments of `sbatch`: options, the script, and the script's own arguments.
///
/// `script` is the batch script's file; `attempt` the number of the try; `executor` who asks.
///
/// # Errors
/// What this cluster cannot be asked for.
pub fn sbatch(settings: &Settings, task: &Task, executor: &str, script: &Path, attempt: u32) -> Result<Vec<OsString>, Failure> {
    let job = &task.job;
    let mut words: Vec<OsString> = vec!["--parsable".into(), "--no-requeue".into(), "--export=ALL".into()];
    let mut option = |name: &str, value: String| words.push(format!("--{name}={value}").into());
    option("job-name", job.process_id.clone());
    option("comment", comment(executor, &task.folder));
    for (name, value) in [("partition", &settings.partition), ("account", &settings.account), ("qos", &settings.qos)] {
        if let Some(value) = value {
            option(name, value.clone());
        }
    }
    option("nodes", job.nodes.to_string());
    option("ntasks", job.processes().to_string());
    option("ntasks-per-node", job.processes_per_node.to_string());
    if let Some(cpus) = cpus(job).filter(|_| settings.request_resources) {
        option("cpus-per-task", cpus.to_string());
    }
    if let Some(mem) = memory(settings, job).filter(|_| settings.request_resources) {
        // Slurm's M is MiB.
        option("mem", format!("{mem}M"));
    }
    if let Some((name, value)) = gpus(settings, job) {
        option(name, value);
    }
    option("time", time(job.walltime.as_secs()));
    option("open-mode", "append".into());
    words.push(path_option("--output=", &task.log()));
    words.push(path_option("--chdir=", &task.folder));
    words.extend(settings.sbatch_options.iter().map(OsString::from));
    words.push(script.into());
    words.push(task.folder.clone().into());
    words.push(attempt.to_string().into());
    Ok(words)
}

/// The job step: `srun` with its options, and what each process of it runs.
///
/// `work`: where the command begins on the node.
pub fn step(settings: &Settings, srun: &Path, task: &Task, rank_script: &Path, work: &Path) -> Vec<String> {
    let job = &task.job;
    let mut words = vec![srun.to_string_lossy().into_owned(), "--export=ALL".into(), "--kill-on-bad-exit=1".into()];
    // Since 22.05 the step does not inherit it.
    words.extend(cpus(job).filter(|_| settings.request_resources).map(|cpus| format!("--cpus-per-task={cpus}")));
    words.push(format!("--ntasks={}", job.processes()));
    words.extend(settings.srun_options.iter().cloned());
    words.push("/bin/sh".into());
    words.push(rank_script.to_string_lossy().into_owned());
    words.push(task.folder.to_string_lossy().into_owned());
    words.push(job.processes().to_string());
    words.push(work.to_string_lossy().into_owned());
    words
}

/// By which a job is found again: who submitted it, and for which folder.
pub fn comment(executor: &str, folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    format!("{}{name}", ours(executor, folder.parent().unwrap_or(folder)))
}

/// How the comments of all jobs of an executor begin. Two of one name have other folders.
pub fn ours(executor: &str, jobs_dir: &Path) -> String {
    let place = blake3::hash(jobs_dir.as_os_str().as_encoded_bytes()).to_hex();
    format!("pollinator/{executor}/{}/", &place[..12])
}

/// Cores of one process; none where nothing is said.
fn cpus(job: &Job) -> Option<u64> {
    (job.cpu_millis > 0).then(|| job.cpu_millis.div_ceil(1000))
}

/// MiB of one node; none where nothing is said: 0 would be all that the node has.
fn memory(settings: &Settings, job: &Job) -> Option<u64> {
    let share = match settings.memory_per {
        MemoryPer::Process => u64::from(job.processes_per_node),
        MemoryPer::Node => 1,
    };
    (job.mem_mib > 0).then(|| job.mem_mib.saturating_mul(share))
}

fn gpus(settings: &Settings, job: &Job) -> Option<(&'static str, String)> {
    if job.gpu_count == 0 {
        return None;
    }
    let model = settings.gpu_types.get(&job.gpu_name).unwrap_or(&job.gpu_name);
    let what = if model.is_empty() { job.gpu_count.to_string() } else { format!("{model}:{}", job.gpu_count) };
    match settings.gpu_request {
        GpuRequest::Gres => Some(("gres", format!("gpu:{what}"))),
        GpuRequest::GpusPerNode => Some(("gpus-per-node", what)),
        GpuRequest::None => None,
    }
}

/// `D-HH:MM:SS`. Slurm counts minutes, and rounds up.
fn time(seconds: u64) -> String {
    let (minutes, s) = (seconds / 60, seconds % 60);
    format!("{}-{:02}:{:02}:{s:02}", minutes / 1440, minutes / 60 % 24, minutes % 60)
}

/// `%` begins a pattern there.
fn path_option(option: &str, path: &Path) -> OsString {
    format!("{option}{}", path.to_string_lossy().replace('%', "%%")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::backend::process::tests::task;
    use serde_json::json;
    use std::sync::Arc;
    use std::time::Duration;

    fn words(settings: &Settings, change: impl FnOnce(&mut Job)) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let mut task = task(root.path(), "true", &[], json!({}));
        let mut job = (*task.job).clone();
        change(&mut job);
        task.job = Arc::new(job);
        let words = sbatch(settings, &task, "lumi", Path::new("/s"), 0).unwrap();
        words.into_iter().map(|w| w.into_string().unwrap()).collect()
    }

    #[track_caller]
    fn has(words: &[String], word: &str) {
        assert!(words.iter().any(|w| w == word), "{word} in {words:?}");
    }

    #[test]
    fn all_that_a_specification_asks_for() {
        let settings = Settings {
            partition: Some("standard".into()),
            account: Some("project_1".into()),
            qos: Some("high".into()),
            sbatch_options: vec!["--constraint=a b".into()],
            gpu_types: [("A100".to_owned(), "a100".to_owned())].into(),
            ..Settings::default()
        };
        let words = words(&settings, |job| {
            (job.nodes, job.processes_per_node, job.cpu_millis, job.mem_mib) = (2, 3, 1500, 1000);
            (job.gpu_count, job.gpu_name, job.walltime) = (4, "A100".into(), Duration::from_secs(90_061));
        });
        for word in [
            "--job-name=ab12",
            "--partition=standard",
            "--account=project_1",
            "--qos=high",
            "--nodes=2",
            "--ntasks=6",
            "--ntasks-per-node=3",
            "--cpus-per-task=2",
            "--mem=3000M",
            "--gres=gpu:a100:4",
            "--time=1-01:01:01",
            "--constraint=a b",
            "--no-requeue",
        ] {
            has(&words, word);
        }
    }

    #[test]
    fn the_step_has_what_each_process_needs_and_ends_with_the_first_that_fails() {
        let root = tempfile::tempdir().unwrap();
        let mut task = task(root.path(), "true", &[], json!({}));
        let mut job = (*task.job).clone();
        (job.nodes, job.processes_per_node, job.cpu_millis) = (2, 2, 2500);
        task.job = Arc::new(job);
        let settings = Settings { srun_options: vec!["--mpi=pmix".into()], ..Settings::default() };
        let words = step(&settings, Path::new("srun"), &task, Path::new("/j/rank.sh"), Path::new("/work"));
        let folder = task.folder.to_str().unwrap();
        let want = [
            "srun",
            "--export=ALL",
            "--kill-on-bad-exit=1",
            "--cpus-per-task=3",
            "--ntasks=4",
            "--mpi=pmix",
            "/bin/sh",
            "/j/rank.sh",
            folder,
            "4",
            "/work",
        ];
        assert_eq!(words, want);
        let whole = Settings { request_resources: false, ..Settings::default() };
        let words = step(&whole, Path::new("srun"), &task, Path::new("/r"), Path::new("/w"));
        assert!(!words.iter().any(|word| word.starts_with("--cpus")), "{words:?}");
    }

    #[test]
    fn two_executors_of_one_name_know_their_own_jobs() {
        let (one, other) = (comment("lumi", Path::new("/a/p-1")), comment("lumi", Path::new("/b/p-1")));
        assert_ne!(one, other);
        assert_eq!(one.strip_prefix(&ours("lumi", Path::new("/a"))), Some("p-1"));
    }

    #[test]
    fn what_is_not_said_is_not_asked_for() {
        let words = words(&Settings::default(), |job| job.gpu_name = "x".into());
        for option in ["--mem", "--cpus-per-task", "--gres", "--partition", "--account", "--qos"] {
            assert!(!words.iter().any(|w| w.starts_with(option)), "{option} in {words:?}");
        }
    }

    #[test]
    fn other_ways_to_ask() {
        let settings = Settings { gpu_request: GpuRequest::GpusPerNode, memory_per: MemoryPer::Node, ..Settings::default() };
        let asked = words(&settings, |job| (job.gpu_count, job.mem_mib, job.processes_per_node) = (2, 500, 4));
        has(&asked, "--gpus-per-node=2");
        has(&asked, "--mem=500M");
        let none = words(&Settings { gpu_request: GpuRequest::None, ..settings }, |job| job.gpu_count = 2);
        assert!(!none.iter().any(|w| w.contains("gpu")));
    }
}
