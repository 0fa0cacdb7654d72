//! Servers that are not there, are not what they should be, or vanish on the way; keys and names that are wrong.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod chaos;
mod lab;

use chaos::Colony;
use chaos::Failing;
use chaos::Lost;
use chaos::Proxy;
use lab::Ended;
use lab::Lab;
use lab::finish;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

const HELLO: &str = "\
import os
print('hello')
with open(os.path.join(os.environ['PROJECT_DIR'], 'result', 'out.txt'), 'w') as out:
    out.write('whole')
";

/// Panics unless it ended in this time.
#[track_caller]
fn within(seconds: u64, work: impl FnOnce() -> Ended) -> Ended {
    let begin = Instant::now();
    let ended = work();
    assert!(begin.elapsed() < Duration::from_secs(seconds), "took {:?}: {}", begin.elapsed(), ended.all());
    ended
}

#[test]
fn a_strangers_key_is_refused_before_anything_is_uploaded() {
    let lab = Lab::new();
    let folder = lab.project("p", HELLO);
    let colony = Colony::of(&lab);
    let stranger = colony.clone().with("COLONIES_PRVKEY", "ab".repeat(32));
    let ended = finish(stranger.command(&lab, &folder, ["run", "--follow"])).expect_code(1);
    assert!(ended.stderr.contains("COLONIES_PRVKEY"), "{}", ended.stderr);
    assert!(colony.is_empty() && colony.processes("p").is_empty());
}

#[test]
fn an_unknown_executor_is_refused_with_those_that_there_are() {
    let lab = Lab::new();
    let folder = lab.project("p", HELLO);
    let settings = std::fs::read_to_string(folder.join("project.yaml")).unwrap().replace("- local", "- lumi-small");
    std::fs::write(folder.join("project.yaml"), settings).unwrap();
    let ended = lab.run_in(&folder, ["run", "--follow"]).expect_code(2);
    assert!(ended.stderr.contains("lumi-small") && ended.stderr.contains("local"), "{}", ended.stderr);
    let available = ended.stderr.lines().any(|line| line.contains("local") && !line.contains("lumi-small"));
    assert!(available, "does not say which there are: {}", ended.stderr);
    let colony = Colony::of(&lab);
    assert!(colony.is_empty() && colony.processes("p").is_empty());
}

#[test]
fn a_server_that_is_down_is_told_in_bounded_time() {
    let lab = Lab::new();
    let folder = lab.project("p", HELLO);
    let colony = Colony::of(&lab);
    let down = colony.clone().with("COLONIES_SERVER_PORT", chaos::closed_port());
    let ended = within(60, || finish(down.command(&lab, &folder, ["run", "--follow"]))).expect_code(4);
    assert!(ended.stderr.contains("cannot reach") && ended.stderr.contains("COLONIES_SERVER_PORT"), "{}", ended.stderr);
    assert!(colony.is_empty());
}

#[test]
fn a_store_that_is_down_is_told_in_bounded_time_and_nothing_is_submitted() {
    let lab = Lab::new();
    let folder = lab.project("p", HELLO);
    let colony = Colony::of(&lab);
    let down = colony.clone().with("AWS_S3_ENDPOINT", format!("127.0.0.1:{}", chaos::closed_port()));
    let ended = within(60, || finish(down.command(&lab, &folder, ["run", "--follow"]))).expect_code(4);
    assert!(ended.stderr.contains("object store"), "{}", ended.stderr);
    assert!(colony.is_empty() && colony.processes("p").is_empty());
}

#[test]
fn a_store_that_refuses_is_told_with_the_variable_and_nothing_is_submitted() {
    let lab = Lab::new();
    let folder = lab.project("p", HELLO);
    let colony = Colony::of(&lab);
    let wrong = colony.clone().with("AWS_S3_SECRETKEY", "not-the-secret");
    let ended = finish(wrong.command(&lab, &folder, ["run", "--follow"])).expect_code(1);
    assert!(ended.stderr.contains("AWS_S3_SECRETKEY"), "{}", ended.stderr);
    assert!(!ended.all().contains("not-the-secret"), "{}", ended.all());
    assert!(colony.is_empty() && colony.processes("p").is_empty());
}

#[test]
fn servers_that_are_something_else_are_told_apart() {
    let lab = Lab::new();
    let folder = lab.project("p", HELLO);
    let colony = Colony::of(&lab);
    let web = chaos::server(chaos::web_page);
    let server = colony.clone().with("COLONIES_SERVER_PORT", web);
    let ended = within(60, || finish(server.command(&lab, &folder, ["run", "--follow"]))).expect_code(1);
    assert!(ended.stderr.contains("not understood") && ended.stderr.contains("really a Colonies server"), "{}", ended.stderr);
    let store = colony.clone().with("AWS_S3_ENDPOINT", format!("127.0.0.1:{web}"));
    let ended = within(60, || finish(store.command(&lab, &folder, ["run", "--follow"])));
    assert!(matches!(ended.code, Some(1 | 4)), "{}", ended.all());
    assert!(ended.stderr.contains(&web.to_string()), "{}", ended.stderr);
    assert!(colony.is_empty() && colony.processes("p").is_empty());
}

