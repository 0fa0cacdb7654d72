//! The Kubernetes backend against a real cluster: API server, controllers, scheduler, kubelet, containerd. Needs
//! `scripts/parts.sh kubernetes`.

#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

#[path = "common/kube.rs"]
mod kubernetes;
#[path = "common/rig.rs"]
mod rig;

use ::kube::api::DeleteParams;
use ::kube::api::ListParams;
use k8s_openapi::api::core::v1::Pod;
use kubernetes::IMAGE;
use kubernetes::Kube;
use kubernetes::NAMESPACE;
use kubernetes::until;
use pollinator::colonies::Process;
use pollinator::colonies::ProcessState;
use pollinator::event::Tree;
use pollinator::executor::Backend;
use pollinator::executor::backend::Surroundings;
use pollinator::executor::backend::Task;
use pollinator::executor::backend::kubernetes::Settings;
use pollinator::executor::backend::kubernetes::Toleration;
use pollinator::executor::backend::kubernetes::manifests;
use pollinator::executor::spec::Job;
use rig::Rig;
use rig::Running;
use rig::read;
use serde_json::Value;
use serde_json::json;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

/// The one cluster of this process.
async fn cluster() -> &'static Kube {
    static CLUSTER: tokio::sync::OnceCell<Kube> = tokio::sync::OnceCell::const_new();
    CLUSTER.get_or_init(Kube::start).await
}

/// Held by all who use the cluster; by one alone who restarts parts of it.
static QUIET: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

/// A project, a colony and a volume in the cluster.
struct Lab {
    quiet: Option<tokio::sync::RwLockReadGuard<'static, ()>>,
    kube: &'static Kube,
    rig: Rig,
    claim: String,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.kube.tell();
        }
    }
}

impl Lab {
    async fn new() -> Lab {
        let quiet = QUIET.read().await;
        let mut lab = Lab::unguarded().await;
        lab.quiet = Some(quiet);
        lab
    }

