//! What is measured.

use crate::proxy::Shape;
use crate::report::Report;
use crate::stage::Machine;
use crate::stage::Run;
use crate::stage::Stage;
use crate::stage::Tool;
use crate::stage::Way;
use crate::tree;
use std::fs;
use std::time::Duration;
use std::time::Instant;

/// One line of the table a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Case {
    /// A large file is uploaded, without proxies, and once more through them
    First,
    /// One byte in its middle is changed (slow uplink)
    Byte,
    /// 100 bytes are inserted before its first (slow uplink)
    Insert,
    /// 50 bytes all over it are changed (slow uplink)
    Scattered,
    /// It is downloaded to an empty folder, and once more with nothing changed
    Download,
    /// Many small files are uploaded
    Small,
    /// The same once more with nothing changed
    SmallAgain,
    /// They are all moved to another folder
    Moved,
    /// They are downloaded to an empty folder
    SmallDownload,
    /// Ten times as many files, unchanged, beside `find`
    Warm,
    /// A tenth of as many, over the slow uplink and a long way
    Far,
}

/// Files on one machine that is set up once for several cases.
const LARGE: [Case; 5] = [Case::First, Case::Byte, Case::Insert, Case::Scattered, Case::Download];
const SMALL: [Case; 4] = [Case::Small, Case::SmallAgain, Case::Moved, Case::SmallDownload];

/// How much, and how fast.
#[derive(Clone, Debug)]
pub struct Options {
    pub cases: Vec<Case>,
    pub tools: Vec<Tool>,
    /// Bytes of the large file.
    pub large: u64,
    /// Small files.
    pub files: u64,
    /// Files of the unchanged tree.
    pub warm: u64,
    /// How often what is quick is measured.
    pub repeat: u32,
    /// The slow uplink of the delta cases.
    pub slow: Shape,
    /// The long way.
    pub far: Shape,
    /// No measurement begins after this.
    pub end: Instant,
    /// No measurement takes longer.
    pub limit: Duration,
}

impl Options {
    fn wants(&self, case: Case) -> bool {
        self.cases.contains(&case)
    }

    fn wants_any(&self, cases: &[Case]) -> bool {
        cases.iter().any(|case| self.wants(*case))
    }

    fn left(&self) -> Duration {
        self.limit.min(self.end.saturating_duration_since(Instant::now()))
    }
}

/// What the size of a small file is.
const FEW_BYTES: usize = 4096;
/// Bytes of a file of the unchanged tree.
const FEWER_BYTES: usize = 100;
/// Longer than the coarsest clock of files: a changed file has a later time, and what was just written is no longer in doubt.
const SETTLED: Duration = Duration::from_millis(2100);

fn settle() {
    std::thread::sleep(SETTLED);
}

/// Measures everything that was asked for. What does not fit into the time is left out.
pub async fn all(options: &Options, report: &mut Report) {
    // The programs take turns, so that a slow minute of the machine falls on all of them.
    for round in 0..options.repeat {
        for tool in &options.tools {
            if Instant::now() > options.end {
                report.note("the time was over before everything was measured");
                return;
            }
            if options.wants(Case::First) {
                first_directly(options, report, tool).await;
            }
            if options.wants_any(&LARGE) && (round == 0 || options.wants(Case::First)) {
                large(options, report, tool, round == 0).await;
            }
            if options.wants_any(&SMALL) {
                small(options, report, tool).await;
            }
            if options.wants(Case::Far) && round == 0 {
                far(options, report, tool).await;
            }
            if options.wants(Case::Warm) && round == 0 && *tool == Tool::Pollinator {
                warm(options, report, tool).await;
            }
        }
    }
}

/// Takes a measurement down; whether it went well.
fn add(report: &mut Report, case: &str, tool: &Tool, run: Run) -> bool {
    report.add(case, tool.name(), tool.is_peer(), run)
}

async fn first_directly(options: &Options, report: &mut Report, tool: &Tool) {
    let stage = Stage::start(tool).await;
    let machine = stage.machine("one");
    tree::large(&machine.data().join("large.bin"), options.large);
    add(report, "first upload", tool, machine.up(Way::Direct, options.left()));
}