#[test]
fn servers_that_keep_silent_are_given_up_in_bounded_time() {
    let lab = Lab::new();
    let folder = lab.project("p", HELLO);
    let colony = Colony::of(&lab).with("POLLINATOR_TIMEOUT", 1);
    let silent = chaos::server(chaos::silence);
    let server = colony.clone().with("COLONIES_SERVER_PORT", silent);
    let ended = within(90, || finish(server.command(&lab, &folder, ["run", "--follow"]))).expect_code(4);
    assert!(ended.stderr.contains("did not answer"), "{}", ended.stderr);
    let store = colony.clone().with("AWS_S3_ENDPOINT", format!("127.0.0.1:{silent}"));
    let ended = within(90, || finish(store.command(&lab, &folder, ["run", "--follow"]))).expect_code(4);
    assert!(ended.stderr.contains("object store"), "{}", ended.stderr);
    assert!(colony.is_empty() && colony.processes("p").is_empty());
}

#[test]
fn a_lost_submission_is_made_once_within_the_same_run() {
    let lab = Lab::new();
    let colony = Colony::of(&lab);
    for (name, lost) in [("request", Lost::Request), ("answer", Lost::Answer)] {
        let folder = lab.project(name, HELLO);
        let proxy = Proxy::new(colony.port(), Failing::Once("submitfuncspecmsg"), lost);
        let through = colony.clone().with("COLONIES_SERVER_PORT", proxy.port);
        finish(through.command(&lab, &folder, ["run", "--follow"])).expect_code(0);
        assert!(proxy.is_spent(), "the submission was not seen");
        assert_eq!(colony.processes(name).len(), 1, "{lost:?}");
        assert_eq!(std::fs::read_to_string(folder.join("cfs/result/out.txt")).unwrap(), "whole");
    }
}

#[test]
fn a_server_that_vanishes_at_any_step_leads_to_no_second_process_and_the_next_run_succeeds() {
    let lab = Lab::new();
    let colony = Colony::of(&lab);
    let all = {
        let folder = lab.project("unhindered", HELLO);
        let proxy = Proxy::new(colony.port(), Failing::Never, Lost::Request);
        let through = colony.clone().with("COLONIES_SERVER_PORT", proxy.port);
        finish(through.command(&lab, &folder, ["run", "--follow"])).expect_code(0);
        proxy.requests()
    };
    assert!((5..100).contains(&all), "a run takes {all} requests");
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                loop {
                    let step = next.fetch_add(1, Ordering::SeqCst);
                    if step >= 2 * all {
                        return;
                    }
                    vanish_at(&lab, &colony, step / 2, if step.is_multiple_of(2) { Lost::Request } else { Lost::Answer });
                }
            });
        }
    });
}

fn vanish_at(lab: &Lab, colony: &Colony, step: usize, lost: Lost) {
    let name = format!("step{step}-{lost:?}").to_lowercase();
    let folder = lab.project(&name, HELLO);
    let proxy = Proxy::new(colony.port(), Failing::From(step), lost);
    let through = colony.clone().with("COLONIES_SERVER_PORT", proxy.port);
    let told = folder.join("stderr");
    let mut command = through.command(lab, &folder, ["run", "--follow"]);
    command.stdout(Stdio::null()).stderr(std::fs::File::create(&told).unwrap());
    let mut child = chaos::Killed(command.spawn().unwrap());
    let said = || std::fs::read_to_string(&told).unwrap_or_default();
    // It gives up, or it follows already and waits for the server.
    let mut status = None;
    let begin = Instant::now();
    let waits = || said().contains("waiting for the server") || said().contains("could not be read");
    while status.is_none() && !waits() {
        assert!(begin.elapsed() < lab::PATIENCE, "step {step}, {lost:?}: neither gives up nor waits\n{}", said());
        std::thread::sleep(Duration::from_millis(20));
        status = child.0.try_wait().unwrap();
    }
    let ended_before = status.is_some();
    assert!(colony.processes(&name).len() <= 1, "step {step}: submitted twice");
    proxy.heal();
    lab::until(&format!("step {step}, {lost:?}: goes on when the server is back: {}", said()), || {
        status = child.0.try_wait().unwrap();
        status.is_some()
    });
    let code = status.and_then(|s| s.code());
    // What gives up says that nobody answers; what waited ends well.
    let right = if ended_before { matches!(code, Some(0 | 4)) } else { code == Some(0) };
    assert!(right, "step {step}, {lost:?}: exit {code:?}\n{}", said());
    assert!(colony.processes(&name).len() <= 1, "step {step}: submitted twice");
    let ended = finish(through.command(lab, &folder, ["run", "--follow"]));
    assert_eq!(ended.code, Some(0), "step {step}, {lost:?}: {}", ended.all());
    expect_result(&folder);
    assert!(colony.no_intent_twice(&name) <= 2, "step {step}");
}

#[track_caller]
fn expect_result(folder: &Path) {
    assert_eq!(std::fs::read_to_string(folder.join("cfs/result/out.txt")).unwrap(), "whole");
}
