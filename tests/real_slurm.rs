//! The Slurm backend against a real cluster: controller, two nodes, accounting (`scripts/parts.sh slurm` brings it).

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

#[path = "common/image.rs"]
mod image;
mod lab;
#[path = "common/registry.rs"]
mod registry;
#[path = "common/rig.rs"]
mod rig;
#[path = "common/slurm.rs"]
mod slurm_cluster;

use pollinator::colonies::Process;
use pollinator::colonies::ProcessState;
use pollinator::event::Tree;
use pollinator::executor::Backend;
use pollinator::executor::Options;
use pollinator::executor::backend::slurm::Containers;
use pollinator::executor::backend::slurm::Settings;
use pollinator::executor::backend::slurm::hostlist;
use rig::*;
use serde_json::Value;
use serde_json::json;
use slurm_cluster::slurm;
use std::path::Path;

/// Jobs on the nodes themselves, no images.
fn settings() -> Settings {
    Settings { containers: Containers::None, interval: 3, ..Settings::default() }
}

fn with(settings: Settings) -> impl FnOnce(&mut Options) {
    move |options| {
        options.backend = Backend::Slurm(Box::new(settings));
        options.capacity.slots = 200;
    }
}

async fn rig() -> Rig {
    // The cluster first: it sets variables of this process.
    tokio::task::spawn_blocking(slurm).await.unwrap();
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    rig
}

fn conditions(spec: &mut Value, all: Value) {
    for (name, value) in all.as_object().unwrap() {
        spec["conditions"][name] = value.clone();
    }
}

/// A log without what is said of the queue, which may be full of other tests' jobs.
fn own(log: &str) -> String {
    log.lines().filter(|line| !line.starts_with("pollinator: waiting: ")).map(|line| format!("{line}\n")).collect()
}

#[track_caller]
fn succeeded(process: &Process, log: &str) {
    assert_eq!((process.state, &process.errors), (ProcessState::Success, &vec![]), "{log}");
}

#[tokio::test]
async fn a_project_runs_on_a_node_and_its_results_come_back() {
    let rig = rig().await;
    rig.write(
        "src",
        "main.sh",
        "cat $PROJECT_DIR/data/in.txt; echo anew > /dev/stderr; echo out > $PROJECT_DIR/result/out.txt; hostname >/dev/null\n",
    );
    rig.write("data", "in.txt", "input\n");
    let running = rig.start_with(with(settings()));
    let id = rig.submit("sh", &["/cfs/pollinator/p/snapshot/src/main.sh"]).await;
    let (process, log) = rig.ended(&id).await;
    succeeded(&process, &log);
    assert_eq!(own(&log), "input\nanew\n");
    let job = process.attribute("SLURM-JOBID").unwrap();
    assert_eq!(slurm().ask("squeue", &["-h", "-t", "all", "-j", job, "-o", "%j"]).trim(), id, "the job's name");
    assert!(matches!(process.attribute("NODES"), Some("n1" | "n2")), "{:?}", process.attribute("NODES"));
    assert!(process.attribute("HOME").is_some());
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("out.txt")), "out\n");
    running.stop().await;
}

#[tokio::test]
async fn two_nodes_with_two_processes_each_know_their_ranks_and_nodes() {
    let rig = rig().await;
    let running = rig.start_with(with(settings()));
    let cmd = "echo rank $POLLINATOR_RANK of $POLLINATOR_SIZE local $POLLINATOR_LOCAL_RANK node $POLLINATOR_NODE_RANK \
               $SLURMD_NODENAME in $POLLINATOR_NODES; sleep 4";
    let id = rig.submit_with(cmd, &[], |s| conditions(s, json!({ "nodes": 2, "processespernode": 2 }))).await;
    let (process, log) = rig.ended(&id).await;
    succeeded(&process, &log);
    let mut lines: Vec<&str> = log.lines().filter(|line| line.starts_with('[')).collect();
    lines.sort_unstable();
    let want = [
        "[0] rank 0 of 4 local 0 node 0 n1 in n1,n2",
        "[1] rank 1 of 4 local 1 node 0 n1 in n1,n2",
        "[2] rank 2 of 4 local 0 node 1 n2 in n1,n2",
        "[3] rank 3 of 4 local 1 node 1 n2 in n1,n2",
    ];
    assert_eq!(lines, want, "{log}");
    assert_eq!(process.attribute("NODES"), Some("n1,n2"));
    running.stop().await;
}

