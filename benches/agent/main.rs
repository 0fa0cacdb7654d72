//! The agent beside programs that do the same: how long a save takes to its place, what watching costs. See docs/benchmarks.md;
//! `scripts/bench.sh agent` brings what this needs and runs it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // What cannot be set up ends the measurement.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program that talks to a person.

mod home;
mod peer;

use clap::Parser;
use home::Home;
use home::Usage;
use pollinator::colonies::ProcessFilter;
use pollinator::colonies::ProcessState;
use sha2::Digest;
use sha2::Sha256;
use std::fs;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

#[derive(Parser)]
#[command(name = "agent", about = "Measures the agent beside its peers")]
struct Arguments {
    /// Only these
    cases: Vec<Case>,
    /// All sizes times this: 0.01 is a smoke run
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// How often a save is measured
    #[arg(long, default_value_t = 40)]
    saves: u32,
    /// How long idleness is watched, seconds
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    /// From a save to its place
    Saves,
    /// A large tree
    Tree,
    /// Many saves
    Day,
}

/// The quiet time that projects here ask for, milliseconds: the default.
const QUIET: u64 = 300;

fn main() {
    let arguments = Arguments::parse();
    // `cargo test --all-targets` compiles and starts benchmarks without this.
    if !arguments.bench {
        return;
    }
    pollinator::net::install_crypto_provider();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let wanted = |case| arguments.cases.is_empty() || arguments.cases.contains(&case);
        if wanted(Case::Saves) {
            saves(&arguments).await;
        }
        if wanted(Case::Tree) {
            tree(&arguments).await;
        }
        if wanted(Case::Day) {
            long_day(&arguments).await;
        }
    });
}

/// From a save to the bytes and their row in the colony, and to a submitted process.
async fn saves(arguments: &Arguments) {
    let home = Home::new();
    let project = home.project("saves", "sync");
    home.agent(&["start"]);
    home.watch(&project);
    let mut stored = Vec::new();
    for number in 0..arguments.saves {
        stored.push(save_to_stored(&home, &project, number).await);
    }
    report("save of 4 KiB to stored and registered", &mut stored, QUIET);
    let beside = peer::saves(&home, arguments.saves).await;
    if let Some(mut times) = beside {
        report("the same by watchman and rclone (stored; 20 ms quiet)", &mut times, 20);
    }
    let running = home.project("runs", "run");
    home.watch(&running);
    let mut submitted = Vec::new();
    for number in 0..arguments.saves.min(20) {
        submitted.push(save_to_submitted(&home, &running, number).await);
    }
    report("save to submitted process", &mut submitted, QUIET);
    let mut commands = Vec::new();
    for _ in 0..arguments.saves.min(20) {
        commands.push(home.run_command(&project));
    }
    report("`pollinator run` with nothing changed, the whole command", &mut commands, 0);
}

