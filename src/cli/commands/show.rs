//! `pollinator show RUN`: what is known of one run: what made it, how it ended, and what it brought.

use super::sweeps;
use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::render::sizes;
use crate::cli::render::times;
use crate::colonies::FunctionSpec;
use crate::colonies::Process;
use crate::journal::results::ResultFile;
use crate::journal::runs::Run;
use crate::journal::runs::RunState;
use crate::run::Connection;
use crate::run::follow::ExecutorNames;
use crate::run::history;
use crate::run::history::Found;
use crate::run::history::Sweep;
use crate::run::points;
use crate::run::spec::result_folder;

/// Arguments of `pollinator show`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A process id, the beginning of one, or `last`
    #[arg(value_name = "RUN", default_value = "last")]
    pub run: String,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let connection = context.connect().await?;
    let folder = context.project_if_any()?.map(|p| p.folder);
    let found = history::resolve(&connection, &args.run, folder.as_deref())?;
    let (run, process) = match &found {
        Found::Sweep(sweep) => return show_sweep(context, &connection, sweep).await,
        Found::Run(run) => known(context, &connection, run).await?,
        Found::Process(id) => (None, Some(connection.client().process(id).await.map_err(crate::run::Error::from)?)),
    };
    let results = match &run {
        Some(run) => connection.journal.results(&run.run_id).map_err(crate::run::Error::from)?,
        None => Vec::new(),
    };
    let made = Made::of(run.as_ref(), process.as_ref());
    if context.json() {
        let document = serde_json::json!({ "run": run, "process": process, "exit_status": made.exit_status,
            "results": results, "result_folder": made.result_folder });
        return context.print_json(&document);
    }
    let mut facts = Vec::new();
    if let Some(run) = &run {
        run_facts(run, &mut facts);
    }
    made.facts(&mut facts);
    if let Some(process) = &process {
        process_facts(process, run.is_none(), &mut facts);
        if run.is_none() {
            let executor = ExecutorNames::new(connection.client()).of(process).await;
            facts.push(("executor", executor.unwrap_or_else(|| NOT_REPORTED.into())));
        }
    }
    result_facts(run.as_ref(), &made, &results, &mut facts);
    for (name, value) in facts {
        context.print(&format!("{name:<12} {value}"));
    }
    Ok(())
}

/// A sweep: what all its runs have in common, and a row for each.
async fn show_sweep(context: &Context, connection: &Connection, sweep: &Sweep) -> Result<(), CliError> {
    let runs = history::refresh_all(connection, sweep.runs.clone()).await;
    if context.json() {
        return context.print_json(&serde_json::json!({ "sweep": sweep.id, "runs": runs }));
    }
    let Some(first) = runs.first() else { return Ok(()) };
    let folder = result_folder(&first.spec, &first.project_name).unwrap_or_default();
    let folder = folder.split('/').next().unwrap_or_default();
    let facts = [
        ("sweep", sweep.id.clone()),
        ("project", format!("{} ({})", first.project_name, first.project_folder.display())),
        ("colony", format!("{} at {}", first.colony, first.server)),
        ("created", times::when(first.created)),
        ("state", sweeps::counts(&runs)),
        ("commit", commit(first)),
        ("tree", first.tree_digest.clone()),
        ("snapshot", first.snapshot_id.clone()),
        ("results", format!("cfs/result/{folder}")),
    ];
    for (name, value) in facts {
        context.print(&format!("{name:<12} {value}"));
    }
    sweeps::print_points(context, &runs);
    Ok(())
}

/// A run of ours and its process. Where the server does not answer, or knows the process no more, our books tell all the same.
async fn known(context: &Context, connection: &Connection, run: &Run) -> Result<(Option<Run>, Option<Process>), CliError> {
    let asked = async {
        let run = history::refresh(connection, run.clone()).await?;
        let Some(id) = run.process_id.clone() else { return Ok((run, None)) };
        match connection.client().process(&id).await {
            // Once more, since what the executor told may have come after the end.
            Ok(process) => Ok((history::note(connection, run, &process).await?, Some(process))),
            Err(error) if error.is_not_found() => Ok((run, None)),
            Err(error) => Err(crate::run::Error::from(error)),
        }
    };
    match asked.await {
        Ok((run, process)) => Ok((Some(run), process)),
        Err(crate::run::Error::Colony(error)) if error.is_unreachable() => {
            context.warn(&format!("{error}; this is what is known here"));
            Ok((Some(run.clone()), None))
        }
        Err(error) => Err(error.into()),
    }
}

/// What stands where nobody said anything.
const NOT_REPORTED: &str = "not reported";