#[tokio::test]
async fn what_a_specification_asks_for_is_what_slurm_gives() {
    let rig = rig().await;
    let settings = Settings { partition: Some("small".into()), account: Some("other".into()), ..settings() };
    let running = rig.start_with(with(settings));
    let id = rig
        .submit_with("scontrol show job $SLURM_JOB_ID; echo gpus $CUDA_VISIBLE_DEVICES", &[], |s| {
            conditions(
                s,
                json!({ "processespernode": 2, "cpu": "1500m", "mem": "100Mi", "walltime": 7200, "gpu": { "count": 1, "name": "test" } }),
            );
        })
        .await;
    let (process, log) = rig.ended(&id).await;
    succeeded(&process, &log);
    for want in [
        "Partition=small",
        "Account=other",
        "NumCPUs=4",
        "CPUs/Task=2",
        "MinMemoryNode=200M",
        "TimeLimit=02:00:00",
        "gres:gpu:test:1",
    ] {
        let found = log.contains(want) || log.contains(&want.replace("gres:gpu", "gpu"));
        assert!(found, "{want} in {log}");
    }
    assert!(log.contains("gpus 0") || log.contains("gpus 1"), "{log}");
    running.stop().await;
}

#[tokio::test]
async fn a_job_that_fails_says_how() {
    let rig = rig().await;
    let running = rig.start_with(with(settings()));
    let three = rig.submit("echo part > result/part; echo why >&2; exit 3", &[]).await;
    let killed = rig.submit("kill -9 $$", &[]).await;
    let init = rig.submit_with("echo never", &[], |s| s["kwargs"]["init-cmd"] = json!("echo preparing; exit 5")).await;
    let one_of_two = rig
        .submit_with("test $POLLINATOR_RANK = 0 || exit 9; sleep 300", &[], |s| conditions(s, json!({ "processespernode": 2 })))
        .await;
    let (process, log) = rig.ended(&three).await;
    assert_eq!((process.state, process.errors[0].as_str()), (ProcessState::Failed, "exit status 3"), "{log}");
    assert!(process.errors[1].ends_with("why"), "{:?}", process.errors);
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("part")), "part\n");
    let (process, _) = rig.ended(&killed).await;
    assert!(process.errors[0].starts_with("exit status 137 (killed by signal 9"), "{:?}", process.errors);
    let (process, log) = rig.ended(&init).await;
    assert_eq!((process.errors[0].as_str(), log.contains("never")), ("init-cmd failed with exit status 5", false), "{log}");
    let (process, log) = rig.ended(&one_of_two).await;
    assert_eq!(process.errors[0], "process 1 ended with exit status 9", "{log}");
    running.stop().await;
}

#[tokio::test]
async fn a_job_over_its_walltime_is_ended_by_slurm_which_says_so() {
    let rig = rig().await;
    let running = rig.start_with(with(settings()));
    let id = rig
        .submit_with("echo part > result/part; trap 'echo saved > result/saved; exit 0' TERM; sleep 600 & wait", &[], |s| {
            conditions(s, json!({ "walltime": 1 }));
            s["maxexectime"] = json!(-1);
        })
        .await;
    let (process, log) = rig.ended_within(&id, 240).await;
    assert_eq!(process.state, ProcessState::Failed);
    assert!(process.errors[0].starts_with("TIMEOUT: its walltime is over"), "{:?} {log}", process.errors);
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("part")), "part\n");
    assert_eq!(read(rig.tree("result").join("saved")), "saved\n", "Slurm asks before it insists");
    running.stop().await;
}