async fn save_to_stored(home: &Home, project: &Path, number: u32) -> Duration {
    let bytes = vec![b'a' + (number % 26) as u8; 4095].into_iter().chain([number as u8]).collect::<Vec<u8>>();
    let checksum = hex::encode(Sha256::digest(&bytes));
    let label = format!("/pollinator/{}/src", home::name(project));
    let client = home.client();
    let began = Instant::now();
    fs::write(project.join("cfs/src/file"), &bytes).unwrap();
    loop {
        let row = client.latest_file(&label, "file").await.unwrap();
        if row.is_some_and(|row| row.checksum == checksum) {
            return began.elapsed();
        }
        assert!(began.elapsed() < Duration::from_secs(30), "not stored");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn save_to_submitted(home: &Home, project: &Path, number: u32) -> Duration {
    let count = || async {
        let mut all = 0;
        for state in [ProcessState::Waiting, ProcessState::Running, ProcessState::Success, ProcessState::Failed] {
            all += home.client().processes(state, 100, &ProcessFilter::None).await.unwrap().len();
        }
        all
    };
    home.until_quiet(project).await;
    let before = count().await;
    let began = Instant::now();
    fs::write(project.join("cfs/src/file"), format!("{number}")).unwrap();
    while count().await == before {
        assert!(began.elapsed() < Duration::from_secs(30), "not submitted");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    began.elapsed()
}

/// A large tree: how soon it is watched, what it costs while nothing happens, what a run and a change of much of it take.
async fn tree(arguments: &Arguments) {
    let home = Home::new();
    let project = home.project("tree", "sync");
    let folders = (10_000.0 * arguments.scale).max(10.0) as u32;
    for folder in 0..folders {
        let folder = project.join(format!("cfs/src/{}/{}", folder / 100, folder % 100));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..10 {
            fs::write(folder.join(format!("f{file}")), format!("{folder:?} {file}")).unwrap();
        }
    }
    println!("\n{} files in {folders} folders", folders * 10);
    home.sync(&project);
    let find = fastest(3, || {
        let began = Instant::now();
        home::command("find", &[project.to_str().unwrap(), "-printf", "%s %T@\n"]);
        began.elapsed()
    });
    home.agent(&["start"]);
    let began = Instant::now();
    home.agent(&["add", project.to_str().unwrap()]);
    home.until(&project, |status| status["watcher"]["kind"] == "events").await;
    let watched = began.elapsed();
    home.until_quiet(&project).await;
    println!(
        "watched after {} ({:.1} × find, {}); in step after {}",
        ms(watched),
        ratio(watched, find),
        ms(find),
        ms(began.elapsed())
    );
    println!("memory after the first look: {}", home.usage());
    home.agent(&["restart"]);
    home.until_quiet(&project).await;
    let before = home.usage();
    tokio::time::sleep(Duration::from_secs(arguments.idle)).await;
    let after = home.usage();
    let cpu = (after.cpu - before.cpu).as_secs_f64() / arguments.idle as f64 * 100.0;
    println!("idle for {} s: {cpu:.3} % of a core; {after}", arguments.idle);
    home.run_command(&project);
    let mut commands: Vec<Duration> = (0..10).map(|_| home.run_command(&project)).collect();
    report("`pollinator run` with nothing changed in it, the whole command", &mut commands, 0);
    // The runs end first: being quiet waits for them, too.
    home.until_quiet(&project).await;
    let changed = (folders * 10).min(10_000);
    for number in 0..changed / 10 {
        let folder = project.join(format!("cfs/src/{}/{}", number / 100, number % 100));
        for file in 0..10 {
            fs::write(folder.join(format!("f{file}")), format!("changed {number} {file}")).unwrap();
        }
    }
    let began = Instant::now();
    home.until_quiet(&project).await;
    println!("{changed} files changed at once: in step after {}; {}", ms(began.elapsed()), home.usage());
    let mut stored = Vec::new();
    for number in 0..arguments.saves.min(20) {
        stored.push(save_to_stored(&home, &project, number).await);
    }
    report("save of 4 KiB in it to stored and registered", &mut stored, QUIET);
}

/// As many events as a long day has.
async fn long_day(arguments: &Arguments) {
    let home = Home::new();
    let project = home.project("day", "sync");
    home.agent(&["start"]);
    home.watch(&project);
    let events = (100_000.0 * arguments.scale) as u32;
    let mut at = Vec::new();
    for number in 0..events {
        fs::write(project.join(format!("cfs/data/{}", number % 500)), number.to_string()).unwrap();
        // Each hundred is a change set of its own.
        if (number + 1) % 100 == 0 {
            home.until_quiet(&project).await;
        }
        if (number + 1) % (events / 5).max(1) == 0 {
            home.until_quiet(&project).await;
            at.push(home.usage());
        }
    }
    println!("\na day of {events} saves, memory after each fifth:");
    at.iter().for_each(|usage: &Usage| println!("  {usage}"));
}

fn report(what: &str, times: &mut [Duration], quiet: u64) {
    times.sort();
    let median = times[times.len() / 2];
    let most = times[times.len() * 9 / 10];
    let above = median.saturating_sub(Duration::from_millis(quiet));
    let beyond = if quiet > 0 { format!(" = {quiet} ms quiet + {}", ms(above)) } else { String::new() };
    println!("{what}: median {}{beyond}; nine of ten within {}", ms(median), ms(most));
}

fn fastest(times: u32, mut each: impl FnMut() -> Duration) -> Duration {
    (0..times).map(|_| each()).min().unwrap()
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1000.0)
}
