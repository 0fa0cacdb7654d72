//! The executor against the local colony: a real server, a real object store, real jobs.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod lab;
#[path = "common/rig.rs"]
mod rig;

use pollinator::colonies::ProcessState;
use pollinator::event::Tree;
use rig::*;
use serde_json::Value;
use serde_json::json;
use std::time::Duration;
use std::time::Instant;

#[tokio::test]
async fn a_project_runs_and_its_results_come_back() {
    let rig = Rig::new().await;
    rig.write("src", "main.sh", "cat $PROJECT_DIR/data/in.txt; cat $1/lib/more; echo out > $PROJECT_DIR/result/out.txt\n");
    rig.write("src", "lib/more", "more\n");
    rig.write("data", "in.txt", "input\n");
    let running = rig.start();
    let src = "/cfs/pollinator/p/snapshot/src";
    let id = rig.submit("sh", &[&format!("{src}/main.sh"), src]).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!((process.state, &process.errors), (ProcessState::Success, &vec![]), "{log}");
    assert_eq!(log, "input\nmore\n");
    assert!(process.attribute("NODES").is_some());
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("out.txt")), "out\n");
    running.stop().await;
    assert!(!rig.fs("pollinator/p/result").exists(), "keepfiles false");
    assert!(rig.fs("pollinator/p/data/in.txt").exists(), "keepfiles true");
}

#[tokio::test]
async fn results_of_a_failed_job_come_back() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let id = rig.submit("echo part > /cfs/pollinator/p/result/part.txt; echo why >&2; exit 3", &[]).await;
    let (process, _) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Failed);
    assert_eq!(process.errors[0], "exit status 3");
    assert!(process.errors[1].ends_with("why"), "{:?}", process.errors);
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("part.txt")), "part\n");
    running.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_is_dead_within_seconds_and_its_results_come_back() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let id = rig.submit("sleep 300 & echo $! > result/pid; echo ready; wait", &[]).await;
    rig.until(&id, "ready", |_, log| log.contains("ready")).await;
    let pid: i32 = read(rig.fs("pollinator/p/result/pid")).trim().parse().unwrap();
    let begun = Instant::now();
    rig.user.cancel(&id).await.unwrap();
    let alive = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
    while alive() {
        assert!(begun.elapsed() < PATIENCE, "still alive");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let end = Instant::now() + PATIENCE;
    while rig.cfs().list("/pollinator/p/result").await.unwrap().files.is_empty() {
        assert!(Instant::now() < end, "no results");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn killed_twice_during_a_job_nothing_is_lost_or_done_twice() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    // Each part of the job waits until the test lets it go on.
    let gate = |name: &str| format!("until test -e result/{name}; do sleep 0.05; done");
    let cmd = format!(
        "echo x >> result/count; seq -f 'line %g' 1 10; {}; seq -f 'line %g' 11 30; {}; seq -f 'line %g' 31 60; echo > result/done",
        gate("middle"),
        gate("end")
    );
    let open = |name: &str| std::fs::write(rig.fs(&format!("pollinator/p/result/{name}")), "").unwrap();
    let id = rig.submit(&cmd, &[]).await;
    rig.until(&id, "line 10", |_, log| log.contains("line 10\n")).await;
    running.kill();
    open("middle");
    let running = rig.start();
    rig.until(&id, "line 30", |_, log| log.contains("line 30\n")).await;
    running.kill();
    // The job ends while nobody is there.
    open("end");
    let done = rig.fs("pollinator/p/result/done");
    lab::until("the job's end", || done.exists());
    assert_eq!(rig.user.process(&id).await.unwrap().state, ProcessState::Running);
    let running = rig.start();
    let (process, log) = rig.ended(&id).await;
    assert_eq!((process.state, process.retries), (ProcessState::Success, 0), "{:?}", process.errors);
    let want: String = (1..=60).map(|i| format!("line {i}\n")).collect();
    assert_eq!(log, want);
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("count")), "x\n");
    running.stop().await;
}

/// The whole colony is killed: server, store and executor together.
#[tokio::test]
async fn the_colony_is_killed_during_a_job_and_the_job_goes_on() {
    let mut rig = Rig::new().await;
    rig.write("src", "x", "x");
    let cmd = "echo x >> result/count; for i in $(seq 1 40); do echo line $i; sleep 0.1; done";
    let id = rig.submit_with(cmd, &[], |spec| spec["conditions"]["executornames"] = json!(["local"])).await;
    rig.until(&id, "line 10", |_, log| log.contains("line 10\n")).await;
    drop(rig.colony.take());
    let (served, access) = serve(rig.folder.path()).await;
    assert_eq!(&access, rig.user.access(), "ports and keys are kept");
    rig.colony = Some(served);
    let (process, log) = rig.ended(&id).await;
    assert_eq!((process.state, process.retries), (ProcessState::Success, 0), "{:?}", process.errors);
    let want: String = (1..=40).map(|i| format!("line {i}\n")).collect();
    assert_eq!(log, want);
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("count")), "x\n");
}

