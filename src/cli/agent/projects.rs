//! `pollinatord add`, `remove`, `pause`, `resume`, `flush`, and `pollinator watch`.

use super::find;
use super::folder;
use crate::agent::control::model;
use crate::agent::control::model::Add;
use crate::agent::control::model::Job;
use crate::agent::control::model::Pause;
use crate::agent::control::model::Work;
use crate::agent::life;
use crate::cli::CliError;
use crate::cli::Context;
use std::path::PathBuf;

/// Names a project.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// Folder of the project (default: this one)
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// Arguments of `pollinatord pause`.
#[derive(Debug, clap::Args)]
pub struct PauseArgs {
    /// Folder of the project (default: all of them)
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// How long, as 90s, 30m, 1h or 2d (default: until told)
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    pub seconds: Option<u64>,
}

/// Arguments of `pollinatord resume`.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// Folder of the project (default: all of them)
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// Reads a length of time.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "must be a length of time such as 90s, 30m, 1h or 2d".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).filter(|seconds| (1..=10 * 365 * 24 * 3600).contains(seconds)).ok_or_else(wrong)
}

pub async fn add(context: &Context, which: &Which) -> Result<(), CliError> {
    let agent = find(context).await?;
    // Found as every command finds it: in this folder or in the nearest one above.
    let (project, warnings) = crate::project::find(&folder(which.folder.as_ref())?)?;
    warnings.iter().for_each(|warning| context.warn(warning));
    let add = Add { root: project.folder.clone(), profile: context.profile().map(str::to_owned) };
    agent.tell("/v1/add", &add).await?;
    told(context, &format!("the agent watches {}", project.folder.display()))
}

pub async fn remove(context: &Context, which: &Which) -> Result<(), CliError> {
    let agent = find(context).await?;
    let root = folder(which.folder.as_ref())?;
    let root = root.ancestors().find(|f| f.join(crate::project::FILE_NAME).is_file()).map_or(root.clone(), Into::into);
    agent.tell("/v1/remove", &model::Which { root: Some(root.clone()) }).await?;
    told(context, &format!("the agent watches {} no more; nothing was removed here or in the colony", root.display()))
}

pub async fn pause(context: &Context, args: &PauseArgs) -> Result<(), CliError> {
    let agent = find(context).await?;
    let root = args.folder.as_ref().map(|named| folder(Some(named))).transpose()?;
    agent.tell("/v1/pause", &Pause { root, seconds: args.seconds }).await?;
    told(context, "paused; `pollinatord resume` goes on")
}

pub async fn resume(context: &Context, args: &ResumeArgs) -> Result<(), CliError> {
    let agent = find(context).await?;
    let root = args.folder.as_ref().map(|named| folder(Some(named))).transpose()?;
    agent.tell("/v1/resume", &model::Which { root }).await?;
    told(context, "it goes on")
}

pub async fn flush(context: &Context, which: &Which) -> Result<(), CliError> {
    let agent = find(context).await?;
    let work = Work { root: folder(which.folder.as_ref())?, way: None, job: Job::Flush, detach: false };
    context.interruptible(agent.work(&work, &context.events())).await??;
    told(context, "all that was changed before is stored")
}

/// `pollinator watch`: starts the agent where none runs, and has it watch the project.
pub async fn watch(context: &Context) -> Result<(), CliError> {
    let settings = context.settings()?;
    let project = context.project()?;
    if life::start(&settings.state_dir, context.profile()).await? {
        context.note("the agent was started");
    }
    add(context, &Which { folder: Some(project.folder) }).await
}

fn told(context: &Context, text: &str) -> Result<(), CliError> {
    if context.json() {
        return context.print_json(&serde_json::json!({ "ok": true }));
    }
    context.print(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        assert_eq!(
            [seconds("90"), seconds("90s"), seconds("30m"), seconds("1h"), seconds("2d")],
            [Ok(90), Ok(90), Ok(1800), Ok(3600), Ok(172_800)]
        );
        for bad in ["", "h", "1w", "-1s", "0", "99999999999999999999d", "1 h"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
