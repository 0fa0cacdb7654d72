//! `pollinator show RUN`: what is known of one run.

use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::render::times;
use crate::colonies::Process;
use crate::journal::runs::Run;
use crate::run::follow::ExecutorNames;
use crate::run::history;
use crate::run::history::Found;

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
    let run = match &found {
        Found::Run(run) => Some(history::refresh(&connection, (**run).clone()).await?),
        Found::Process(_) => None,
    };
    let process = match found.process_id() {
        Ok(id) => match connection.client().process(id).await {
            Ok(process) => Some(process),
            // Removed on the server: our own books still tell something.
            Err(error) if error.is_not_found() && run.is_some() => None,
            Err(error) => return Err(crate::run::Error::from(error).into()),
        },
        Err(_) if run.is_some() => None,
        Err(error) => return Err(error.into()),
    };
    if context.json() {
        return context.print_json(&serde_json::json!({ "run": run, "process": process }));
    }
    let executor = match &process {
        Some(process) => ExecutorNames::new(connection.client()).of(process).await,
        None => None,
    };
    for (name, value) in facts(run.as_ref(), process.as_ref(), executor) {
        context.print(&format!("{name:<12} {value}"));
    }
    Ok(())
}

fn facts(run: Option<&Run>, process: Option<&Process>, executor: Option<String>) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(run) = run {
        facts.push(("run", run.run_id.clone()));
        facts.push(("project", format!("{} ({})", run.project_name, run.project_folder.display())));
        facts.push(("colony", format!("{} at {}", run.colony, run.server)));
        facts.push(("created", times::when(run.created)));
        facts.push(("state", run.state.word().to_owned()));
        if let Some(commit) = &run.git_commit {
            facts.push(("commit", format!("{commit}{}", if run.git_dirty { " (with changes)" } else { "" })));
        }
        facts.push(("tree", run.tree_digest.clone()));
        facts.push(("snapshot", run.snapshot_id.clone()));
        facts.push(("results", run.results_fetched.map_or("not fetched".into(), |t| format!("fetched {}", times::when(t)))));
    }
    if let Some(process) = process {
        process_facts(process, executor, run.is_none(), &mut facts);
    }
    facts
}

fn process_facts(process: &Process, executor: Option<String>, with_state: bool, facts: &mut Vec<(&'static str, String)>) {
    facts.push(("process", process.processid.clone()));
    if with_state {
        facts.push(("state", process.state.word().to_owned()));
    }
    facts.push(("initiator", process.initiatorname.clone()));
    if let Some(executor) = executor {
        facts.push(("executor", executor));
    }
    for (name, time) in [("submitted", process.submissiontime), ("started", process.starttime), ("ended", process.endtime)] {
        if let Some(time) = time.get() {
            facts.push((name, times::when(time.as_nanosecond() as i64)));
        }
    }
    facts.push(("retries", format!("{} of {}", process.retries, process.spec.maxretries)));
    for key in ["docker-image", "init-cmd", "cmd", "args"] {
        match process.spec.kwargs.get(key) {
            Some(serde_json::Value::String(text)) if !text.is_empty() => facts.push((shown(key), text.clone())),
            Some(serde_json::Value::String(_)) | None => {}
            Some(other) => facts.push((shown(key), other.to_string())),
        }
    }
    for attribute in process.attributes.iter().filter(|a| a.attributetype == crate::colonies::ATTRIBUTE_SET) {
        facts.push(("attribute", format!("{} = {}", attribute.key, attribute.value)));
    }
    for error in &process.errors {
        facts.push(("error", error.trim_end().to_owned()));
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
