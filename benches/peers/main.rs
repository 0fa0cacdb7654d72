//! Pollinator beside programs that do the same, on one machine and over loopback: time, memory and bytes. See
//! docs/benchmarks.md; `scripts/bench.sh` brings what this needs and runs it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // What cannot be set up ends the measurement.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program that talks to a person.
#![allow(unsafe_code)] // wait4 has no safe form.

mod cases;
mod launch;
mod proxy;
mod report;
mod stage;
mod tree;
#[path = "../../tests/common/weed.rs"]
mod weed;

use cases::Case;
use cases::Options;
use clap::Parser;
use clap::ValueEnum;
use proxy::Shape;
use stage::Tool;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

#[derive(Parser)]
#[command(name = "peers", about = "Measures pollinator beside its peers")]
struct Arguments {
    /// Only these cases
    cases: Vec<Case>,
    /// All sizes times this: 0.01 is a smoke run
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Only these programs
    #[arg(long, value_delimiter = ',', default_value = "pollinator,rclone,s5cmd")]
    tools: Vec<String>,
    /// Also the Go program of the same name, which lies here
    #[arg(long, value_name = "PATH")]
    go_pollinator: Option<PathBuf>,
    /// How often quick cases are measured; the table has the fastest run
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// The slow uplink, in megabits a second
    #[arg(long, default_value_t = 100.0)]
    uplink: f64,
    /// The long way there and back, in milliseconds
    #[arg(long, default_value_t = 20)]
    round_trip: u64,
    /// After this many minutes nothing more is begun, and what runs is ended
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Also write everything as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut given = std::env::args_os().skip(1).peekable();
    if given.peek().is_some_and(|word| word == launch::WORD) {
        given.next();
        launch::in_between(given);
        return ExitCode::SUCCESS;
    }
    if !std::env::args().any(|word| word == "--bench") {
        println!("nothing is measured: this is for `cargo bench` (scripts/bench.sh)");
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    let options = options(&arguments);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut report = report::Report::default();
    runtime.block_on(cases::all(&options, &mut report));
    report.finish();
    println!("{}", report.table());
    if let Some(path) = &arguments.json {
        let all = serde_json::json!({
            "large": options.large, "files": options.files, "warm": options.warm, "repeat": options.repeat,
            "slow": options.slow, "far": options.far, "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "report": report,
        });
        std::fs::write(path, serde_json::to_vec_pretty(&all).unwrap()).unwrap();
    }
    if report.is_wrong() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn options(arguments: &Arguments) -> Options {
    let part = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".test-parts").join(name);
        assert!(path.is_file(), "{name} is missing ({}): run scripts/bench.sh, or scripts/parts.sh peers", path.display());
        path
    };
    let tool = |name: &String| match name.as_str() {
        "pollinator" => Tool::Pollinator,
        "rclone" => Tool::Rclone(part("rclone")),
        "s5cmd" => Tool::S5cmd(part("s5cmd")),
        other => panic!("no such program: {other} (there are pollinator, rclone, s5cmd)"),
    };
    let mut tools: Vec<Tool> = arguments.tools.iter().map(tool).collect();
    tools.extend(arguments.go_pollinator.clone().map(Tool::GoPollinator));
    let scaled = |size: u64, least: u64| ((size as f64 * arguments.scale) as u64).max(least);
    let slow = Shape { uplink_mbit: Some(arguments.uplink), round_trip_ms: 0 };
    Options {
        cases: if arguments.cases.is_empty() { Case::value_variants().to_vec() } else { arguments.cases.clone() },
        tools,
        large: scaled(1 << 30, 1 << 20),
        files: scaled(10_000, 20),
        warm: scaled(100_000, 100),
        repeat: arguments.repeat.max(1),
        slow,
        far: Shape { round_trip_ms: arguments.round_trip, ..slow },
        end: Instant::now() + Duration::from_secs(arguments.minutes * 60),
        limit: Duration::from_secs(900),
    }
}
