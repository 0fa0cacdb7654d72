//! `pollinator gc`: removes what the project no longer needs in the colony.

use crate::cfs::Reclaimed;
use crate::cfs::Removed;
use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::render::sizes;
use crate::run::reclaim;
use jiff::SignedDuration;

/// Arguments of `pollinator gc`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Remove only what is older: 90m, 24h, 7d. Less than 24h is safe only while no other machine works on the project
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub older_than: SignedDuration,
    /// How many of the newest snapshots stay in any case
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub keep: usize,
    /// Go on where the colony knows no file of the project, though the store holds objects of it
    #[arg(long)]
    pub allow_deletes: bool,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let project = context.project()?;
    let connection = context.connect().await?;
    let options = reclaim::Options {
        older_than: args.older_than,
        keep: args.keep,
        allow_deletes: args.allow_deletes,
        dry_run: args.dry_run,
    };
    let events = context.events();
    let report = context.interruptible(reclaim::reclaim(&connection, &project, &options, &events)).await??;
    if !args.dry_run {
        crate::cli::handover::look_again(context).await;
    }
    if context.json() {
        context.print_json(&report)?;
    } else {
        show(context, &report);
    }
    report.notes.iter().for_each(|note| context.warn(note));
    match report.problems.len() {
        0 => Ok(()),
        n => {
            let mut error = CliError::failed(format!("{n} of these could not be looked at or removed; everything else was"));
            error.details = report.problems.iter().map(|(name, why)| format!("{name}: {why}")).collect();
            Err(error)
        }
    }
}

fn show(context: &Context, report: &Reclaimed) {
    let kinds: [(&str, &[Removed]); 5] = [
        ("snapshots", &report.snapshots),
        ("replaced revisions", &report.revisions),
        ("files of frozen trees", &report.frozen),
        ("objects", &report.objects),
        ("unfinished uploads", &report.uploads),
    ];
    if kinds.iter().all(|(_, removed)| removed.is_empty()) {
        return context.print("nothing to remove");
    }
    for (kind, removed) in kinds {
        let bytes: u64 = removed.iter().map(|one| one.bytes).sum();
        let size = if bytes > 0 { format!(" ({})", sizes::human(bytes)) } else { String::new() };
        context.print(&format!("{kind}: {}{size}", removed.len()));
        if context.verbose() {
            removed.iter().for_each(|one| context.print(&format!("- {}", one.name)));
        }
    }
    if report.dry_run {
        context.print("this would be removed; nothing was");
    }
}

/// An age on the command line.
fn duration(text: &str) -> Result<SignedDuration, String> {
    let read = crate::config::duration(text).and_then(|duration| SignedDuration::try_from(duration).ok());
    read.ok_or_else(|| format!("{text:?} is no duration: give a whole number and a unit, such as 90m, 24h or 7d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        let read = |text: &str| duration(text).unwrap().as_secs();
        assert_eq!([read("0s"), read("90m"), read("24h"), read("7d"), read("2w")], [0, 5400, 86400, 604_800, 1_209_600]);
        for bad in ["", "24", "h", "-1h", "1.5h", "1 h", "1y", "99999999999999999999s", "9223372036854775807w"] {
            assert!(duration(bad).unwrap_err().contains("no duration"), "{bad}");
        }
    }
}
