//! `pollinator checkout RUN DIR`: the very source of a run, in a folder.

use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::render::sizes;
use crate::run;
use crate::run::checkout;
use crate::run::checkout::CheckedOut;
use crate::run::checkout::Found;
use crate::run::checkout::Wanted;
use crate::run::history;
use crate::run::trees::JOBS;
use std::path::PathBuf;

/// Arguments of `pollinator checkout`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A process id, the beginning of one, or `last`
    #[arg(value_name = "RUN")]
    pub run: String,
    /// Where to: a folder that is not there yet, or an empty one
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let connection = context.connect().await?;
    let here = context.project_if_any()?.map(|project| project.folder);
    let found = history::resolve(&connection, &args.run, here.as_deref())?;
    let wanted = match &found {
        history::Found::Run(run) => Wanted::of_run(run, here.as_deref()),
        // All runs of a sweep have one source.
        history::Found::Sweep(sweep) => match sweep.runs.first() {
            Some(run) => Wanted::of_run(run, here.as_deref()),
            None => return Err(run::Error::UnknownRun(args.run.clone()).into()),
        },
        history::Found::Process(id) => Wanted::of_process(&connection.client().process(id).await.map_err(run::Error::from)?),
    };
    let jobs = context.settings()?.jobs.map_or(JOBS, usize::from);
    let events = context.events();
    let work = checkout::checkout(&connection, &wanted, &args.folder, jobs, &events);
    let brought = context.interruptible(work).await??;
    if context.json() {
        let mut document = serde_json::to_value(&brought).unwrap_or_default();
        document["is_what_ran"] = brought.is_what_ran().into();
        context.print_json(&document)?;
    } else {
        tell(context, &brought);
    }
    match brought.is_what_ran() {
        Some(false) => Err(differs(&brought)),
        _ => Ok(()),
    }
}

fn tell(context: &Context, brought: &CheckedOut) {
    let size = format!("{}, {}", sizes::files(brought.files), sizes::human(brought.bytes));
    let from = match (brought.from, &brought.commit) {
        (Found::Git, Some(commit)) => format!("commit {commit}"),
        _ => "its snapshot".to_owned(),
    };
    if let Some(because) = &brought.because {
        context.warn(&format!("taken from git, since the snapshot is gone: {because}"));
    }
    context.print(&format!("the source of run {} is in {} ({size}, from {from})", brought.run, brought.folder.display()));
    match brought.is_what_ran() {
        Some(true) => context.print(&format!("it is what was run: both trees have the digest {}", brought.tree_digest)),
        Some(false) => {}
        None => context.print(&format!(
            "its digest is {}; there is nothing to compare it with, since the run was not made from this machine",
            brought.tree_digest
        )),
    }
}

fn differs(brought: &CheckedOut) -> CliError {
    let expected = brought.expected_digest.as_deref().unwrap_or_default();
    let error = CliError::failed(format!(
        "what was brought is NOT what was run: its digest is {}, and that of the run's tree {expected}",
        brought.tree_digest
    ));
    match brought.from {
        Found::Git => error.with_hint(
            "files that git does not track, or filters that were set otherwise, may have been part of the run; see `git status --ignored`",
        ),
        Found::Snapshot => error.with_hint("the files have the checksums of the snapshot: was an executable bit lost on the way?"),
    }
}