async fn large(options: &Options, report: &mut Report, tool: &Tool, whole: bool) {
    let stage = Stage::start(tool).await;
    let machine = stage.machine("one");
    let file = machine.data().join("large.bin");
    tree::large(&file, options.large);
    let run = machine.up(Way::Counted, options.left());
    if options.wants(Case::First) {
        if !add(report, "first upload, counted", tool, run) {
            return;
        }
    } else if report.failed("first upload, counted", tool.name(), &run) {
        return;
    }
    if !whole {
        return;
    }
    stage.network(options.slow);
    let delta = [
        (Case::Byte, "one byte changed"),
        (Case::Insert, "100 bytes inserted at the front"),
        (Case::Scattered, "50 bytes changed all over"),
    ];
    for (case, name) in delta.into_iter().filter(|(case, _)| options.wants(*case)) {
        // These send the whole file after any change: once is enough.
        if tool.is_peer() && case != Case::Byte && report.copy(delta[0].1, name, tool.name()) {
            continue;
        }
        settle();
        match case {
            Case::Insert => tree::insert_at_front(&file, 100),
            Case::Scattered => tree::change_scattered(&file, 50),
            _ => tree::change_byte(&file, options.large / 2),
        }
        add(report, name, tool, machine.up(Way::Counted, options.left()));
    }
    stage.network(Shape::default());
    if options.wants(Case::Download) && !matches!(tool, Tool::GoPollinator(_)) {
        download(options, report, &stage, &machine);
    }
}

/// Brings the large file to a second machine, and looks whether it is what the first one has.
fn download(options: &Options, report: &mut Report, stage: &Stage, from: &Machine<'_>) {
    let machine = stage.machine("two");
    if !add(report, "first download", &stage.tool, machine.down(options.left())) {
        return;
    }
    if !tree::same(&from.data().join("large.bin"), &machine.data().join("large.bin")) {
        report.wrong(&format!("{}: the downloaded file is not the uploaded one", stage.tool.name()));
    }
    for _ in 0..options.repeat {
        add(report, "download, nothing changed", &stage.tool, machine.down(options.left()));
    }
}

async fn small(options: &Options, report: &mut Report, tool: &Tool) {
    let stage = Stage::start(tool).await;
    let machine = stage.machine("one");
    let data = machine.data();
    tree::small(&data, options.files, FEW_BYTES);
    settle();
    let run = machine.up(Way::Counted, options.left());
    if options.wants(Case::Small) {
        if !add(report, "small files, first upload", tool, run) {
            return;
        }
    } else if report.failed("small files, first upload", tool.name(), &run) {
        return;
    }
    if options.wants(Case::SmallAgain) {
        add(report, "small files, nothing changed", tool, machine.up(Way::Counted, options.left()));
    }
    if options.wants(Case::SmallDownload) && !matches!(tool, Tool::GoPollinator(_)) {
        let other = stage.machine("two");
        add(report, "small files, download", tool, other.down(options.left()));
        if tree::count(&other.data()) != tree::count(&data) {
            report.wrong(&format!("{}: not all small files were downloaded", tool.name()));
        }
    }
    if options.wants(Case::Moved) && !matches!(tool, Tool::GoPollinator(_)) {
        settle();
        let names: Vec<_> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path()).collect();
        let moved = data.join("moved");
        fs::create_dir(&moved).unwrap();
        for path in names {
            fs::rename(&path, moved.join(path.file_name().unwrap())).unwrap();
        }
        if let Some(run) = machine.up_moved(options.left()) {
            add(report, "small files, all moved", tool, run);
        }
    }
}

async fn far(options: &Options, report: &mut Report, tool: &Tool) {
    let stage = Stage::start(tool).await;
    stage.network(options.far);
    let machine = stage.machine("one");
    tree::small(&machine.data(), (options.files / 10).max(1), FEW_BYTES);
    settle();
    let run = machine.up(Way::Counted, options.left());
    if add(report, "far away: small files, first upload", tool, run) {
        add(report, "far away: small files, nothing changed", tool, machine.up(Way::Counted, options.left()));
    }
}

async fn warm(options: &Options, report: &mut Report, tool: &Tool) {
    let stage = Stage::start(tool).await;
    let machine = stage.machine("one");
    tree::small(&machine.data(), options.warm, FEWER_BYTES);
    settle();
    let run = machine.up(Way::Direct, options.left());
    if report.failed("unchanged tree", tool.name(), &run) {
        return;
    }
    settle();
    for _ in 0..options.repeat.max(3) {
        add(report, "unchanged tree, sync", tool, machine.up(Way::Counted, options.left()));
        add(report, "unchanged tree, diff", tool, machine.diff(options.left()));
        let find = machine.other("find", &[".", "-type", "f", "-printf", "%s %T@\n"], options.left());
        for case in ["unchanged tree, sync", "unchanged tree, diff"] {
            report.add(case, "find", true, find.clone());
        }
    }
}