#[tokio::test]
async fn a_cancelled_process_is_cancelled_at_slurm_and_its_results_come_back() {
    let rig = rig().await;
    let running = rig.start_with(with(settings()));
    let id = rig.submit("echo part > result/part; echo ready; sleep 300", &[]).await;
    let (process, _) = rig.until(&id, "ready", |p, log| log.contains("ready") && p.attribute("SLURM-JOBID").is_some()).await;
    let job = process.attribute("SLURM-JOBID").unwrap().to_owned();
    rig.user.cancel(&id).await.unwrap();
    lab::until("scancel", || !matches!(slurm().ask("squeue", &["-h", "-j", &job, "-o", "%T"]).trim(), "RUNNING" | "PENDING"));
    lab::until("the results", || !rig.fs("pollinator/p/result").exists());
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("part")), "part\n");
    // One that waits in the queue goes as well.
    let settings = Settings { partition: Some("closed".into()), ..settings() };
    running.stop().await;
    let running = rig.start_with(with(settings));
    let id = rig.submit("true", &[]).await;
    let (process, _) = rig.until(&id, "the queue", |p, _| p.attribute("WAITING-1").is_some()).await;
    let job = process.attribute("SLURM-JOBID").unwrap().to_owned();
    rig.user.cancel(&id).await.unwrap();
    lab::until("scancel", || slurm().ask("squeue", &["-h", "-j", &job, "-o", "%T"]).trim() != "PENDING");
    running.stop().await;
}

#[tokio::test]
async fn a_job_that_waits_says_why() {
    let rig = rig().await;
    let running = rig.start_with(with(Settings { partition: Some("closed".into()), ..settings() }));
    let id = rig.submit("true", &[]).await;
    let (process, _) =
        rig.until(&id, "why it waits", |p, log| p.attribute("WAITING-1").is_some() && log.contains("waiting:")).await;
    assert_eq!(process.attribute("WAITING-1").unwrap(), "Slurm: PENDING (PartitionDown: the partition is closed)");
    rig.user.cancel(&id).await.unwrap();
    lab::until("its end", || !slurm().ask("squeue", &["-h", "-o", "%j", "-t", "PENDING"]).contains(&id));
    running.stop().await;
}

#[tokio::test]
async fn an_executor_that_is_killed_goes_on_with_its_jobs() {
    let rig = rig().await;
    let running = rig.start_with(with(settings()));
    let gate = |name: &str| format!("until test -e result/{name}; do sleep 0.1; done");
    let cmd = format!(
        "echo x >> result/count; seq -f 'line %g' 1 50; {}; seq -f 'line %g' 51 90; {}; echo > result/done",
        gate("middle"),
        gate("end")
    );
    let open = |name: &str| std::fs::write(rig.fs(&format!("pollinator/p/result/{name}")), "").unwrap();
    let id = rig.submit(&cmd, &[]).await;
    rig.until(&id, "line 50", |_, log| log.contains("line 50\n")).await;
    running.kill();
    open("middle");
    let running = rig.start_with(with(settings()));
    rig.until(&id, "line 90", |_, log| log.contains("line 90\n")).await;
    running.kill();
    open("end");
    let done = rig.fs("pollinator/p/result/done");
    lab::until("the job's end", || done.exists());
    let running = rig.start_with(with(settings()));
    let (process, log) = rig.ended(&id).await;
    succeeded(&process, &log);
    assert_eq!(process.retries, 0);
    let want: String = (1..=90).map(|i| format!("line {i}\n")).collect();
    assert_eq!(own(&log), want);
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("count")), "x\n");
    running.stop().await;
}

#[tokio::test]
async fn a_controller_that_is_restarted_fails_no_job() {
    let rig = rig().await;
    let running = rig.start_with(with(settings()));
    let id = rig.submit("echo ready; until test -e result/end; do sleep 0.1; done; echo done", &[]).await;
    rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    tokio::task::spawn_blocking(|| slurm().restart_controller()).await.unwrap();
    let later = rig.submit("echo later", &[]).await;
    std::fs::write(rig.fs("pollinator/p/result/end"), "").unwrap();
    let (process, log) = rig.ended(&id).await;
    succeeded(&process, &log);
    assert_eq!(own(&log), "ready\ndone\n");
    let (process, log) = rig.ended(&later).await;
    succeeded(&process, &log);
    running.stop().await;
}

/// A folder with Slurm's programs, of which one is another: shell text that may call the real one by `$REAL`.
fn programs(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    for program in ["sbatch", "squeue", "scancel", "scontrol", "sacct", "srun"] {
        let found =
            std::env::split_paths(&std::env::var_os("PATH").unwrap()).map(|p| p.join(program)).find(|p| p.exists()).unwrap();
        let file = bin.join(program);
        if program == name {
            _ = std::fs::remove_file(&file);
            std::fs::write(&file, format!("#!/bin/sh\nREAL={}\nDIR={}\n{text}\n", found.display(), folder.display())).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        } else if !file.exists() {
            std::os::unix::fs::symlink(found, file).unwrap();
        }
    }
    bin
}

