//! What was measured, as a table and as JSON.

use crate::proxy::Traffic;
use crate::stage::Run;
use serde::Serialize;

/// All runs of one program in one case.
#[derive(Clone, Debug, Serialize)]
struct Row {
    case: String,
    tool: String,
    /// Whether ratios are to it.
    peer: bool,
    /// Each run's.
    samples: Vec<f64>,
    /// How many processes wanted the cores, on average, in the minute before each ended: what else the machine was doing.
    loads: Vec<f64>,
    /// The fastest run's: whatever else the machine does only adds.
    seconds: f64,
    /// How many times the time of the fastest peer.
    ratio: Option<f64>,
    /// The fastest run's.
    cpu_seconds: f64,
    /// The largest of all runs.
    peak_memory: u64,
    /// What the last run sent and got.
    store: Option<Traffic>,
    colony: Option<Traffic>,
    /// Not measured but taken from another case.
    same_as: Option<String>,
    /// Why it has no time.
    failed: Option<String>,
}

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    rows: Vec<Row>,
    /// What a reader has to know.
    notes: Vec<String>,
    /// What must not be.
    wrong: Vec<String>,
}

impl Report {
    /// Takes a run down; whether it went well.
    pub fn add(&mut self, case: &str, tool: &str, peer: bool, run: Run) -> bool {
        let Run { cost, store, colony, complaint } = run;
        eprintln!("{case}: {tool}: {:.2} s, {} MiB", cost.seconds, cost.peak_memory >> 20);
        let failed = complaint.map(|said| {
            let why = if cost.killed { "took too long".to_owned() } else { format!("exit code {:?}", cost.code) };
            self.wrong(&format!("{case}: {tool}: {why}: {}", said.trim()));
            why
        });
        let well = failed.is_none();
        let place = self.rows.iter().position(|row| row.case == case && row.tool == tool).unwrap_or_else(|| {
            let (case, tool) = (case.to_owned(), tool.to_owned());
            let (samples, loads, seconds, cpu_seconds, peak_memory) = (Vec::new(), Vec::new(), f64::INFINITY, 0.0, 0);
            let (ratio, same_as, failed) = (None, None, None);
            let row = Row {
                case,
                tool,
                peer,
                samples,
                loads,
                seconds,
                ratio,
                cpu_seconds,
                peak_memory,
                store,
                colony,
                same_as,
                failed,
            };
            self.rows.push(row);
            self.rows.len() - 1
        });
        let row = &mut self.rows[place];
        row.samples.push(cost.seconds);
        row.loads.extend(load());
        if cost.seconds < row.seconds {
            (row.seconds, row.cpu_seconds) = (cost.seconds, cost.cpu_seconds);
        }
        row.peak_memory = row.peak_memory.max(cost.peak_memory);
        (row.store, row.colony) = (store, colony);
        row.failed = row.failed.take().or(failed);
        well
    }

    /// Takes a case's row over for another case; whether there is one.
    pub fn copy(&mut self, from: &str, to: &str, tool: &str) -> bool {
        let Some(row) = self.rows.iter().find(|row| row.case == from && row.tool == tool) else { return false };
        let row = Row { case: to.into(), same_as: Some(from.into()), ..row.clone() };
        self.rows.push(row);
        true
    }

    /// Whether a preparation went wrong.
    pub fn failed(&mut self, case: &str, tool: &str, run: &Run) -> bool {
        if let Some(said) = &run.complaint {
            self.wrong(&format!("{case}: {tool}: {}", said.trim()));
        }
        run.complaint.is_some()
    }

    pub fn note(&mut self, text: &str) {
        eprintln!("{text}");
        self.notes.push(text.into());
    }

    pub fn wrong(&mut self, text: &str) {
        eprintln!("WRONG: {text}");
        self.wrong.push(text.into());
    }

    pub fn is_wrong(&self) -> bool {
        !self.wrong.is_empty()
    }

    /// Works out the ratios, and puts the rows of a case together.
    pub fn finish(&mut self) {
        let mut cases: Vec<String> = Vec::new();
        for row in &self.rows {
            if !cases.contains(&row.case) {
                cases.push(row.case.clone());
            }
        }
        self.rows.sort_by_key(|row| cases.iter().position(|case| *case == row.case));
        for place in 0..self.rows.len() {
            let case = self.rows[place].case.clone();
            let of_case = self.rows.iter().filter(|row| row.case == case && row.peer && row.failed.is_none());
            let fastest = of_case.map(|row| row.seconds).min_by(f64::total_cmp);
            self.rows[place].ratio = fastest.map(|fastest| self.rows[place].seconds / fastest);
        }
    }

    /// The table in Markdown.
    pub fn table(&self) -> String {
        let mut lines = vec![
            "| case | program | time | × fastest peer | CPU | peak memory | to store | from store | requests | to colony | from colony | requests |"
                .to_owned(),
            "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|".to_owned(),
        ];
        lines.extend(self.rows.iter().map(line));
        for note in &self.notes {
            lines.push(format!("\nNote: {note}."));
        }
        lines.join("\n")
    }
}

fn line(row: &Row) -> String {
    let time = match &row.failed {
        Some(why) => why.clone(),
        None if row.same_as.is_some() => format!("({:.2} s)", row.seconds),
        None => format!("{:.2} s", row.seconds),
    };
    let ratio = row.ratio.filter(|_| row.failed.is_none()).map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
    let traffic = |traffic: &Option<Traffic>| match traffic {
        Some(t) => format!("{} | {} | {}", bytes(t.up), bytes(t.down), t.answers),
        None => "– | – | –".to_owned(),
    };
    format!(
        "| {} | {} | {time} | {ratio} | {:.2} s | {} | {} | {} |",
        row.case,
        row.tool,
        row.cpu_seconds,
        bytes(row.peak_memory),
        traffic(&row.store),
        traffic(&row.colony)
    )
}

/// The load of the last minute, where the system tells.
fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// Three digits and a unit.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1000.0 {
            return if unit == "B" || value >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.2} GiB")
}
