//! Jobs that fail, shout, are cancelled or left alone; a program and a colony that are killed at any moment.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod chaos;
mod lab;

use chaos::Colony;
use chaos::Killed;
use lab::Lab;
use lab::finish;
use lab::until;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// Prints a line every 20 ms, and writes a result at the end.
const STEADY: &str = "\
import os, time
for n in range(150):
    print(f'line {n}', flush=True)
    time.sleep(0.02)
with open(os.path.join(os.environ['PROJECT_DIR'], 'result', 'out.txt'), 'w') as out:
    out.write('whole')
";

fn steady_lines() -> String {
    (0..150).map(|n| format!("line {n}\n")).collect()
}

fn send(pid: u32, signal: i32) {
    // SAFETY: sends a signal to a process of this test.
    let sent = unsafe { libc::kill(pid as libc::pid_t, signal) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
}

/// Starts the program with its output in `<folder>/stdout` and `<folder>/stderr`.
fn start<const N: usize>(lab: &Lab, folder: &Path, arguments: [&str; N]) -> Killed {
    let to = |name: &str| Stdio::from(std::fs::File::create(folder.join(name)).unwrap());
    let mut command = lab.command(arguments);
    Killed(command.current_dir(folder).stdout(to("stdout")).stderr(to("stderr")).spawn().unwrap())
}

fn text(folder: &Path, name: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(folder.join(name)).unwrap_or_default()).into_owned()
}

#[track_caller]
fn expect_end(mut child: Killed, folder: &Path, code: i32) {
    let mut status = None;
    until("the program ends", || {
        status = child.0.try_wait().unwrap();
        status.is_some()
    });
    let ended = status.and_then(|s| s.code());
    assert_eq!(ended, Some(code), "--- stdout\n{}\n--- stderr\n{}", text(folder, "stdout"), text(folder, "stderr"));
}

#[test]
fn a_failing_job_is_told_by_the_exit_code_and_its_partial_result_comes() {
    let lab = Lab::new();
    let python = "\
import os, sys
with open(os.path.join(os.environ['PROJECT_DIR'], 'result', 'partial.txt'), 'w') as out:
    out.write('so far')
print('about to fail')
sys.exit(7)
";
    let folder = lab.project("p", python);
    let ended = lab.run_in(&folder, ["run", "--follow"]).expect_code(3);
    assert_eq!(ended.stdout, "about to fail\n");
    assert_eq!(std::fs::read_to_string(folder.join("cfs/result/partial.txt")).unwrap(), "so far");
}

#[test]
fn a_process_that_is_cancelled_elsewhere_ends_its_follower() {
    let lab = Lab::new();
    let folder = lab.project("p", "import time\nprint('begun', flush=True)\ntime.sleep(90)");
    let follower = start(&lab, &folder, ["run", "--follow"]);
    until("the job has begun", || text(&folder, "stdout").contains("begun"));
    lab.run_in(&folder, ["cancel", "last"]).expect_code(0);
    expect_end(follower, &folder, 3);
    assert!(text(&folder, "stderr").contains("cancelled"), "{}", text(&folder, "stderr"));
}

#[test]
fn ctrl_c_stops_following_only_and_says_how_to_go_on() {
    let lab = Lab::new();
    let folder = lab.project("p", STEADY);
    let follower = start(&lab, &folder, ["run", "--follow"]);
    until("the job prints", || text(&folder, "stdout").contains("line 3\n"));
    send(follower.0.id(), libc::SIGINT);
    expect_end(follower, &folder, 130);
    let told = text(&folder, "stderr");
    assert!(told.contains("goes on") && told.contains("logs -f") && told.contains("cancel"), "{told}");
    let ended = lab.run_in(&folder, ["logs", "-f", "last"]).expect_code(0);
    assert_eq!(ended.stdout, steady_lines());
    lab.run_in(&folder, ["results", "last"]).expect_code(0);
    assert_eq!(std::fs::read_to_string(folder.join("cfs/result/out.txt")).unwrap(), "whole");
}

#[test]
fn a_colony_that_is_killed_during_a_job_comes_back_with_the_job_and_every_line_once() {
    let lab = Lab::new();
    let folder = lab.project("p", STEADY);
    let follower = start(&lab, &folder, ["run", "--follow"]);
    until("the job prints", || text(&folder, "stdout").contains("line 9\n"));
    let running: serde_json::Value =
        serde_json::from_slice(&std::fs::read(lab.state().join("colony/running.json")).unwrap()).unwrap();
    let pid = u32::try_from(running["pid"].as_u64().unwrap()).unwrap();
    send(pid, libc::SIGKILL);
    let ended = lab.run_in(&folder, ["logs", "-f", "last"]).expect_code(0);
    assert_eq!(ended.stdout, steady_lines());
    // Who followed from the start saw all, too, and brought the result home.
    expect_end(follower, &folder, 0);
    assert_eq!(text(&folder, "stdout"), steady_lines());
    assert_eq!(std::fs::read_to_string(folder.join("cfs/result/out.txt")).unwrap(), "whole");
}

