//! An executor on a real Slurm, beside Slurm's own programs: how soon a process is a job, how soon a line of its log is with the
//! reader, what an idle executor and one with many running jobs take. See docs/benchmarks.md; `scripts/bench.sh executor` brings what
//! this needs and runs it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // What cannot be set up ends the measurement.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program that talks to a person.

#[path = "../agent/home.rs"]
mod home;
#[path = "../peers/proxy.rs"]
#[allow(dead_code)] // Here nothing is slow.
mod proxy;
mod service;
#[path = "../../tests/common/slurm.rs"]
mod slurm;

use clap::Parser;
use home::Home;
use pollinator::colonies::Process;
use pollinator::colonies::ProcessFilter;
use pollinator::colonies::ProcessState;
use service::Service;
use slurm::Slurm;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

#[derive(Parser)]
#[command(name = "executor", about = "Measures an executor on a Slurm cluster of this machine")]
struct Arguments {
    /// Only these
    cases: Vec<Case>,
    /// How often a run is measured
    #[arg(long, default_value_t = 20)]
    runs: u32,
    /// Lines of a log
    #[arg(long, default_value_t = 60)]
    lines: u32,
    /// How long idleness and running jobs are watched, seconds
    #[arg(long, default_value_t = 120)]
    watch: u64,
    /// Files of a project of which one changes
    #[arg(long, default_value_t = 10_000)]
    files: u32,
    /// Jobs that run at once
    #[arg(long, default_value_t = 1000)]
    jobs: u32,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    /// From a process to its job and to its end
    Way,
    /// From one changed file among many to the job that sees it
    Files,
    /// From a person's wish to the end of a job
    Cancel,
    /// From a line in a job to its reader
    Log,
    /// Nothing to do
    Idle,
    /// Many running jobs
    Many,
}

/// The cluster's executor. It asks Slurm at most so often, seconds.
const INTERVAL: u64 = 10;

fn main() {
    let arguments = Arguments::parse();
    // `cargo test --all-targets` compiles and starts benchmarks without this.
    if !arguments.bench {
        return;
    }
    pollinator::net::install_crypto_provider();
    let cluster = Slurm::start(8);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let wanted = |case| arguments.cases.is_empty() || arguments.cases.contains(&case);
        if wanted(Case::Way) {
            way(&arguments, &cluster).await;
        }
        if wanted(Case::Files) {
            files(&arguments, &cluster).await;
        }
        if wanted(Case::Cancel) {
            cancel(&arguments, &cluster).await;
        }
        if wanted(Case::Log) {
            log(&arguments, &cluster).await;
        }
        if wanted(Case::Idle) {
            idle(&arguments, &cluster).await;
        }
        if wanted(Case::Many) {
            many(&arguments).await;
        }
    });
}

/// A project whose files are with the executor already: from the assignment to the call of `sbatch`, and the whole way of a job
/// that does nothing, beside `sbatch --wait`.
async fn way(arguments: &Arguments, cluster: &Slurm) {
    let home = Home::new();
    let service = Service::start(&home, cluster, 4).await;
    let project = project(&home, "way", "true", "");
    let mut whole = Vec::new();
    // The first brings the files.
    run(&home, &project, &["--follow"]);
    let first = service.calls("sbatch").len();
    for _ in 0..arguments.runs {
        let began = Instant::now();
        run(&home, &project, &["--follow"]);
        whole.push(began.elapsed());
    }
    let mut assigned: Vec<Duration> = ended(&home, arguments.runs as usize + 1).await.iter().map(started).collect();
    assigned.sort();
    let calls = service.calls("sbatch");
    assert_eq!((first, calls.len()), (1, assigned.len()), "one call for each process");
    let mut to_sbatch: Vec<Duration> = calls.iter().zip(&assigned).skip(1).map(|(call, at)| call.saturating_sub(*at)).collect();
    report("assignment to the call of `sbatch`, files there already", &mut to_sbatch);
    report("`pollinator run --follow` of a job that does nothing", &mut whole);
    let mut peer: Vec<Duration> = (0..arguments.runs.min(5)).map(|_| sbatch_and_wait(&home, cluster)).collect();
    report("peer: `sbatch --wait` of the same", &mut peer);
    println!("  ratio of the medians: {:.2}", whole[whole.len() / 2].as_secs_f64() / peer[peer.len() / 2].as_secs_f64());
}

