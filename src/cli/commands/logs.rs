//! `pollinator logs RUN [-f]`: a run's log, from its start; with `-f` until the process has ended.

use super::sweeps;
use super::sweeps::Followed;
use crate::cli::CliError;
use crate::cli::Context;
use crate::colonies::client::LOG_PAGE;
use crate::run;
use crate::run::Connection;
use crate::run::follow::LogReader;
use crate::run::history;
use crate::run::history::Found;
use crate::run::history::Sweep;

/// Arguments of `pollinator logs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A process id, the beginning of one, or `last`
    #[arg(value_name = "RUN", default_value = "last")]
    pub run: String,
    /// Stay until the process has ended; the exit code then says how
    #[arg(short, long)]
    pub follow: bool,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let connection = context.connect().await?;
    let folder = context.project_if_any()?.map(|p| p.folder);
    let found = history::resolve(&connection, &args.run, folder.as_deref())?;
    if let Found::Sweep(sweep) = found {
        return of_sweep(context, &connection, sweep, args.follow).await;
    }
    let id = found.process_id()?.to_owned();
    let events = context.events();
    if !args.follow {
        // A process that does not exist has an empty log on the server; it is told apart here.
        connection.client().process(&id).await.map_err(run::Error::from)?;
        LogReader::new(connection.client(), &id, LOG_PAGE).take_all(&events).await.map_err(run::Error::from)?;
        return Ok(());
    }
    let followed = context.interruptible(run::follow::follow(connection.client(), &id, LOG_PAGE, &events)).await;
    let process = match followed {
        Ok(process) => process?,
        Err(_) => return Err(sweeps::stopped_following_process(&id)),
    };
    if let Some(run) = found.run() {
        history::note(&connection, run.clone(), &process).await?;
    }
    super::run::fate_of_process(&process)
}

/// The logs of a sweep, each line with the values of its process before it: one process after the other, or all as they come.
async fn of_sweep(context: &Context, connection: &Connection, sweep: Sweep, follow: bool) -> Result<(), CliError> {
    let runs = history::refresh_all(connection, sweep.runs).await;
    if follow {
        return match sweeps::follow_all(context, connection, runs, LOG_PAGE).await? {
            Followed::Interrupted(runs) => Err(sweeps::stopped_following(&runs)),
            Followed::Ended(runs) => {
                if !context.json() {
                    sweeps::print_points(context, &runs);
                }
                super::run::fate(&runs)
            }
        };
    }
    let named = sweeps::named(context, &runs);
    for run in &runs {
        let Some(id) = &run.process_id else { continue };
        let events = if context.json() { context.events() } else { named.events() };
        LogReader::new(connection.client(), id, LOG_PAGE).take_all(&events).await.map_err(run::Error::from)?;
        named.finish_line(id);
    }
    Ok(())
}
