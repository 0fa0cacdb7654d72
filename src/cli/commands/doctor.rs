//! `pollinator doctor`: tries each thing that a run needs, and names the remedy for what fails.

use crate::cfs;
use crate::cli::CliError;
use crate::cli::Context;
use crate::colonies::EXECUTOR_APPROVED;
use crate::project::Project;
use crate::run::Connection;
use crate::sqlite;
use crate::store::PART_COPY;
use serde::Serialize;

/// Arguments of `pollinator doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Outcome of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// It works.
    Ok,
    /// It does not, and runs work all the same.
    Note,
    /// It does not, and runs will fail.
    Bad,
}

/// One thing that was tried.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    check: String,
    outcome: Outcome,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &str, detail: impl Into<String>) -> Finding {
        Finding { check: check.into(), outcome: Outcome::Ok, detail: detail.into(), remedy: None }
    }

    fn bad(check: &str, detail: impl std::fmt::Display, remedy: Option<String>) -> Finding {
        Finding { check: check.into(), outcome: Outcome::Bad, detail: detail.to_string(), remedy }
    }

    fn note(check: &str, detail: impl std::fmt::Display, remedy: Option<String>) -> Finding {
        Finding { outcome: Outcome::Note, ..Finding::bad(check, detail, remedy) }
    }
}

/// Runs the command.
pub async fn run(context: &Context, _: Args) -> Result<(), CliError> {
    let findings = examine(context).await;
    let bad = findings.iter().filter(|f| f.outcome == Outcome::Bad).count();
    if context.json() {
        context.print_json(&findings)?;
    } else {
        for finding in &findings {
            let sign = match finding.outcome {
                Outcome::Ok => "ok  ",
                Outcome::Note => "note",
                Outcome::Bad => "BAD ",
            };
            context.print(&format!("{sign}  {}: {}", finding.check, finding.detail));
            if let Some(remedy) = &finding.remedy {
                context.print(&format!("      -> {remedy}"));
            }
        }
    }
    match bad {
        0 => Ok(()),
        1 => Err(CliError::failed("1 check failed")),
        n => Err(CliError::failed(format!("{n} checks failed"))),
    }
}

/// All checks, each as far as those before it allow.
async fn examine(context: &Context) -> Vec<Finding> {
    let mut findings = vec![project(context)];
    match context.settings() {
        Ok(settings) => {
            let place = if settings.colony.is_some() {
                "a colony is configured"
            } else {
                "nothing is configured: the embedded local colony serves"
            };
            findings.push(Finding::ok("settings", place));
            findings.push(state_folder(&settings.state_dir));
        }
        Err(error) => {
            findings.push(Finding::bad("settings", &error, error.first_hint()));
            return findings;
        }
    }
    match context.connect().await {
        Ok(connection) => {
            let project = context.project_if_any().ok().flatten();
            findings.extend(colony(&connection, project.as_ref()).await);
            findings.extend(store(&connection).await);
        }
        Err(error) => findings.push(Finding::bad("connection", &error, error.first_hint())),
    }
    findings.push(git().await);
    findings
}

fn project(context: &Context) -> Finding {
    match context.project_if_any() {
        Ok(Some(project)) => Finding::ok("project", format!("{} in {}", project.settings.projectname, project.folder.display())),
        Ok(None) => Finding::note(
            "project",
            "there is no project.yaml in this folder",
            Some("`pollinator new -n EXECUTOR` makes one".into()),
        ),
        Err(error) => Finding::bad("project", &error, error.first_hint()),
    }
}

fn state_folder(folder: &std::path::Path) -> Finding {
    let writable = sqlite::private_folder(folder).and_then(|()| tempfile::tempfile_in(folder).map(|_| ()));
    match writable {
        Ok(()) => Finding::ok("state folder", folder.display().to_string()),
        Err(error) => Finding::bad(
            "state folder",
            format!("{}: {error}", folder.display()),
            Some("make it writable, or set POLLINATOR_STATE_DIR".into()),
        ),
    }
}

/// Server, membership, executors.
async fn colony(connection: &Connection, project: Option<&Project>) -> Vec<Finding> {
    let client = connection.client();
    let mut findings = Vec::new();
    match client.version().await {
        Ok(version) => findings
            .push(Finding::ok("Colonies server", format!("{} answers, version {:?}", client.server(), version.buildversion))),
        Err(error) => {
            findings.push(Finding::bad("Colonies server", &error, error.hint()));
            return findings;
        }
    }
    match client.colony_info().await {
        Ok(colony) => findings.push(Finding::ok("membership", format!("the key is that of a member of colony {}", colony.name))),
        Err(error) => {
            findings.push(Finding::bad("membership", &error, error.hint()));
            return findings;
        }
    }
    findings.push(executors(connection, project).await);
    if let Ok(true) = client.is_paused().await {
        findings.push(Finding::bad("assignments", "the colony is paused", Some("its owner has to resume assignments".into())));
    }
    findings
}

async fn executors(connection: &Connection, project: Option<&Project>) -> Finding {
    let there = match connection.client().executors().await {
        Ok(there) => there,
        Err(error) => return Finding::bad("executors", &error, error.hint()),
    };
    let available: Vec<String> = there.into_iter().filter(|e| e.state == EXECUTOR_APPROVED).map(|e| e.executorname).collect();
    let list = if available.is_empty() { "none".to_owned() } else { available.join(", ") };
    let Some(project) = project else { return Finding::ok("executors", list) };
    let wanted = &project.settings.executor_names;
    if wanted.is_empty() || wanted.iter().any(|name| available.contains(name)) {
        return Finding::ok("executors", list);
    }
    Finding::bad(
        "executors",
        format!("project.yaml names {}; available: {list}", wanted.join(", ")),
        Some("change `conditions.executorNames`, or give --executor NAME".into()),
    )
}

async fn store(connection: &Connection) -> Vec<Finding> {
    let store = &connection.cfs.store;
    if let Err(error) = store.ensure_bucket().await {
        return vec![Finding::bad("object store", &error, error.hint())];
    }
    let mut findings = vec![Finding::ok(
        "object store",
        format!("{} answers, bucket {} is there", store.access().endpoint, store.access().bucket),
    )];
    for check in store.probe().await {
        if check.name == PART_COPY {
            // Found to be missing once, it is not tried any more: until it is found here.
            cfs::note_part_copy(&connection.cfs, &connection.index, check.ok);
        }
        let name = format!("object store, {}", check.name);
        findings.push(match (check.ok, check.required) {
            (true, _) => Finding::ok(&name, check.detail),
            (false, true) => Finding::bad(&name, check.detail, check.remedy),
            (false, false) => Finding::note(&name, check.detail, check.remedy),
        });
    }
    findings
}

async fn git() -> Finding {
    match tokio::process::Command::new("git").arg("--version").output().await {
        Ok(output) if output.status.success() => Finding::ok("git", String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        _ => Finding::note("git", "not found: runs do not note the commit they were made of", Some("install git".into())),
    }
}