#[tokio::test]
async fn an_answer_of_sbatch_that_is_lost_starts_no_second_job() {
    let rig = rig().await;
    let text = "\"$REAL\" \"$@\" >/dev/null; test -e $DIR/lost && exit 1\n\
                : > $DIR/lost; echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1";
    let bin = programs(rig.folder.path(), "sbatch", text);
    let running = rig.start_with(with(Settings { programs: Some(bin), ..settings() }));
    let id = rig.submit("echo x >> result/count; cat result/count", &[]).await;
    let (process, log) = rig.ended(&id).await;
    succeeded(&process, &log);
    assert_eq!(own(&log), "x\n");
    let named = slurm().ask("squeue", &["-h", "-t", "all", "-o", "%j", "--name", &id]);
    assert_eq!(named.lines().count(), 1, "{named}");
    running.stop().await;
}

/// A job whose statuses cannot be written, and that the queue does not name once it is over.
async fn forgotten(change: impl FnOnce(&Path)) -> (Process, String) {
    let rig = rig().await;
    let bin = programs(rig.folder.path(), "squeue", "\"$REAL\" \"$@\" | grep -v -e FAILED -e COMPLET; true");
    change(rig.folder.path());
    let running = rig.start_with(with(Settings { programs: Some(bin), ..settings() }));
    let id = rig.submit("echo ready; until test -e result/end; do sleep 0.1; done; exit 3", &[]).await;
    rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    for name in ["status.tmp", "status.0.tmp"] {
        std::fs::create_dir_all(rig.folder.path().join(format!("executor/jobs/{id}-1/{name}/x"))).unwrap();
    }
    std::fs::write(rig.fs("pollinator/p/result/end"), "").unwrap();
    let ended = rig.ended_within(&id, 240).await;
    running.stop().await;
    ended
}

#[tokio::test]
async fn a_job_that_the_queue_forgot_is_looked_up_in_the_accounting() {
    let (process, log) = forgotten(|_| {}).await;
    assert_eq!(process.errors[0], "FAILED: the batch script ended with exit status 3", "{log}");
}

#[tokio::test]
async fn without_accounting_it_is_looked_up_at_the_controller() {
    let none = "echo 'Slurm accounting storage is disabled' >&2; exit 1";
    let (process, log) = forgotten(|folder| drop(programs(folder, "sacct", none))).await;
    assert_eq!(process.errors[0], "FAILED: the batch script ended with exit status 3", "{log}");
}

#[tokio::test]
async fn a_hundred_short_jobs_cost_few_questions() {
    let rig = rig().await;
    let bin = programs(rig.folder.path(), "squeue", "echo >> $DIR/asked; exec \"$REAL\" \"$@\"");
    let running = rig.start_with(with(Settings { programs: Some(bin), ..settings() }));
    let began = std::time::Instant::now();
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(rig.submit(&format!("echo {n}"), &[]).await);
    }
    for (n, id) in ids.iter().enumerate() {
        let (process, log) = rig.ended_within(id, 300).await;
        succeeded(&process, &log);
        assert!(log.ends_with(&format!("{n}\n")), "{log}");
    }
    let asked = read(rig.folder.path().join("asked")).lines().count() as u64;
    // At most one question in a second and a half, for all of them together.
    assert!(asked <= began.elapsed().as_secs() + 2, "{asked} questions in {:?}", began.elapsed());
    running.stop().await;
}