fn sbatch_and_wait(home: &Home, cluster: &Slurm) -> Duration {
    let began = Instant::now();
    let words = ["--wait", "--quiet", "--account=lab", "--output=/dev/null", "--wrap=srun true"];
    let done = home.command("sbatch", &words).env("SLURM_CONF", cluster.root().join("slurm.conf")).status().unwrap();
    assert!(done.success());
    began.elapsed()
}

/// A project with many files in `data`, of which one is changed before each run: from the assignment to the call of `sbatch`, and what
/// the executor moves for it, beside `rsync` of the same tree after the same change.
async fn files(arguments: &Arguments, cluster: &Slurm) {
    let home = Home::new();
    let service = Service::start(&home, cluster, 4).await;
    let project = project(&home, "files", "true", "");
    let data = project.join("cfs/data");
    for n in 0..arguments.files {
        let folder = data.join(format!("sub{}", n / 500));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("f{n}")), format!("{n} {}", "x".repeat(1000))).unwrap();
    }
    run(&home, &project, &["--follow"]);
    let copy = home.path().join("copy");
    rsync(&home, &data, &copy);
    let (first, runs) = (service.calls("sbatch").len(), arguments.runs.min(5));
    let (mut peer, mut moved) = (Vec::new(), Vec::new());
    for n in 0..runs {
        std::fs::write(data.join("sub0/f1"), format!("changed {n}")).unwrap();
        service.traffic();
        service.objects();
        run(&home, &project, &["--follow"]);
        moved.push((service.traffic(), service.objects()));
        peer.push(rsync(&home, &data, &copy));
    }
    let mut assigned: Vec<Duration> = ended(&home, runs as usize + 1).await.iter().map(started).collect();
    assigned.sort();
    let calls = service.calls("sbatch");
    assert_eq!((first, calls.len()), (1, assigned.len()), "one call for each process");
    let mut times: Vec<Duration> = calls.iter().zip(&assigned).skip(1).map(|(call, at)| call.saturating_sub(*at)).collect();
    report(&format!("assignment to the call of `sbatch`, one of {} files changed", arguments.files), &mut times);
    report("peer: `rsync -a` of the tree after the same change", &mut peer);
    let (colony, store) = &moved[moved.len() / 2];
    println!("  ratio of the medians: {:.2}", times[times.len() / 2].as_secs_f64() / peer[peer.len() / 2].as_secs_f64());
    println!(
        "  a run takes {:.1} KiB in {} requests from and to the colony, {:.1} KiB in {} from and to the store; {}",
        (colony.up + colony.down) as f64 / 1024.0,
        colony.answers,
        (store.up + store.down) as f64 / 1024.0,
        store.answers,
        service.usage()
    );
}

fn rsync(home: &Home, from: &Path, to: &Path) -> Duration {
    let from = format!("{}/", from.display());
    let began = Instant::now();
    let done = home.command("rsync", &["-a", "--delete", &from, to.to_str().unwrap()]).status().unwrap();
    assert!(done.success());
    began.elapsed()
}

