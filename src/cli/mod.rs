//! The command line: parsing and rendering only. One file a command in [`commands`]; [`render`] is the only place that prints.

pub mod agent;
pub mod arguments;
pub mod commands;
pub mod context;
pub mod error;
mod handover;
mod manager;
pub mod render;

pub use context::Context;
pub use error::CliError;

use arguments::Cli;
use clap::Parser;
use std::process::ExitCode;

/// Runs the program to its end; gives its exit code.
pub fn main() -> ExitCode {
    crate::net::install_crypto_provider();
    let cli: Cli = match parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let context = Context::new(&cli.global, cli.command.streams());
    let log = match cli.command.serves() {
        Some(file) => render::log::start_service(context.verbose(), file),
        None => {
            render::log::start(context.verbose());
            Ok(())
        }
    };
    if let Err(error) = log {
        return context.report(&error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return context.report(&CliError::failed(format!("cannot start: {error}"))),
    };
    let outcome = runtime.block_on(commands::run(&context, cli.command));
    // Tasks that still wait (a subscription's poll, a blocked read of a terminal) must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => context.report(&error),
    }
}

/// What was said on the command line; or the exit code, where that was a mistake, or a question that is answered.
fn parse<T: Parser>() -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| {
        // Help and version end with 0, mistakes with 2; clap prints both.
        let code = u8::try_from(error.exit_code()).unwrap_or(2);
        if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::from(error::FAILED) }
    })
}