#[tokio::test]
async fn arguments_and_variables_arrive_byte_for_byte() {
    let rig = rig().await;
    let running = rig.start_with(with(settings()));
    let odd =
        ["a b", "\"'`\\", "$(touch /tmp/pollinator-was-here)`id`$HOME", "line\nline\n", "ü 漢字 &<>;|", "", "-n", "*", "%s\t"];
    let id = rig
        .submit_with("true", &[], |s| {
            s["kwargs"]["cmd"] =
                json!("printf '<%s>' \"$V\"; env | grep -e ^AWS -e ^COLONIES_.*KEY -e not-for-the-eyes; printf '<%s>'");
            s["kwargs"]["args"] = json!(odd);
            s["env"]["V"] = json!(odd.join("|"));
            s["env"]["SBATCH_PARTITION"] = json!("nowhere");
            s["env"]["LD_PRELOAD_X"] = json!("x");
        })
        .await;
    let (process, log) = rig.ended(&id).await;
    succeeded(&process, &log);
    let want: String =
        std::iter::once(odd.join("|")).chain(odd.iter().map(|a| a.to_string())).map(|a| format!("<{a}>")).collect();
    assert_eq!(own(&log).trim_end_matches('\n'), want);
    assert!(!Path::new("/tmp/pollinator-was-here").exists());
    assert_eq!(std::env::var("AWS_S3_SECRETKEY").as_deref(), Ok(slurm_cluster::SECRET), "there was something to keep back");
    running.stop().await;
}

/// Environment Modules of Debian. What one sets is there in every process; one that is not there ends the job.
#[tokio::test]
async fn modules_are_loaded_on_the_node() {
    let rig = rig().await;
    let module = slurm().root().join("modules/thesis/1.2");
    std::fs::create_dir_all(module.parent().unwrap()).unwrap();
    std::fs::write(&module, "#%Module\nsetenv THESIS_HOME /opt/thesis-1.2\nprepend-path PATH /opt/thesis-1.2/bin\n").unwrap();
    let modules = |names: &[&str]| Settings {
        modules: names.iter().map(|name| name.to_string()).collect(),
        inherit: vec!["MODULEPATH".into()],
        ..settings()
    };
    let running = rig.start_with(with(modules(&["thesis/1.2"])));
    let id = rig
        .submit_with("echo $THESIS_HOME; case $PATH in /opt/thesis-1.2/bin:*) echo first;; esac", &[], |s| {
            conditions(s, json!({ "processespernode": 2 }));
        })
        .await;
    let (process, log) = rig.ended(&id).await;
    succeeded(&process, &log);
    for line in ["[0] /opt/thesis-1.2\n[0] first\n", "[1] /opt/thesis-1.2\n[1] first\n"] {
        assert!(log.contains(line), "{log}");
    }
    running.stop().await;
    let running = rig.start_with(with(modules(&["thesis/9"])));
    let id = rig.submit("echo never", &[]).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!((process.state, process.errors[0].as_str()), (ProcessState::Failed, "module load thesis/9 failed"), "{log}");
    assert!(log.contains("pollinator: module load thesis/9 failed") && !log.contains("never\n"), "{log}");
    running.stop().await;
}

#[tokio::test]
async fn what_the_cluster_refuses_is_told_in_its_words() {
    let rig = rig().await;
    let running = rig.start_with(with(Settings { partition: Some("nowhere".into()), ..settings() }));
    let id = rig.submit("true", &[]).await;
    let (process, _) = rig.ended(&id).await;
    assert!(
        process.errors[0].starts_with("the job could not be started: sbatch: error: invalid partition specified: nowhere"),
        "{:?}",
        process.errors
    );
    running.stop().await;
}

#[tokio::test]
async fn what_lies_in_a_job_folder_is_the_owners_only() {
    let rig = rig().await;
    let running = rig.start_with(with(settings()));
    let id = rig.submit("echo ready; until test -e result/end; do sleep 0.1; done", &[]).await;
    rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    use std::os::unix::fs::MetadataExt;
    let jobs = rig.folder.path().join("executor/jobs");
    let mut folders = vec![jobs];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let about = entry.metadata().unwrap();
            assert_eq!(about.mode() & 0o077, 0, "{}", entry.path().display());
            seen += 1;
            if about.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    assert!(seen > 10, "{seen} files");
    std::fs::write(rig.fs("pollinator/p/result/end"), "").unwrap();
    rig.ended(&id).await;
    running.stop().await;
}

#[tokio::test]
async fn hostlists_are_expanded_as_slurm_does() {
    rig().await;
    for list in ["n[1-3,7],gpu05", "nid[001234-001237]", "r[1-2]c[0,3]", "a,b[08-11]", "x[1-2]y[3-4]z[5]"] {
        let theirs = slurm().ask("scontrol", &["show", "hostnames", list]);
        let (mut ours, mut theirs) = (hostlist::expand(list), theirs.lines().map(str::to_owned).collect::<Vec<_>>());
        // Slurm lets the first bracket of several run fastest, but only sometimes.
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{list}");
    }
}

