//! `pollinatord install` and `uninstall`: the service manager starts the agent at login.

use crate::agent::service;
use crate::cli::CliError;
use crate::cli::Context;

/// Arguments of `pollinatord install` and `uninstall`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For all users of this machine instead of for you: each one's agent starts when he logs in
    #[arg(long)]
    pub system: bool,
}

pub fn install(context: &Context, args: &Args) -> Result<(), CliError> {
    let done = service::install(args.system)?;
    told(context, &done)
}

pub fn uninstall(context: &Context, args: &Args) -> Result<(), CliError> {
    let done = service::uninstall(args.system)?;
    told(context, &done)
}

fn told(context: &Context, done: &service::Done) -> Result<(), CliError> {
    if context.json() {
        return context.print_json(done);
    }
    done.said.iter().for_each(|line| context.print(line));
    done.advice.iter().for_each(|line| context.note(line));
    Ok(())
}
