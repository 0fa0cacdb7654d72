//! What is asked of the engine, as words; nothing is done here.

use super::abilities::Abilities;
use super::lead;
use super::settings::Flavour;
use super::settings::Gpus;
use super::settings::Settings;
use crate::executor::backend::Task;
use crate::executor::backend::binds;
use crate::executor::backend::payload;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

/// Marks our containers; its value is [`Names::mark`].
pub(super) const LABEL: &str = "pollinator.executor";
/// After the walltime the executor has so many seconds to end the job. Then it does so itself, and later the engine.
const SLACK: u64 = 60;
const MORE_SLACK: u64 = 120;

/// How the containers of an executor are called.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Tells executors on one engine apart: it stands for the folder of the jobs.
    pub(super) mark: String,
}

impl Names {
    pub(super) fn new(jobs_dir: &Path) -> Names {
        use std::os::unix::ffi::OsStrExt;
        let hash = blake3::hash(jobs_dir.as_os_str().as_bytes()).to_hex();
        Names { mark: hash.as_str()[..12].to_owned() }
    }

    /// The container of one process of an attempt. The attempt's folder is one for each (process, attempt).
    pub(super) fn of(&self, task: &Task, rank: u32) -> String {
        format!("pollinator-{}-{}-{rank}", self.mark, job_of(task))
    }

    /// All containers of an attempt.
    pub(super) fn all(&self, task: &Task) -> Vec<String> {
        (0..task.job.processes()).map(|rank| self.of(task, rank)).collect()
    }

    /// The name of the folder of the attempt that a container belongs to.
    pub(super) fn job<'a>(&self, container: &'a str) -> Option<&'a str> {
        container.strip_prefix("pollinator-")?.strip_prefix(&self.mark)?.strip_prefix('-')?.rsplit_once('-').map(|(job, _)| job)
    }

    pub(super) fn filter(&self) -> String {
        format!("label={LABEL}={}", self.mark)
    }
}

fn job_of(task: &Task) -> String {
    task.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The output of one process.
pub(super) fn log_of(task: &Task, rank: u32) -> PathBuf {
    if task.job.processes() == 1 { task.log() } else { task.folder.join(format!("log.{rank}")) }
}

/// The name of the status file of one process, in the payload folder.
pub(super) fn status_name(task: &Task, rank: u32) -> String {
    if task.job.processes() == 1 { "status".into() } else { format!("status.{rank}") }
}

/// All that makes one container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Container<'a> {
    pub(super) settings: &'a Settings,
    pub(super) flavour: Flavour,
    pub(super) names: &'a Names,
    pub(super) executor: &'a str,
    pub(super) task: &'a Task,
    pub(super) rank: u32,
    /// Its id, so that a tag that moves meanwhile changes nothing.
    pub(super) image: &'a str,
    /// `--user`; none: the image's.
    pub(super) user: Option<&'a str>,
    /// What the engine can hold it to.
    pub(super) abilities: Abilities,
    /// Its GPUs by name; none: those of the machine, where it asks for any.
    pub(super) gpus: &'a [String],
}

/// Makes a container without starting it.
pub(super) fn create(container: &Container<'_>) -> Vec<OsString> {
    let Container { settings, flavour, names, executor, task, rank, image, user, abilities, gpus } = *container;
    let job = &task.job;
    let mut words = Words::default();
    words.add(["create", "--name", &names.of(task, rank), "--pull", "never", "--stop-signal", "TERM"]);
    for (label, value) in [
        (LABEL, names.mark.as_str()),
        ("pollinator.executor-name", executor),
        ("pollinator.process", &job.process_id),
        ("pollinator.job", &job_of(task)),
    ] {
        words.option("--label", format!("{label}={value}"));
    }
    words.add(["--security-opt", "no-new-privileges", "--entrypoint", "/bin/sh"]);
    words.option("--workdir", binds::work_folder(task));
    if let Some(user) = user {
        words.option("--user", user);
    }
    match flavour {
        Flavour::Podman => {
            // Variables of ours for the engine's own way out, credentials of a proxy among them, are not the job's.
            words.add(["--log-driver", "k8s-file", "--http-proxy=false"]);
            let limit = job.walltime.as_secs().saturating_add(MORE_SLACK).min(u64::from(u32::MAX));
            words.option("--timeout", limit.to_string());
        }
        Flavour::Docker => words.add(["--log-driver", "json-file"]),
    }
    limits(&mut words, settings, task, abilities);
    if job.gpu_count > 0 {
        give_gpus(&mut words, settings, flavour, job.gpu_count, gpus);
    }
    words.mount(&payload::folder(&task.folder), payload::INSIDE, false);
    words.mount(&log_of(task, rank), lead::LOG, false);
    for bind in binds::of(task, settings.sees) {
        words.mount(&bind.host, &bind.inside, bind.read_only);
    }
    words.add(settings.run_options.iter().map(String::as_str));
    words.add([image]);
    let local = rank % job.processes_per_node;
    let node = rank / job.processes_per_node;
    words.add([&format!("{}/{}", payload::INSIDE, lead::NAME), payload::INSIDE]);
    words.add([rank.to_string(), local.to_string(), node.to_string()]);
    words.add([status_name(task, rank), own_limit(flavour, task).to_string()]);
    words.0
}