/// Jobs in an image of a registry on loopback.
fn in_images(registry: &registry::Registry) -> Settings {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".test-parts/apptainer");
    assert!(program.is_file(), "Apptainer is missing ({}): run scripts/parts.sh apptainer", program.display());
    let images = pollinator::executor::image::Settings {
        program: Some(program),
        insecure_registries: vec![registry.host()],
        // Apptainer asks for a capability otherwise that a container of a test machine may not have.
        exec_options: vec!["--no-privs".into()],
        ..Default::default()
    };
    Settings { containers: Containers::Apptainer, images, ..settings() }
}

#[tokio::test]
async fn a_job_of_two_nodes_runs_in_an_image() {
    let rig = rig().await;
    rig.write(
        "src",
        "main.sh",
        "cat /cfs/pollinator/p/data/in.txt; echo $POLLINATOR_RANK $POLLINATOR_NODES > $PROJECT_DIR/result/$POLLINATOR_RANK\n",
    );
    rig.write("data", "in.txt", "input\n");
    let registry = registry::Registry::start(registry::Access::Open);
    registry.push("lab/busybox", "1", &image::Image::busybox());
    let running = rig.start_with(with(in_images(&registry)));
    let name = format!("{}/lab/busybox:1", registry.host());
    let here = std::fs::canonicalize(env!("CARGO_MANIFEST_DIR")).unwrap();
    let cmd = format!(
        "test -e {} && echo sees the host; pwd; touch /cfs/pollinator/p/snapshot/src/x 2>/dev/null && echo writes; sh",
        here.display()
    );
    let id = rig
        .submit_with(&cmd, &["/cfs/pollinator/p/snapshot/src/main.sh"], |s| {
            conditions(s, json!({ "nodes": 2, "processespernode": 2 }));
            s["kwargs"]["docker-image"] = json!(name);
        })
        .await;
    let (process, log) = rig.ended_within(&id, 240).await;
    succeeded(&process, &log);
    for rank in 0..4 {
        assert!(log.contains(&format!("[{rank}] /cfs/pollinator/p\n")) && log.contains(&format!("[{rank}] input\n")), "{log}");
    }
    assert!(!log.contains("sees the host") && !log.contains("writes"), "{log}");
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("3")), "3 n1,n2\n");
    let id = rig.submit_with("exit 7", &[], |s| s["kwargs"]["docker-image"] = json!(name)).await;
    let (process, log) = rig.ended_within(&id, 240).await;
    assert_eq!(process.errors[0], "exit status 7", "{log}");
    let id = rig
        .submit_with("true", &[], |s| s["kwargs"]["docker-image"] = json!(format!("{}/nobody/nothing:1", registry.host())))
        .await;
    let (process, log) = rig.ended_within(&id, 240).await;
    assert_eq!(process.state, ProcessState::Failed, "{log}");
    assert!(process.errors[0].contains("nobody/nothing"), "{:?}", process.errors);
    running.stop().await;
}

#[tokio::test]
async fn a_job_whose_folder_is_gone_is_ended_at_the_next_start() {
    let rig = rig().await;
    let running = rig.start_with(with(settings()));
    let lost = rig.submit("echo ready; sleep 300", &[]).await;
    rig.until(&lost, "ready", |p, log| log.contains("ready") && p.attribute("SLURM-JOBID").is_some()).await;
    let job = rig.user.process(&lost).await.unwrap().attribute("SLURM-JOBID").unwrap().to_owned();
    running.kill();
    // All that the executor knew is lost, but its disk is there.
    rig.user.cancel(&lost).await.unwrap();
    let state = rig.folder.path().join("executor");
    std::fs::remove_dir_all(state.join(format!("jobs/{lost}-1"))).unwrap();
    std::fs::create_dir(state.join("jobs/another")).unwrap();
    for file in ["executor.db", "executor.db-wal", "executor.db-shm"] {
        _ = std::fs::remove_file(state.join(file));
    }
    let running = rig.start_with(with(settings()));
    lab::until("its end", || slurm().ask("squeue", &["-h", "-j", &job, "-o", "%T"]).trim() != "RUNNING");
    running.stop().await;
}