#[tokio::test]
async fn concurrent_processes_of_one_project_keep_each_others_results() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let mut ids = Vec::new();
    for n in 0..4 {
        let cmd = format!("sleep 0.{n}; echo {n} > result/{n}.txt; sleep 0.{}", 5 - n);
        // Each with a folder for its snapshot: one folder holds one snapshot at a time.
        let own = |spec: &mut Value| spec["fs"]["snapshots"][0]["dir"] = json!(format!("/pollinator/p/{n}/src"));
        ids.push(rig.submit_with(&cmd, &[], own).await);
    }
    for id in &ids {
        assert_eq!(rig.ended(id).await.0.state, ProcessState::Success);
    }
    rig.sync(Tree::Result).await;
    for n in 0..4 {
        assert_eq!(read(rig.tree("result").join(format!("{n}.txt"))), format!("{n}\n"));
    }
    running.stop().await;
    assert!(!rig.fs("pollinator/p/result").exists());
}

#[tokio::test]
async fn deletions_by_the_job_and_by_the_user_are_kept_apart() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let id = rig.submit("for f in a b c; do echo $f > result/$f; done", &[]).await;
    rig.ended(&id).await;
    rig.sync(Tree::Result).await;
    std::fs::remove_file(rig.tree("result").join("b")).unwrap();
    // The job removes one result, the user removed another before; the third stays.
    let id = rig.submit("ls result; rm result/a; echo d > result/d", &[]).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    assert_eq!(log, "a\nc\n");
    rig.sync(Tree::Result).await;
    let mut left: Vec<_> = std::fs::read_dir(rig.tree("result")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["c", "d"]);
    running.stop().await;
}

#[tokio::test]
async fn a_broken_snapshot_fails_the_process_and_names_the_reason() {
    let rig = Rig::new().await;
    rig.write("src", "main.sh", "echo never\n");
    let id = rig.submit("sh", &["/cfs/pollinator/p/snapshot/src/main.sh"]).await;
    rig.user.remove_file("/pollinator/p/src", "main.sh").await.unwrap();
    let running = rig.start();
    let (process, _) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Failed);
    assert!(process.errors[0].contains("could not be brought in: snapshot"), "{:?}", process.errors);
    running.stop().await;
}

/// A second run of a snapshot asks for none of its rows again: they are gone here, and it runs. What changed in its folder meanwhile
/// is put right from the store.
#[tokio::test]
async fn a_snapshot_that_was_here_before_is_not_asked_for_again() {
    let rig = Rig::new().await;
    rig.write(
        "src",
        "main.sh",
        "cat /cfs/pollinator/p/snapshot/src/deep/word\n".replace("/cfs", &rig.fs("").to_string_lossy()).as_str(),
    );
    rig.write("src", "deep/word", "the very word\n");
    let first = rig.submit("sh", &["/cfs/pollinator/p/snapshot/src/main.sh"]).await;
    let running = rig.start();
    let (process, log) = rig.ended(&first).await;
    assert_eq!((process.state, log.as_str()), (ProcessState::Success, "the very word\n"));
    let word = rig.fs("pollinator/p/snapshot/src/deep/word");
    std::fs::remove_file(&word).unwrap();
    std::fs::write(&word, "another one\n").unwrap();
    let again = process.spec.clone();
    rig.user.remove_file("/pollinator/p/src", "main.sh").await.unwrap();
    rig.user.remove_file("/pollinator/p/src/deep", "word").await.unwrap();
    let second = rig.user.submit(&again).await.unwrap().processid;
    let (process, log) = rig.ended(&second).await;
    assert_eq!((process.state, log.as_str()), (ProcessState::Success, "the very word\n"), "{:?}", process.errors);
    running.stop().await;
}

#[tokio::test]
async fn refused_specifications_name_the_field() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    for (pointer, value, field) in [
        ("/fs/dirs/0/dir", json!("/../outside"), "fs.dirs[0].dir"),
        ("/conditions/walltime", json!(0), "conditions.walltime"),
        ("/kwargs/cmd", json!(""), "kwargs.cmd"),
        ("/kwargs/args", json!([["x"]]), "kwargs.args[0]"),
        ("/env", json!({ "A B": "x" }), "env"),
    ] {
        let id = rig.submit_with("true", &[], |spec| *spec.pointer_mut(pointer).unwrap() = value).await;
        let (process, _) = rig.ended(&id).await;
        assert_eq!(process.state, ProcessState::Failed);
        assert!(process.errors[0].contains(&format!("{field}:")), "{:?}", process.errors);
    }
    running.stop().await;
}