    async fn unguarded() -> Lab {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let kube = cluster().await;
        let rig = Rig::new().await;
        rig.write("src", "main.sh", "echo from src\n");
        let claim = format!("files-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        kube.volume(&claim, &rig.folder.path().canonicalize().unwrap()).await;
        Lab { quiet: None, kube, rig, claim }
    }

    fn start(&self) -> Running {
        self.start_with(|_| {})
    }

    fn start_with(&self, change: impl FnOnce(&mut Settings)) -> Running {
        let mut settings = Settings {
            kubeconfig: Some(self.kube.kubeconfig()),
            volume_claim: self.claim.clone(),
            volume_mount: Some(self.rig.folder.path().into()),
            grace: 5,
            ..Settings::default()
        };
        change(&mut settings);
        self.rig.start_with(|options| options.backend = Backend::Kubernetes(Box::new(settings)))
    }

    async fn submit(&self, cmd: &str, args: &[&str]) -> String {
        self.submit_with(cmd, args, |_| {}).await
    }

    async fn submit_with(&self, cmd: &str, args: &[&str], change: impl FnOnce(&mut Value)) -> String {
        self.rig
            .submit_with(cmd, args, |spec| {
                spec["kwargs"]["docker-image"] = IMAGE.into();
                spec["conditions"]["cpu"] = "50m".into();
                change(spec);
            })
            .await
    }

    /// The pods of a process, once there are so many.
    async fn pods(&self, process: &str, count: usize) -> Vec<Pod> {
        let list = of_process(process);
        let pods = self.kube.pods().await;
        until("the pods", async || Some(pods.list(&list).await.unwrap().items).filter(|found| found.len() >= count)).await
    }

    /// Waits until nothing of a process is left in the cluster.
    async fn nothing_left(&self, process: &str) {
        let list = of_process(process);
        let (jobs, pods, services) = (self.kube.jobs().await, self.kube.pods().await, self.kube.services().await);
        until("everything is removed", async || {
            let left = jobs.list(&list).await.unwrap().items.len()
                + pods.list(&list).await.unwrap().items.len()
                + services.list(&list).await.unwrap().items.len();
            (left == 0).then_some(())
        })
        .await;
    }

    fn open(&self, gate: &str) {
        std::fs::write(self.rig.fs(&format!("pollinator/p/result/{gate}")), "").unwrap();
    }
}

/// What there is of a process in the cluster.
fn of_process(id: &str) -> ListParams {
    ListParams::default().labels(&format!("pollinator/process={}", &id[..63]))
}

/// Shell text that waits until the test opens a gate.
fn gate(name: &str) -> String {
    format!("until test -e $PROJECT_DIR/result/{name}; do sleep 0.05; done")
}

fn failed_with(process: &Process, want: &str, log: &str) {
    assert_eq!(process.state, ProcessState::Failed, "{log}");
    assert!(process.errors.first().is_some_and(|e| e.contains(want)), "{:?}\n{log}", process.errors);
}

#[tokio::test]
async fn a_project_runs_with_its_files_and_its_words_arrive_byte_for_byte() {
    let lab = Lab::new().await;
    lab.rig.write("data", "in.txt", "input\n");
    let running = lab.start();
    let odd =
        ["$(HOSTNAME) $HOME `id`", "\"two\" 'quotes'\\n", "line\nbreak", "ünï 漢字 🦀", "", "$$(X) $$", "-n", "a;b&c|d>e<f*?"];
    let cmd = "cat data/in.txt snapshot/src/main.sh; echo out > /cfs/pollinator/p/result/out.txt; \
        echo no > snapshot/src/main.sh || echo 'read only'; \
        echo $FROM_IMAGE $PWD $POLLINATOR_RANK/$POLLINATOR_SIZE; echo \"<$ODD>\"; ls /cfs/pollinator; ls /cfs; printf '<%s>' ";
    let id = lab
        .submit_with(cmd, &odd, |spec| {
            spec["env"]["ODD"] = "$(HOSTNAME) $$(A) `id` \"'\\\n\nend ".into();
            spec["env"]["TOKEN"] = "very-secret".into();
        })
        .await;
    let pods = lab.pods(&id, 1).await;
    let (process, log) = lab.rig.ended(&id).await;
    assert_eq!((process.state, &process.errors), (ProcessState::Success, &vec![]), "{log}");
    let words: String = odd.iter().map(|word| format!("<{word}>")).collect();
    let log: String = log.split_inclusive('\n').filter(|line| !line.contains("can't create")).collect();
    assert_eq!(
        log,
        format!(
            "input\necho from src\nread only\nyes /cfs/pollinator/p 0/1\n<$(HOSTNAME) $$(A) `id` \"'\\\n\nend >\np\npollinator\n{words}"
        )
    );
    assert_eq!(process.attribute("NODES"), Some("localhost"));
    let text = serde_json::to_string(&pods).unwrap();
    assert!(!text.contains("very-secret") && !text.contains("data/in.txt"), "nothing of the command stands in the pod");
    lab.rig.sync(Tree::Result).await;
    assert_eq!(read(lab.rig.tree("result").join("out.txt")), "out\n");
    lab.nothing_left(&id).await;
    running.stop().await;
}

#[tokio::test]
async fn two_nodes_with_two_processes_each_know_their_ranks_and_peers() {
    let lab = Lab::new().await;
    let running = lab.start();
    let cmd = format!(
        "echo $POLLINATOR_RANK of $POLLINATOR_SIZE: $POLLINATOR_LOCAL_RANK on $POLLINATOR_NODE_RANK, $(hostname) of $POLLINATOR_NODES; {}",
        gate("end")
    );
    let two = |spec: &mut Value| {
        spec["conditions"]["nodes"] = 2.into();
        spec["conditions"]["processespernode"] = 2.into();
    };
    let id = lab.submit_with(&cmd, &[], two).await;
    lab.rig.until(&id, "all of them run", |_, log| log.matches(" of 4: ").count() == 4).await;
    let pods = lab.pods(&id, 2).await;
    let name = pods[0].spec.as_ref().unwrap().subdomain.clone().unwrap();
    // The name service of a cluster answers from these.
    let endpoints: ::kube::Api<k8s_openapi::api::core::v1::Endpoints> =
        ::kube::Api::namespaced(lab.kube.admin().await, NAMESPACE);
    let hosts = until("the service knows both pods", async || {
        let subsets = endpoints.get_opt(&name).await.unwrap()?.subsets?;
        let mut hosts: Vec<String> =
            subsets.into_iter().flat_map(|s| s.addresses.unwrap_or_default()).filter_map(|a| a.hostname).collect();
        hosts.sort();
        (hosts.len() == 2).then_some(hosts)
    })
    .await;
    assert_eq!(hosts, [format!("{name}-0"), format!("{name}-1")]);
    lab.open("end");
    let (process, log) = lab.rig.ended(&id).await;
    assert_eq!((process.state, &process.errors), (ProcessState::Success, &vec![]), "{log}");
    let mut lines: Vec<&str> = log.lines().filter(|line| line.starts_with('[')).collect();
    lines.sort_unstable();
    let nodes = format!("{name}-0.{name},{name}-1.{name}");
    let want: Vec<String> =
        (0..4).map(|r| format!("[{r}] {r} of 4: {} on {}, {name}-{} of {nodes}", r % 2, r / 2, r / 2)).collect();
    assert_eq!(lines, want);
    assert_eq!(process.attribute("NODES"), Some("localhost,localhost"));
    lab.nothing_left(&id).await;
    running.stop().await;
}

#[tokio::test]
async fn the_exit_status_decides_and_results_come_back_all_the_same() {
    let lab = Lab::new().await;
    let running = lab.start();
    let id = lab.submit("echo part > result/part.txt; echo why >&2; exit 7", &[]).await;
    let init = lab.submit_with("echo never", &[], |spec| spec["kwargs"]["init-cmd"] = "echo preparing; false".into()).await;
    let first = lab
        .submit_with("test $POLLINATOR_RANK = 1 && exit 5; sleep 300", &[], |spec| spec["conditions"]["nodes"] = 2.into())
        .await;
    let (process, log) = lab.rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Failed, "{log}");
    assert_eq!(process.errors[0], "exit status 7");
    assert!(process.errors[1].ends_with("why"), "{:?}", process.errors);
    lab.rig.sync(Tree::Result).await;
    assert_eq!(read(lab.rig.tree("result").join("part.txt")), "part\n");
    let (process, log) = lab.rig.ended(&init).await;
    failed_with(&process, "init-cmd failed with exit status 1", &log);
    assert_eq!(log, "preparing\n");
    let (process, log) = lab.rig.ended(&first).await;
    failed_with(&process, "process 1 ended with exit status 5", &log);
    lab.nothing_left(&first).await;
    running.stop().await;
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_told_and_given_up() {
    let lab = Lab::new().await;
    let running = lab.start_with(|settings| settings.pull_patience = 8);
    let id = lab.submit_with("true", &[], |spec| spec["kwargs"]["docker-image"] = "127.0.0.1:1/nothing:1".into()).await;
    let bad = lab.submit_with("true", &[], |spec| spec["kwargs"]["docker-image"] = "Not An Image".into()).await;
    let (process, log) = lab.rig.ended(&id).await;
    failed_with(&process, "ErrImagePull", &log);
    assert!(
        process.errors[0].contains("127.0.0.1:1") && process.errors[0].contains("given up after 8 s"),
        "{:?}",
        process.errors
    );
    assert!(log.contains("waiting: ErrImagePull"), "{log}");
    let (process, log) = lab.rig.ended(&bad).await;
    failed_with(&process, "InvalidImageName", &log);
    lab.nothing_left(&id).await;
    running.stop().await;
}

#[tokio::test]
async fn a_job_over_its_walltime_is_ended_and_told() {
    let lab = Lab::new().await;
    let running = lab.start();
    let cmd = "trap 'echo saved > result/saved; echo asked to end; exit 0' TERM; echo begun; while :; do sleep 0.1; done";
    let id = lab.submit_with(cmd, &[], |spec| spec["conditions"]["walltime"] = 6.into()).await;
    let (process, log) = lab.rig.ended(&id).await;
    failed_with(&process, "TIMEOUT: the walltime of 6 s is over", &log);
    assert!(log.contains("begun\n") && log.contains("asked to end\n"), "{log}");
    lab.rig.sync(Tree::Result).await;
    assert_eq!(read(lab.rig.tree("result").join("saved")), "saved\n");
    lab.nothing_left(&id).await;
    running.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_is_ended_and_its_results_come_back() {
    let lab = Lab::new().await;
    let running = lab.start();
    let cmd = "trap 'echo saved > result/saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    let id = lab.submit(cmd, &[]).await;
    lab.rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    lab.rig.user.cancel(&id).await.unwrap();
    lab.nothing_left(&id).await;
    until("the results", async || {
        let files = lab.rig.cfs().list("/pollinator/p/result").await.unwrap().files;
        (!files.is_empty()).then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_pod_deleted_under_a_job_fails_it_and_nothing_is_run_twice() {
    let lab = Lab::new().await;
    let running = lab.start();
    let id = lab.submit("echo x >> result/count; echo ready; sleep 300", &[]).await;
    lab.rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    let pod = lab.pods(&id, 1).await[0].metadata.name.clone().unwrap();
    lab.kube.pods().await.delete(&pod, &DeleteParams::default()).await.unwrap();
    let (process, log) = lab.rig.ended(&id).await;
    failed_with(&process, "PodDeleted", &log);
    lab.rig.sync(Tree::Result).await;
    assert_eq!(read(lab.rig.tree("result").join("count")), "x\n");
    lab.nothing_left(&id).await;
    running.stop().await;
}

#[tokio::test]
async fn killed_during_a_job_the_executor_goes_on_with_each_line_once() {
    let lab = Lab::new().await;
    let running = lab.start();
    let cmd = format!(
        "echo x >> result/count; seq -f 'line %g' 1 10; {}; seq -f 'line %g' 11 30; {}; seq -f 'line %g' 31 60; echo > result/done",
        gate("middle"),
        gate("end")
    )
    .replace("seq -f 'line %g' ", "lines ");
    let cmd = format!("lines() {{ for i in $(seq $1 $2); do echo line $i; done; }}; {cmd}");
    let id = lab.submit(&cmd, &[]).await;
    lab.rig.until(&id, "line 10", |_, log| log.contains("line 10\n")).await;
    running.kill();
    lab.open("middle");
    let running = lab.start();
    lab.rig.until(&id, "line 30", |_, log| log.contains("line 30\n")).await;
    running.kill();
    // The job ends while nobody is there.
    lab.open("end");
    let done = lab.rig.fs("pollinator/p/result/done");
    until("the job's end", async || done.exists().then_some(())).await;
    assert_eq!(lab.rig.user.process(&id).await.unwrap().state, ProcessState::Running);
    let running = lab.start();
    let (process, log) = lab.rig.ended(&id).await;
    assert_eq!((process.state, process.retries), (ProcessState::Success, 0), "{:?}", process.errors);
    let want: String = (1..=60).map(|i| format!("line {i}\n")).collect();
    assert_eq!(log, want);
    lab.rig.sync(Tree::Result).await;
    assert_eq!(read(lab.rig.tree("result").join("count")), "x\n");
    lab.nothing_left(&id).await;
    running.stop().await;
}

#[tokio::test]
async fn the_api_server_killed_and_restarted_during_a_job_changes_nothing() {
    let _alone = QUIET.write().await;
    let lab = Lab::unguarded().await;
    let running = lab.start();
    let cmd = format!("echo x >> result/count; for i in $(seq 40); do echo line $i; sleep 0.2; done; {}; echo end", gate("end"));
    let id = lab.submit(&cmd, &[]).await;
    lab.rig.until(&id, "line 3", |_, log| log.contains("line 3\n")).await;
    lab.kube.kill_api_server();
    // The command goes on meanwhile, and ends without anybody who could say so.
    lab.open("end");
    let folder = lab.rig.folder.path().join("executor/jobs");
    let job = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    until("the command's end", async || job.join("payload/status.0").exists().then_some(())).await;
    assert_eq!(lab.rig.user.process(&id).await.unwrap().state, ProcessState::Running);
    lab.kube.up().await;
    let (process, log) = lab.rig.ended(&id).await;
    assert_eq!((process.state, process.retries), (ProcessState::Success, 0), "{:?}", process.errors);
    let want: String = (1..=40).map(|i| format!("line {i}\n")).collect();
    assert_eq!(log, want + "end\n");
    lab.rig.sync(Tree::Result).await;
    assert_eq!(read(lab.rig.tree("result").join("count")), "x\n");
    lab.nothing_left(&id).await;
    lab.kube.works_again().await;
    running.stop().await;
}

/// An executor that lost its state: nobody waits for its job, and the next one of the same state sweeps it away.
#[tokio::test]
async fn a_job_without_a_folder_is_swept_away() {
    let lab = Lab::new().await;
    let running = lab.start();
    let id = lab.submit("echo ready; sleep 300", &[]).await;
    lab.rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    running.kill();
    let state = lab.rig.folder.path().join("executor");
    std::fs::remove_dir_all(state.join("jobs")).unwrap();
    for file in
        std::fs::read_dir(&state).unwrap().flatten().filter(|f| f.file_name().to_string_lossy().starts_with("executor.db"))
    {
        std::fs::remove_file(file.path()).unwrap();
    }
    let running = lab.start();
    lab.nothing_left(&id).await;
    running.stop().await;
}

#[tokio::test]
async fn two_thousand_lines_come_once_each_and_long_ones_whole() {
    let lab = Lab::new().await;
    let running = lab.start();
    let cmd = "for i in $(seq 2000); do echo line $i; done; head -c 50000 /dev/zero | tr '\\0' 'y'; echo; printf 'no newline'";
    let id = lab.submit(cmd, &[]).await;
    let (process, log) = lab.rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    let lines: String = (1..=2000).map(|i| format!("line {i}\n")).collect();
    assert!(log == format!("{lines}{}\nno newline", "y".repeat(50_000)), "{} bytes:\n{}", log.len(), &log[..log.len().min(3000)]);
    running.stop().await;
}

/// The kubelet begins a new file at 1 MiB, looking every ten seconds, and gives out the newest only. A line takes some 46 bytes.
#[tokio::test]
async fn what_a_cluster_rotates_away_comes_all_the_same() {
    let lab = Lab::new().await;
    let running = lab.start();
    let id = lab.submit(&format!("seq 1 30000; {}; seq 30001 60000", gate("end")), &[]).await;
    let pod = lab.pods(&id, 1).await[0].metadata.name.clone().unwrap();
    lab.rig.until(&id, "the log before the rotation", |_, log| log.ends_with("\n30000\n")).await;
    running.kill();
    until("a rotation", async || {
        let files = lab.kube.log_files(&pod, "process-0");
        files.iter().any(|name| name.starts_with("0.log.")).then_some(())
    })
    .await;
    lab.open("end");
    let running = lab.start();
    let (process, log) = lab.rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    let want: String = (1..=60_000).map(|n| format!("{n}\n")).collect();
    let other = log.lines().zip(1..).find(|(line, n)| *line != n.to_string());
    assert!(log == want, "{} bytes and not {}; the first line that is another: {other:?}", log.len(), want.len());
    running.stop().await;
}

/// Whoever looks with the cluster's own tools sees what the reader of the process log sees; and what a command leaves running in the
/// background, with its output open, does not keep the job from its end.
#[tokio::test]
async fn the_cluster_has_the_log_too_and_children_in_the_background_hold_nothing_up() {
    let lab = Lab::new().await;
    let running = lab.start();
    let cmd = format!("sleep 1000 & echo one; echo two >&2; echo three >> /dev/stderr; {}; echo four", gate("end"));
    let id = lab.submit(&cmd, &[]).await;
    let pod = lab.pods(&id, 1).await[0].metadata.name.clone().unwrap();
    lab.rig.until(&id, "three lines", |_, log| log == "one\ntwo\nthree\n").await;
    let pods = lab.kube.pods().await;
    until("the cluster's log", async || {
        // The kubelet may not have told yet that the container is begun.
        let log = pods.logs(&pod, &::kube::api::LogParams::default()).await.ok()?;
        (log == "one\ntwo\nthree\n").then_some(())
    })
    .await;
    lab.open("end");
    let (process, log) = lab.rig.ended(&id).await;
    assert_eq!((process.state, log.as_str()), (ProcessState::Success, "one\ntwo\nthree\nfour\n"));
    lab.nothing_left(&id).await;
    running.stop().await;
}

/// A pod has its node, and is not begun there: its volume cannot be mounted.
#[tokio::test]
async fn what_keeps_a_pod_from_being_begun_is_told() {
    let lab = Lab::new().await;
    lab.kube.volume_of("no-such-folder", json!({ "path": "/no/such/folder", "type": "Directory" })).await;
    let running = lab.start_with(|settings| settings.volume_claim = "no-such-folder".into());
    let id = lab.submit("true", &[]).await;
    let (process, log) = lab.rig.until(&id, "waiting is told", |_, log| log.contains("waiting: FailedMount: ")).await;
    assert!(log.contains("/no/such/folder"), "{log}");
    assert!(process.attribute("WAITING-1").is_some_and(|value| value.starts_with("FailedMount: ")), "{log}");
    lab.rig.user.cancel(&id).await.unwrap();
    // A kubelet may wait two minutes for a volume before it lets a pod go.
    let list = of_process(&id);
    let pods = lab.kube.pods().await;
    until("the pod is deleted", async || {
        let left = pods.list(&list).await.unwrap().items;
        left.iter().all(|pod| pod.metadata.deletion_timestamp.is_some()).then_some(())
    })
    .await;
    running.stop().await;
}

/// Of a Job without pods only events say what it waits for.
#[tokio::test]
async fn a_full_quota_is_what_a_job_waits_for() {
    let lab = Lab::new().await;
    lab.kube.full_namespace("full").await;
    let running = lab.start_with(|settings| settings.namespace = Some("full".into()));
    let id = lab.submit("true", &[]).await;
    let (process, log) = lab.rig.until(&id, "waiting is told", |_, log| log.contains("waiting: FailedCreate")).await;
    let reason = process.attribute("WAITING-1").unwrap_or_default();
    assert!(reason.starts_with("FailedCreate: exceeded quota: none, requested: pods=1"), "{reason}\n{log}");
    assert_eq!(process.state, ProcessState::Running);
    lab.rig.user.cancel(&id).await.unwrap();
    let jobs: ::kube::Api<k8s_openapi::api::batch::v1::Job> = ::kube::Api::namespaced(lab.kube.admin().await, "full");
    until("the Job is removed", async || {
        let left = jobs.list(&ListParams::default()).await.unwrap().items;
        left.is_empty().then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn what_no_node_takes_waits_and_says_why() {
    let lab = Lab::new().await;
    let running = lab.start();
    let id = lab.submit_with("true", &[], |spec| spec["conditions"]["gpu"] = json!({ "count": 1, "name": "a100" })).await;
    let (process, log) = lab.rig.until(&id, "waiting is told", |_, log| log.contains("waiting: Unschedulable")).await;
    assert!(process.attribute("WAITING-1").is_some_and(|value| value.starts_with("Unschedulable: ")), "{log}");
    lab.rig.user.cancel(&id).await.unwrap();
    lab.nothing_left(&id).await;
    running.stop().await;
}

/// Runs the checker of manifests.
fn check(file: &std::path::Path) {
    let program =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".test-parts/kubernetes-validate/bin/kubernetes-validate");
    let done = std::process::Command::new(&program).arg("--strict").arg(file).output();
    let done = done.unwrap_or_else(|e| panic!("{}: {e}: run scripts/parts.sh kubernetes", program.display()));
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && !said.contains("ERROR"), "{}: {said}", file.display());
}

#[test]
fn manifests_fit_the_published_schemas() {
    for name in ["executor.yaml", "secrets.yaml"] {
        check(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes").join(name));
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().canonicalize().unwrap();
    let process = json!({ "processid": "ab12", "spec": { "funcname": "execute", "env": { "A": "b" },
        "kwargs": { "docker-image": "python:3.12", "cmd": "python3", "args": ["x"], "rebuild-image": true },
        "conditions": { "nodes": 3, "processespernode": 2, "walltime": 60, "cpu": "1500m", "mem": "1Gi", "gpu": { "count": 3, "name": "a100" } },
        "fs": { "mount": "/cfs", "dirs": [{ "label": "/p/result", "dir": "/p/result" }] } } });
    let job = Job::read(&serde_json::from_value(process).unwrap(), true).unwrap();
    let task = Task { job: std::sync::Arc::new(job), folder: at.join("jobs/ab12-1"), fs_dir: at.join("fs") };
    let around = Surroundings {
        name: "a cluster".into(),
        state_dir: at.clone(),
        jobs_dir: at.join("jobs"),
        fs_dir: at.join("fs"),
        growth: pollinator::executor::growth::Growth::new(),
        shutdown: tokio_util::sync::CancellationToken::new(),
    };
    let settings = Settings {
        volume_claim: "files".into(),
        volume_mount: Some(at.clone()),
        node_selector: [("disk".to_owned(), "ssd".to_owned())].into(),
        tolerations: vec![Toleration { key: Some("gpu".into()), operator: Some("Exists".into()), ..Toleration::default() }],
        image_pull_secrets: vec!["registry".into()],
        service_account: Some("jobs".into()),
        priority_class: Some("batch".into()),
        fs_group: Some(1000),
        shared_memory_mib: 1024,
        ..Settings::default()
    };
    for indexed in [true, false] {
        let text = manifests(settings.clone(), &around, &task, indexed).unwrap();
        assert_eq!(text.matches("\"kind\": \"Job\"").count(), if indexed { 1 } else { 3 });
        let file = at.join(format!("{indexed}.yaml"));
        std::fs::write(&file, text).unwrap();
        check(&file);
    }
}