/// A running job: from the start of `pollinator cancel` to the call of `scancel`, and until no job runs in Slurm.
async fn cancel(arguments: &Arguments, cluster: &Slurm) {
    let home = Home::new();
    let service = Service::start(&home, cluster, 4).await;
    let project = project(&home, "cancel", "sleep 100000", "");
    let running = || {
        let words = ["--noheader", "--states=RUNNING,COMPLETING"];
        let queue = home.command("squeue", &words).env("SLURM_CONF", cluster.root().join("slurm.conf")).output().unwrap();
        assert!(queue.status.success());
        !queue.stdout.is_empty()
    };
    let wait = async |wanted: bool| {
        let began = Instant::now();
        while running() != wanted {
            assert!(began.elapsed() < Duration::from_secs(120), "it does not come to that jobs run: {wanted}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (mut told, mut over) = (Vec::new(), Vec::new());
    for _ in 0..arguments.runs.min(10) {
        let id = run(&home, &project, &[]);
        wait(true).await;
        let (before, began) = (service.calls("scancel").len(), now());
        let done = home.run(env!("CARGO_BIN_EXE_pollinator"), &["cancel", "-C", project.to_str().unwrap(), &id]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        wait(false).await;
        over.push(now() - began);
        told.push(service.calls("scancel")[before] - began);
    }
    report("`pollinator cancel` to the call of `scancel`", &mut told);
    report("`pollinator cancel` until no job runs", &mut over);
}

/// Each line of the job says when it was written; the reader is `pollinator logs --follow`. Beside it `tail -F` of the same output.
async fn log(arguments: &Arguments, cluster: &Slurm) {
    let home = Home::new();
    let service = Service::start(&home, cluster, 4).await;
    let clock = format!("for i in $(seq {}); do echo $EPOCHREALTIME; sleep 0.$((RANDOM % 5 + 3)); done\n", arguments.lines);
    let project = project(&home, "log", "bash", &clock);
    let id = run(&home, &project, &[]);
    let output = service.output_of(&id).await;
    let mut peer = Command::new("tail");
    let peer = times_of(peer.args(["-F", "-n", "+1"]).arg(output), arguments.lines, true);
    let mut reader = home.command(env!("CARGO_BIN_EXE_pollinator"), &["logs", "--follow", &id]);
    let mut times = times_of(&mut reader, arguments.lines, false).join().unwrap();
    let mut peer = peer.join().unwrap();
    report("a line of a job to `pollinator logs --follow`", &mut times);
    report("peer: to `tail -F` on the login node", &mut peer);
}

/// How long after they were written the lines of a program come, but for those that were there before it came.
fn times_of(command: &mut Command, lines: u32, kill: bool) -> std::thread::JoinHandle<Vec<Duration>> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let began = now();
    std::thread::spawn(move || {
        let written = output.lines().map_while(Result::ok).filter_map(|line| Some((seconds(&line)?, now())));
        let all: Vec<(Duration, Duration)> = written.take(lines as usize).collect();
        if kill {
            child.kill().unwrap();
        }
        child.wait().unwrap();
        assert_eq!(all.len(), lines as usize, "every line came");
        all.into_iter().filter(|(at, _)| *at > began).map(|(at, seen)| seen.saturating_sub(at)).collect()
    })
}

/// A service with nothing to do.
async fn idle(arguments: &Arguments, cluster: &Slurm) {
    let home = Home::new();
    let service = Service::start(&home, cluster, 100).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = service.usage();
    service.traffic();
    tokio::time::sleep(Duration::from_secs(arguments.watch)).await;
    let (after, traffic) = (service.usage(), service.traffic());
    let cpu = (after.cpu - before.cpu).as_secs_f64() / arguments.watch as f64 * 100.0;
    println!("idle for {} s: {after}; {cpu:.3} % of a core", arguments.watch);
    println!(
        "  {} connections to the colony, {:.1} requests a minute, {:.1} KiB a minute; {} calls of Slurm's programs",
        service.connections(),
        traffic.answers as f64 * 60.0 / arguments.watch as f64,
        (traffic.up + traffic.down) as f64 / 1024.0 * 60.0 / arguments.watch as f64,
        service.all_calls()
    );
    println!("  peer: slurmd of a node of this cluster takes {}", service::slurmd(cluster));
}

/// Many jobs that run.
async fn many(arguments: &Arguments) {
    let home = Home::new();
    let service = Service::start_beside_stand_ins(&home, arguments.jobs).await;
    let project = project(&home, "many", "sleep 100000", "");
    let began = Instant::now();
    run(&home, &project, &["--processes", &arguments.jobs.to_string()]);
    while service.jobs() < arguments.jobs {
        assert!(began.elapsed() < Duration::from_secs(1800), "{} of {} jobs run", service.jobs(), arguments.jobs);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("{} jobs run after {:.0} s", arguments.jobs, began.elapsed().as_secs_f64());
    // What is told once to the colony of each is told.
    service.until_calm().await;
    let (before, asked) = (service.usage(), service.calls("squeue").len());
    service.traffic();
    tokio::time::sleep(Duration::from_secs(arguments.watch)).await;
    let (after, traffic, asked) = (service.usage(), service.traffic(), service.calls("squeue").len() - asked);
    let percent = |span: Duration| span.as_secs_f64() / arguments.watch as f64 * 100.0;
    println!(
        "watched for {} s: {:.2} % of a core, and {:.2} % in the stand-in of `squeue`; {after}",
        arguments.watch,
        percent(after.cpu - before.cpu),
        percent(after.children - before.children)
    );
    println!(
        "  {:.2} questions to Slurm an interval of {INTERVAL} s; {:.1} requests a second to the colony, {:.1} KiB a second",
        asked as f64 * INTERVAL as f64 / arguments.watch as f64,
        traffic.answers as f64 / arguments.watch as f64,
        (traffic.up + traffic.down) as f64 / 1024.0 / arguments.watch as f64
    );
}

/// A project for the cluster.
fn project(home: &Home, name: &str, cmd: &str, source: &str) -> PathBuf {
    let folder = home.project(name, "off");
    let file = folder.join("project.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut text = text.replace("- local", &format!("- {}", service::NAME)).replace("cmd: \"true\"", &format!("cmd: {cmd}"));
    text = text.replace("walltime: 100\n", "walltime: 100000\n");
    if !source.is_empty() {
        std::fs::write(folder.join("cfs/src/script"), source).unwrap();
        text = text.replace(&format!("cmd: {cmd}"), &format!("cmd: {cmd}\n  source: script"));
    }
    std::fs::write(file, text).unwrap();
    folder
}

/// Runs a project; gives the last process's id.
fn run(home: &Home, project: &Path, more: &[&str]) -> String {
    let words = ["run", "-C", project.to_str().unwrap()];
    let output = home.run(env!("CARGO_BIN_EXE_pollinator"), &[&words, more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let id = said.split(|c: char| !c.is_ascii_hexdigit()).rfind(|word| word.len() == 64);
    id.unwrap_or_else(|| panic!("no process id in {said}")).to_owned()
}

async fn ended(home: &Home, count: usize) -> Vec<Process> {
    let ended = home.client().processes(ProcessState::Success, 100, &ProcessFilter::None).await.unwrap();
    assert_eq!(ended.len(), count);
    ended
}

/// When it was assigned, since 1970.
fn started(process: &Process) -> Duration {
    let nanos = process.starttime.get().unwrap().as_nanosecond();
    Duration::from_nanos(u64::try_from(nanos).unwrap())
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// Bash's `$EPOCHREALTIME`, whatever stands for the decimal point.
fn seconds(text: &str) -> Option<Duration> {
    let (whole, micros) = text.split_once(['.', ','])?;
    Some(Duration::from_secs(whole.parse().ok()?) + Duration::from_micros(micros.parse().ok().filter(|_| micros.len() == 6)?))
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let ms = |at: usize| times[at].as_secs_f64() * 1000.0;
    println!(
        "{what}: median {:.1} ms; nine of ten within {:.1} ms; of {}",
        ms(times.len() / 2),
        ms(times.len() * 9 / 10),
        times.len()
    );
}