#[tokio::test]
async fn the_walltime_ends_a_job_and_its_results_come_back() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let cmd = "echo part > result/part; sleep 300";
    let id = rig.submit_with(cmd, &[], |spec| spec["conditions"]["walltime"] = json!(1)).await;
    let (process, _) = rig.ended(&id).await;
    assert_eq!(process.errors[0], "TIMEOUT: the walltime of 1 s is over");
    // As the Go tool asks for it: a second less than the walltime, from the assignment.
    let id = rig.submit_with(cmd, &[], |spec| spec["maxexectime"] = json!(4)).await;
    let (process, _) = rig.ended(&id).await;
    assert!(process.errors[0].starts_with("TIMEOUT: maxexectime of 4 s"), "{:?}", process.errors);
    assert_eq!(process.retries, 0);
    rig.sync(Tree::Result).await;
    assert_eq!(read(rig.tree("result").join("part")), "part\n");
    running.stop().await;
}

/// Scripts do that, and it would cut a file that is their output.
#[tokio::test]
async fn output_that_a_command_opens_anew_comes_whole() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let id = rig.submit("seq 1 1000; echo oops > /dev/stderr; seq 1001 2000; echo end > /dev/stdout", &[]).await;
    let two = |spec: &mut serde_json::Value| spec["conditions"]["processespernode"] = json!(2);
    let several = rig.submit_with("echo one; echo two > /dev/stderr; echo three", &[], two).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success);
    let numbers = |range: std::ops::RangeInclusive<u32>| range.map(|n| format!("{n}\n")).collect::<String>();
    assert_eq!(log, format!("{}oops\n{}end\n", numbers(1..=1000), numbers(1001..=2000)));
    let (process, log) = rig.ended(&several).await;
    assert_eq!(process.state, ProcessState::Success);
    for rank in 0..2 {
        let lines: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix(&format!("[{rank}] "))).collect();
        assert_eq!(lines, ["one", "two", "three"], "{log}");
    }
    running.stop().await;
}

#[tokio::test]
async fn binary_output_arrives_as_text() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let id = rig.submit("printf 'a\\0b\\377\\303'; sleep 0.6; printf '\\251 end\\n'", &[]).await;
    let (process, log) = rig.ended(&id).await;
    assert_eq!(process.state, ProcessState::Success);
    assert_eq!(log, format!("a\u{FFFD}b\u{FFFD}é end\n"));
    running.stop().await;
}

#[tokio::test]
async fn a_log_of_100_mb_arrives_whole() {
    let rig = Rig::new().await;
    rig.write("src", "x", "x");
    let running = rig.start();
    let id = rig.submit("head -c 100000000 /dev/zero | tr '\\0' x; echo; echo last", &[]).await;
    let end = Instant::now() + Duration::from_secs(600);
    let process = loop {
        let process = rig.user.process(&id).await.unwrap();
        if process.state.is_final() {
            break process;
        }
        assert!(Instant::now() < end, "never ended");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    let (mut length, mut since, mut last) = (0, 0, String::new());
    loop {
        let page = rig.user.logs(&id, since, 100).await.unwrap();
        let Some(entry) = page.last() else { break };
        since = entry.timestamp;
        last = entry.message.clone();
        assert!(page.iter().all(|e| e.message.len() <= 65536));
        length += page.iter().map(|e| e.message.len()).sum::<usize>();
    }
    assert_eq!(length, 100_000_000 + "\nlast\n".len());
    assert!(last.ends_with("\nlast\n"), "the last line comes last");
    running.stop().await;
}

/// SIGKILL to the program that serves the colony and its executor, as often as there are rounds.
#[test]
fn kill_9_at_any_moment_loses_and_doubles_nothing() {
    let lab = lab::Lab::new();
    let python = "import os, time\nresult = os.environ['PROJECT_DIR'] + '/result/'\nopen(result + 'count', 'a').write('x')\n\
                  for i in range(80):\n    print('line', i)\n    time.sleep(0.1)\n";
    let project = lab.project("killed", python);
    lab.run_in(&project, ["run", "--detach"]).expect_code(0);
    for round in 1..=3 {
        let seen = format!("line {}\n", round * 15);
        lab::until(&seen, || lab.run_in(&project, ["logs", "last"]).stdout.contains(&seen));
        let serving = std::fs::read(lab.state().join("colony/running.json")).unwrap();
        let pid = serde_json::from_slice::<Value>(&serving).unwrap()["pid"].as_i64().unwrap();
        // SAFETY: kill takes two numbers; the process is the colony of this test.
        assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGKILL) }, 0);
        // A program that is asked while the old one still dies takes it for alive.
        let dead = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
        lab::until("the end of the colony", dead);
    }
    let followed = lab.run_in(&project, ["logs", "last", "-f"]).expect_code(0);
    let want: String = (0..80).map(|i| format!("line {i}\n")).collect();
    assert_eq!(followed.stdout, want);
    lab.run_in(&project, ["results", "last"]).expect_code(0);
    assert_eq!(read(project.join("cfs/result/count")), "x");
}