/// Seconds after which the container ends by itself; podman keeps that time better.
fn own_limit(flavour: Flavour, task: &Task) -> u64 {
    match flavour {
        Flavour::Podman => 0,
        Flavour::Docker => task.job.walltime.as_secs().saturating_add(SLACK).min(u64::from(u32::MAX)),
    }
}

fn limits(words: &mut Words, settings: &Settings, task: &Task, can: Abilities) {
    let job = &task.job;
    if can.cpu && job.cpu_millis > 0 {
        words.option("--cpus", format!("{}.{:03}", job.cpu_millis / 1000, job.cpu_millis % 1000));
    }
    if can.memory && job.mem_mib > 0 {
        let mem = format!("{}m", job.mem_mib);
        // Equal: no swap beside it.
        words.add(["--memory", &mem, "--memory-swap", &mem]);
    }
    if can.processes && settings.pids_limit > 0 {
        words.option("--pids-limit", settings.pids_limit.to_string());
    }
    if let Some(size) = &settings.shm_size {
        words.option("--shm-size", size);
    }
    if let Some(network) = &settings.network {
        words.option("--network", network);
    }
}

fn give_gpus(words: &mut Words, settings: &Settings, flavour: Flavour, count: u32, gpus: &[String]) {
    match (settings.gpus, flavour) {
        (Gpus::Options, _) => words.add(settings.gpu_options.iter().map(String::as_str)),
        // A record of comma-separated values again, of one field.
        (Gpus::Gpus, _) | (Gpus::Auto, Flavour::Docker) => match gpus {
            [] => words.option("--gpus", count.to_string()),
            some => words.option("--gpus", format!("\"device={}\"", some.join(","))),
        },
        (Gpus::Cdi, _) | (Gpus::Auto, Flavour::Podman) => match gpus {
            [] => words.option("--device", "nvidia.com/gpu=all"),
            some => some.iter().for_each(|gpu| words.option("--device", format!("nvidia.com/gpu={gpu}"))),
        },
    }
}

/// Asks the containers to end, and insists after `seconds`.
pub(super) fn stop(containers: &[String], seconds: u64) -> Vec<OsString> {
    let mut words = Words::default();
    words.add(["stop", "--time", &seconds.to_string()]);
    words.add(containers.iter().map(String::as_str));
    words.0
}

/// Removes containers, running or not, with their anonymous volumes.
pub(super) fn remove_by_force(flavour: Flavour, containers: &[String]) -> Vec<OsString> {
    let mut words = Words::default();
    words.add(["rm", "--force", "--volumes"]);
    if flavour == Flavour::Podman {
        // Without it the container gets its ten seconds once more.
        words.add(["--time", "0"]);
    }
    words.add(containers.iter().map(String::as_str));
    words.0
}

#[derive(Debug, Default)]
struct Words(Vec<OsString>);

impl Words {
    fn add<S: AsRef<std::ffi::OsStr>>(&mut self, words: impl IntoIterator<Item = S>) {
        self.0.extend(words.into_iter().map(|w| w.as_ref().to_owned()));
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }

    /// The options of a mount are one record of comma-separated values, so that a path may hold anything.
    fn mount(&mut self, host: &Path, inside: &str, read_only: bool) {
        let mut record = OsString::from("type=bind,");
        record.push(quoted("source=", host.as_os_str()));
        record.push(",");
        record.push(quoted("target=", inside.as_ref()));
        if read_only {
            record.push(",readonly");
        }
        self.option("--mount", record);
    }
}

