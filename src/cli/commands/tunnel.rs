//! `pollinator tunnel RUN [LOCAL:REMOTE]`: a port of this machine leads to the node of a run that is already going, until it ends.

use super::sweeps;
use crate::cli::CliError;
use crate::cli::Context;
use crate::colonies::subscribe;
use crate::colonies::subscribe::Change;
use crate::event::Event;
use crate::run;
use crate::run::Connection;
use crate::run::history;
use crate::run::tunnel;
use crate::run::tunnel::Jump;
use crate::run::tunnel::Ports;
use crate::run::tunnel::Route;

/// Arguments of `pollinator tunnel`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A process id, the beginning of one, or `last`
    #[arg(value_name = "RUN")]
    pub run: String,
    /// Port of this machine and port of the node (default: those in project.yaml)
    #[arg(value_name = "LOCAL:REMOTE")]
    pub ports: Option<Ports>,
    /// The host to go through (default: the one in project.yaml; without one, to the node itself)
    #[arg(long, value_name = "[USER@]HOST[:PORT]")]
    pub jump: Option<Jump>,
    /// A key besides those of ssh's configuration and agent
    #[arg(long, value_name = "FILE")]
    pub key: Option<String>,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let connection = context.connect().await?;
    let here = context.project_if_any()?;
    let found = history::resolve(&connection, &args.run, here.as_ref().map(|project| project.folder.as_path()))?;
    let process = found.process_id()?.to_owned();
    // The settings of the project that the run was made from, wherever the command is given.
    let settings = match found.run() {
        Some(run) => context.project_at(&run.project_folder).ok().and_then(|project| project.settings.tunnel),
        None => here.and_then(|project| project.settings.tunnel),
    };
    let (route, ports) = route(&args, settings.as_ref())?;
    tunnel::check_port(ports.local)?;
    let events = context.events();
    let kept = async {
        tokio::select! {
            error = tunnel::attend(connection.client(), &process, &route, ports, &events) => Err(CliError::from(error)),
            ended = until_it_ends(context, &connection, &process) => ended,
        }
    };
    match context.interruptible(kept).await {
        Ok(ended) => ended,
        Err(_) => Err(CliError::interrupted("the tunnel is closed; the process goes on")),
    }
}

/// What was said on the command line stands before what project.yaml says.
fn route(args: &Args, settings: Option<&crate::project::Tunnel>) -> Result<(Route, Ports), CliError> {
    let of_project = settings.map(tunnel::of_project).transpose();
    let given_key = args.key.as_deref().map(tunnel::key).transpose()?.flatten();
    // A key that project.yaml names is of no interest where another one is named, or another way.
    let (of_project, bad_key) = match of_project {
        Ok(found) => (found, None),
        Err(error) => (None, Some(error)),
    };
    let ports = args.ports.or(settings.map(|t| Ports { local: t.local_port, remote: t.remote_port }));
    let Some(ports) = ports else {
        let usage = CliError::usage("no ports are given, and project.yaml has no `tunnel`");
        return Err(usage.with_hint("`pollinator tunnel RUN 8888:8888` leads port 8888 of this machine to port 8888 of the node"));
    };
    let route = match (&args.jump, of_project, bad_key) {
        (Some(jump), ..) => Route { jump: Some(jump.clone()), key: given_key },
        (None, Some((route, _)), _) => Route { key: given_key.or(route.key), ..route },
        (None, None, Some(error)) => return Err(error.into()),
        (None, None, None) => Route { jump: None, key: given_key },
    };
    Ok((route, ports))
}

/// Waits for the end of a process.
async fn until_it_ends(context: &Context, connection: &Connection, process: &str) -> Result<(), CliError> {
    let mut changes = subscribe::watch(connection.client(), process);
    while let Some(change) = changes.recv().await {
        match change {
            Ok(Change::Process(process)) if process.state.is_final() => {
                let state = process.state.word();
                context
                    .note(&format!("process {} has ended ({state}): the tunnel ends with it", sweeps::short(&process.processid)));
                return Ok(());
            }
            Ok(Change::Process(process)) if process.state == crate::colonies::ProcessState::Waiting => {
                context.note(&format!(
                    "process {} waits for an executor; the tunnel waits for it",
                    sweeps::short(&process.processid)
                ));
            }
            Ok(Change::Process(_)) => {}
            Ok(Change::Offline(error)) => context.warn(&format!("{error}; the tunnel stays, waiting for the server")),
            Ok(Change::Online) => context.events().emit(Event::Note { message: "the Colonies server answers again".into() }),
            Err(error) => return Err(run::Error::from(error).into()),
        }
    }
    Err(CliError::failed(format!("process {process} cannot be watched any more")))
}