type Facts = Vec<(&'static str, String)>;

/// What was run and how it ended, by the process or, where that is gone, by our books.
struct Made {
    spec: FunctionSpec,
    state: RunState,
    errors: Vec<String>,
    exit_status: Option<i64>,
    result_folder: Option<String>,
}

impl Made {
    fn of(run: Option<&Run>, process: Option<&Process>) -> Made {
        let spec = match (process, run) {
            (Some(process), _) => process.spec.clone(),
            (None, Some(run)) => serde_json::from_str(&run.spec).unwrap_or_default(),
            (None, None) => FunctionSpec::default(),
        };
        let state = process.map(|p| RunState::from(p.state)).or(run.map(|r| r.state)).unwrap_or(RunState::Lost);
        let errors = process.map(|p| p.errors.clone()).or(run.map(|r| r.errors.clone())).unwrap_or_default();
        let result_folder = run.and_then(|run| result_folder(&run.spec, &run.project_name));
        Made { exit_status: exit_status(&errors), spec, state, errors, result_folder }
    }

    fn facts(&self, facts: &mut Facts) {
        for key in ["docker-image", "init-cmd", "cmd", "args"] {
            match self.spec.kwargs.get(key) {
                Some(serde_json::Value::String(text)) if !text.is_empty() => facts.push((shown(key), text.clone())),
                Some(serde_json::Value::String(_)) | None => {}
                Some(other) => facts.push((shown(key), other.to_string())),
            }
        }
        facts.push(("exit", self.exit()));
        for error in &self.errors {
            facts.push(("error", error.trim_end().to_owned()));
        }
    }

    /// How the command ended. Executors give a status only for what went wrong, in words.
    fn exit(&self) -> String {
        match (self.state, self.exit_status) {
            (RunState::Success, _) => "closed as successful".into(),
            (RunState::Cancelled, _) => "cancelled".into(),
            (state, _) if state.is_open() => "not ended".into(),
            (_, Some(status)) => format!("exit status {status}"),
            (_, None) => NOT_REPORTED.into(),
        }
    }
}

/// The status in an executor's words, as `exit status 7`.
fn exit_status(errors: &[String]) -> Option<i64> {
    let first = errors.first()?;
    let (_, rest) = first.split_once("exit status ")?;
    let digits: &str = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn run_facts(run: &Run, facts: &mut Facts) {
    facts.push(("run", run.run_id.clone()));
    if let Some(sweep) = &run.sweep {
        facts.push(("sweep", format!("{sweep} ({})", points::shown(&run.params))));
    }
    facts.push(("project", format!("{} ({})", run.project_name, run.project_folder.display())));
    facts.push(("colony", format!("{} at {}", run.colony, run.server)));
    facts.push(("created", times::when(run.created)));
    facts.push(("state", run.state.word().to_owned()));
    facts.push(("commit", commit(run)));
    facts.push(("tree", run.tree_digest.clone()));
    facts.push(("snapshot", run.snapshot_id.clone()));
    facts.push(("executor", run.executor.clone().unwrap_or_else(|| NOT_REPORTED.into())));
    facts.push(("node", run.nodes.clone().unwrap_or_else(|| NOT_REPORTED.into())));
}

fn commit(run: &Run) -> String {
    let Some(commit) = &run.git_commit else { return "none: the project was in no git repository".into() };
    match (&run.revision, run.git_dirty) {
        (Some(revision), _) if revision == commit => format!("{commit} (run --commit)"),
        (Some(revision), _) => format!("{commit} (run --commit {revision})"),
        (None, true) => format!("{commit} (with changes)"),
        (None, false) => format!("{commit} (without changes)"),
    }
}

fn process_facts(process: &Process, with_state: bool, facts: &mut Facts) {
    facts.push(("process", process.processid.clone()));
    if with_state {
        facts.push(("state", process.state.word().to_owned()));
    }
    if let Some(reason) = process.waiting() {
        facts.push(("waits", reason.to_owned()));
    }
    facts.push(("initiator", process.initiatorname.clone()));
    for (name, time) in [("submitted", process.submissiontime), ("started", process.starttime), ("ended", process.endtime)] {
        if let Some(time) = time.get() {
            facts.push((name, times::when(time.as_nanosecond() as i64)));
        }
    }
    facts.push(("retries", format!("{} of {}", process.retries, process.spec.maxretries)));
    for attribute in process.attributes.iter().filter(|a| a.attributetype == crate::colonies::ATTRIBUTE_SET) {
        facts.push(("attribute", format!("{} = {}", attribute.key, attribute.value)));
    }
}

fn result_facts(run: Option<&Run>, made: &Made, results: &[ResultFile], facts: &mut Facts) {
    let Some(run) = run else { return };
    let folder = made.result_folder.as_ref().map_or("cfs/result".to_owned(), |folder| format!("cfs/result/{folder}"));
    let fetched = run.results_fetched.map_or("not fetched".into(), |t| format!("fetched {}", times::when(t)));
    facts.push(("results", format!("{fetched}, in {folder}")));
    for file in results {
        facts.push(("result", format!("{}  {}  sha256:{}", file.path, sizes::human(file.size), file.sha256)));
    }
}

fn shown(key: &str) -> &'static str {
    match key {
        "docker-image" => "image",
        "init-cmd" => "init-cmd",
        "cmd" => "cmd",
        _ => "args",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_where_an_executor_gives_one() {
        for (said, expected) in [
            ("exit status 7", Some(7)),
            ("process 2 ended with exit status 139 (killed by signal 11, SIGSEGV)", Some(139)),
            ("init-cmd failed with exit status 1", Some(1)),
            ("OUT_OF_MEMORY", None),
            ("exit status unknown", None),
        ] {
            assert_eq!(exit_status(&[said.to_owned(), "exit status 99".into()]), expected, "{said}");
        }
        assert_eq!(exit_status(&[]), None);
    }
}