/// A field of comma-separated values.
fn quoted(key: &str, value: &std::ffi::OsStr) -> OsString {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = vec![b'"'];
    for byte in key.bytes().chain(value.as_bytes().iter().copied()) {
        bytes.extend(std::iter::repeat_n(byte, if byte == b'"' { 2 } else { 1 }));
    }
    bytes.push(b'"');
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::backend::process::tests::task;
    use serde_json::json;
    use std::sync::Arc;

    fn made(
        flavour: Flavour,
        settings: &Settings,
        change: impl FnOnce(&mut crate::executor::spec::Job),
        rank: u32,
    ) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let mut task =
            task(root.path(), "true", &["secret word"], json!({ "SECRET": "value", "PROJECT_DIR": "/cfs/pollinator/p" }));
        let mut job = (*task.job).clone();
        change(&mut job);
        task.job = Arc::new(job);
        let names = Names::new(Path::new("/jobs"));
        let container = Container {
            settings,
            flavour,
            names: &names,
            executor: "e",
            task: &task,
            rank,
            image: "sha256:1",
            user: Some("0:0"),
            abilities: Abilities::ALL,
            gpus: &settings.gpu_devices,
        };
        let root = root.path().canonicalize().unwrap();
        create(&container).iter().map(|w| w.to_string_lossy().replace(&*root.to_string_lossy(), "ROOT")).collect()
    }

    fn has(words: &[String], run: &[&str]) -> bool {
        words.windows(run.len()).any(|w| w == run)
    }

    #[test]
    fn a_container_of_each_engine() {
        let settings = Settings { run_options: vec!["--ulimit=x".into()], ..Settings::default() };
        let limited = |job: &mut crate::executor::spec::Job| (job.cpu_millis, job.mem_mib) = (1500, 100);
        let podman = made(Flavour::Podman, &settings, limited, 0);
        assert!(
            has(&podman, &["--cpus", "1.500", "--memory", "100m", "--memory-swap", "100m", "--pids-limit", "16384"]),
            "{podman:?}"
        );
        assert!(has(&podman, &["--timeout", "180"]), "{podman:?}");
        assert!(has(&podman, &["--mount", "type=bind,\"source=ROOT/job/payload\",\"target=/.pollinator\""]), "{podman:?}");
        assert!(has(&podman, &["--mount", "type=bind,\"source=ROOT/job/log\",\"target=/.pollinator-log\""]), "{podman:?}");
        let end = ["--ulimit=x", "sha256:1", "/.pollinator/lead", "/.pollinator", "0", "0", "0", "status", "0"];
        assert_eq!(podman[podman.len() - end.len()..], end);
        let docker = made(Flavour::Docker, &settings, limited, 0);
        assert!(!docker.iter().any(|w| w == "--timeout" || w.starts_with("--http-proxy")), "{docker:?}");
        assert_eq!(docker.last().map(String::as_str), Some("120"), "it ends by itself");
        for words in [podman, docker] {
            assert!(!words.iter().any(|w| w.contains("secret") || w.contains("value")), "values are no arguments: {words:?}");
            assert!(!words.iter().any(|w| w.contains("privileged")), "{words:?}");
        }
    }

    #[test]
    fn ranks_count_over_nodes() {
        let two = |job: &mut crate::executor::spec::Job| (job.nodes, job.processes_per_node) = (2, 3);
        let words = made(Flavour::Podman, &Settings::default(), two, 4);
        assert_eq!(words[words.len() - 5..], ["4", "1", "1", "status.4", "0"]);
        assert!(words.iter().any(|w| w.contains("ROOT/job/log.4")), "{words:?}");
    }

    #[test]
    fn gpus_by_engine_and_setting() {
        let two = |job: &mut crate::executor::spec::Job| job.gpu_count = 2;
        let words = |flavour, gpus| {
            let settings = Settings { gpus, gpu_options: vec!["--device=/dev/kfd".into()], ..Settings::default() };
            made(flavour, &settings, two, 0)
        };
        assert!(has(&words(Flavour::Docker, Gpus::Auto), &["--gpus", "2"]));
        assert!(has(&words(Flavour::Podman, Gpus::Auto), &["--device", "nvidia.com/gpu=all"]));
        assert!(has(&words(Flavour::Podman, Gpus::Gpus), &["--gpus", "2"]));
        assert!(has(&words(Flavour::Docker, Gpus::Options), &["--device=/dev/kfd"]));
        let listed = Settings { gpu_devices: vec!["0".into(), "GPU-a".into()], ..Settings::default() };
        assert!(has(&made(Flavour::Docker, &listed, two, 0), &["--gpus", "\"device=0,GPU-a\""]));
        let podman = made(Flavour::Podman, &listed, two, 0);
        assert!(has(&podman, &["--device", "nvidia.com/gpu=0", "--device", "nvidia.com/gpu=GPU-a"]), "{podman:?}");
        assert!(!made(Flavour::Docker, &Settings::default(), |_| {}, 0).iter().any(|w| w == "--gpus"));
    }

    #[test]
    fn paths_may_hold_anything() {
        let mut words = Words::default();
        words.mount(Path::new("/a,b \"q\"=ü"), "/cfs/x,readonly", true);
        assert_eq!(words.0[1].to_string_lossy(), "type=bind,\"source=/a,b \"\"q\"\"=ü\",\"target=/cfs/x,readonly\",readonly");
    }

    #[test]
    fn a_container_names_its_job() {
        let names = Names::new(Path::new("/jobs"));
        let root = tempfile::tempdir().unwrap();
        let mut task = task(root.path(), "true", &[], json!({}));
        task.folder = root.path().join("ab-12-3");
        let name = names.of(&task, 7);
        assert_eq!(names.job(&name), Some("ab-12-3"));
        assert_eq!(Names::new(Path::new("/others")).job(&name), None);
        assert_eq!(names.job("postgres"), None);
    }
}