#[test]
fn a_run_that_is_killed_at_any_moment_leads_to_no_second_process_for_one_intent() {
    let lab = Lab::new();
    let python = "\
import os, time
time.sleep(0.2)
with open(os.path.join(os.environ['PROJECT_DIR'], 'result', 'out.txt'), 'w') as out:
    out.write('whole')
";
    let folder = lab.project("p", python);
    let colony = Colony::of(&lab);
    let seed = std::process::id();
    println!("seed {seed}");
    let mut random = seed;
    for round in 0..15 {
        std::fs::write(folder.join("cfs/src").join(format!("new{round}.txt")), vec![b'x'; 100_000]).unwrap();
        let child = start(&lab, &folder, ["run", "--follow"]);
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::sleep(Duration::from_millis(u64::from(random >> 16) % 900));
        drop(child); // kill -9
        colony.no_intent_twice("p");
        assert!(colony.processes("p").len() <= round + 1, "round {round}, seed {seed}");
    }
    let before = colony.processes("p").len();
    lab.run_in(&folder, ["run", "--follow"]).expect_code(0);
    assert!(colony.no_intent_twice("p") <= before + 1);
    let there = colony.expect_sound("/pollinator/p/src");
    assert_eq!(there.len(), 16, "{there:?}");
    assert_eq!(std::fs::read_to_string(folder.join("cfs/result/out.txt")).unwrap(), "whole");
    let open = lab.run_in(&folder, ["runs", "--json"]).expect_code(0).json();
    let intents: Vec<_> = open.as_array().unwrap().iter().filter(|run| run["state"] == "intent").collect();
    assert!(intents.is_empty(), "{intents:?}");
}

#[test]
fn a_log_with_binary_bytes_arrives_and_hides_nothing_after_it() {
    let lab = Lab::new();
    let python = "\
import sys
sys.stdout.buffer.write(b'before\\n\\x00\\xff\\xfe\\x80 \\xc3\\n')
sys.stdout.buffer.write('ünï \\U0001f41d\\n'.encode())
sys.stdout.buffer.write(bytes(range(256)) * 2000)
sys.stdout.buffer.write(b'\\nafter\\n')
";
    let folder = lab.project("p", python);
    let ended = lab.run_in(&folder, ["run", "--follow"]).expect_code(0);
    let mut bytes = b"before\n\x00\xff\xfe\x80 \xc3\n".to_vec();
    bytes.extend("ünï \u{1f41d}\n".as_bytes());
    bytes.extend((0..=255u8).collect::<Vec<_>>().repeat(2000));
    bytes.extend(b"\nafter\n");
    let expected = String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}");
    assert!(ended.stdout == expected, "{} bytes instead of {}", ended.stdout.len(), expected.len());
}

#[test]
fn a_log_of_100_mb_arrives_whole_within_bounded_memory() {
    const LINES: usize = 1_000_000;
    let lab = Lab::new();
    let python = "\
import sys
for n in range(1000):
    sys.stdout.write(''.join(f'{n * 1000 + m:09d} ' + 'x' * 89 + '\\n' for m in range(1000)))
";
    let folder = lab.project("p", python);
    // A slow disk may take longer than the usual walltime: each message is written down before it is sent.
    let settings = std::fs::read_to_string(folder.join("project.yaml")).unwrap();
    std::fs::write(folder.join("project.yaml"), settings.replace("walltime: 100", "walltime: 900")).unwrap();
    let mut child = lab.command(["run", "--follow"]);
    child.current_dir(&folder).stdout(Stdio::piped()).stderr(std::fs::File::create(folder.join("stderr")).unwrap());
    let mut child = Killed(child.spawn().unwrap());
    let (mut peak, mut seen) = (0, 0);
    let (mut line, mut out) = (Vec::new(), std::io::BufReader::with_capacity(1 << 20, child.0.stdout.take().unwrap()));
    let mut bytes = vec![0; 1 << 20];
    loop {
        let n = out.read(&mut bytes).unwrap();
        if n == 0 {
            break;
        }
        for byte in &bytes[..n] {
            line.push(*byte);
            if *byte == b'\n' {
                assert!(
                    line == format!("{seen:09} {}\n", "x".repeat(89)).as_bytes(),
                    "line {seen}: {}",
                    String::from_utf8_lossy(&line)
                );
                seen += 1;
                line.clear();
            }
        }
        peak = peak.max(peak_memory_kib(child.0.id()));
    }
    expect_end(child, &folder, 0);
    assert_eq!((seen, line.len()), (LINES, 0));
    assert!(peak > 0 && peak < 300 * 1024, "the client took {peak} KiB");
}

/// VmHWM; 0 where the process has ended.
fn peak_memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[test]
fn what_is_printed_right_before_the_end_is_shown() {
    let lab = Lab::new();
    let python = "\
import os, sys
sys.stdout.write(''.join(f'last {n}\\n' for n in range(300)))
sys.stdout.flush()
os._exit(0)
";
    let folder = lab.project("p", python);
    let ended = finish({
        let mut command = lab.command(["run", "--follow"]);
        command.current_dir(&folder);
        command
    })
    .expect_code(0);
    assert_eq!(ended.stdout, (0..300).map(|n| format!("last {n}\n")).collect::<String>());
}
