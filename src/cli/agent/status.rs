//! `pollinatord status`: how everything stands.

use super::find;
use super::folder;
use crate::agent::control::model::ProjectStatus;
use crate::agent::control::model::StatusReply;
use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::error;
use crate::cli::render::sizes;
use crate::cli::render::times;
use jiff::Timestamp;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `pollinatord status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only the project of this folder
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Show it again whenever it changes
    #[arg(long)]
    pub watch: bool,
}

/// Shows it; the code says whether all is well.
pub async fn status(context: &Context, args: Args) -> Result<ExitCode, CliError> {
    let agent = find(context).await?;
    let root = args.folder.as_ref().map(|named| folder(Some(named))).transpose()?;
    if args.watch {
        let chosen = |status: StatusReply| match &root {
            None => status,
            Some(root) => {
                let projects = status.projects.into_iter().filter(|p| root.starts_with(&p.root)).collect();
                StatusReply { projects, ..status }
            }
        };
        let show = |status| show(context, &chosen(status), true);
        // Ctrl-C is how this ends.
        return match context.interruptible(agent.watch(show)).await {
            Ok(ended) => ended.map(|()| ExitCode::SUCCESS).map_err(Into::into),
            Err(_) => Ok(ExitCode::SUCCESS),
        };
    }
    let status = agent.status(root.as_deref()).await?;
    show(context, &status, false);
    Ok(ExitCode::from(if status.ok { 0 } else { error::FAILED }))
}

fn show(context: &Context, status: &StatusReply, again: bool) {
    if context.json() {
        let text = if again { serde_json::to_string(status) } else { serde_json::to_string_pretty(status) };
        return context.print(&text.unwrap_or_default());
    }
    if again && context.screen().stdout_is_terminal {
        context.screen().out(b"\x1b[2J\x1b[H");
    }
    let agent = &status.agent;
    let memory = agent.memory.map_or(String::new(), |bytes| format!(", {}", sizes::human(bytes)));
    let up = times::duration(i64::try_from(agent.uptime).unwrap_or(0).saturating_mul(1_000_000_000));
    context.print(&format!("agent {}, process {}, up {up}{memory}", agent.version, agent.pid));
    if status.projects.is_empty() {
        return context.print("no projects; `pollinatord add DIR` adds one");
    }
    let rows = status.projects.iter().map(row).collect();
    context.print_table(&["PROJECT", "STATE", "PENDING", "LAST SYNC", "WATCHED", "LAST RUN"], rows);
    for project in &status.projects {
        details(context, project);
    }
}

fn row(project: &ProjectStatus) -> Vec<String> {
    let pending = match (project.pending.files, project.pending.bytes) {
        (Some(0), _) => "-".to_owned(),
        (Some(files), Some(bytes)) => format!("{} ({})", sizes::files(files), sizes::human(bytes)),
        (Some(files), None) => sizes::files(files),
        (None, _) => "to be seen".to_owned(),
    };
    let ago = |text: &String| {
        let then: Option<Timestamp> = text.parse().ok();
        then.map(|then| {
            format!("{} ago", times::duration(i64::try_from(Timestamp::now().duration_since(then).as_nanos()).unwrap_or(0)))
        })
    };
    let watched = match project.watcher.kind.as_str() {
        "events" => format!("{} folders", project.watcher.watches),
        other => other.to_owned(),
    };
    let run = project.runs.first().map_or("-".to_owned(), |run| {
        let id = run.process.as_deref().unwrap_or(&run.run);
        format!("{} {}", &id[..id.len().min(12)], run.state)
    });
    vec![
        project.root.display().to_string(),
        project.state.clone(),
        pending,
        project.last_sync.as_ref().and_then(ago).unwrap_or_else(|| "-".into()),
        watched,
        run,
    ]
}

fn details(context: &Context, project: &ProjectStatus) {
    let mut lines = Vec::new();
    if let Some(reason) = &project.reason {
        let next = project.next_try.as_ref().and_then(|text| text.parse::<Timestamp>().ok()).map_or(String::new(), |at| {
            let left = at.duration_since(Timestamp::now()).as_secs().max(0);
            format!(" (next try in {left} s)")
        });
        lines.push(format!("{reason}{next}"));
    }
    lines.extend(project.hint.iter().map(|hint| format!("hint: {hint}")));
    if let Some(reason) = &project.watcher.reason
        && Some(reason) != project.reason.as_ref()
    {
        lines.push(reason.clone());
    }
    if project.watcher.overflows > 0 {
        lines.push(format!("events were lost {} times; everything was looked at again", project.watcher.overflows));
    }
    lines.extend(project.problems.iter().skip(1).map(|problem| format!("{} {}", problem.path, problem.problem)));
    if !project.writing.is_empty() {
        lines.push(format!("being written: {}", project.writing.join(", ")));
    }
    if !project.results_waiting.is_empty() {
        lines.push(format!("results wait for {} runs; `pollinator results` fetches them", project.results_waiting.len()));
    }
    if let Some(until) = &project.paused_until {
        lines.push(format!("paused until {until}"));
    }
    if lines.is_empty() {
        return;
    }
    context.print(&format!("{}:", project.root.display()));
    lines.iter().for_each(|line| context.print(&format!("  {line}")));
}
