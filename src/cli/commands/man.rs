//! `pollinator man`: the manual page, of the whole program or of one command.

use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::arguments::Cli;
use clap::Command;
use clap::CommandFactory;

/// Arguments of `pollinator man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Page of this command; of the whole program where nothing is said
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}

/// Sections that no option carries, in the language of manual pages.
const MORE: &str = r#".SH "EXIT STATUS"
.IP 0
Done.
.IP 1
Failed.
.IP 2
Usage or configuration.
.IP 3
The process failed or was cancelled (\fBrun \-\-follow\fR, \fBlogs \-f\fR).
.IP 4
A server cannot be reached.
.IP 130
Interrupted by the user.
.SH ENVIRONMENT
COLONIES_SERVER_HOST, COLONIES_SERVER_PORT, COLONIES_TLS (or COLONIES_SERVER_TLS), COLONIES_COLONY_NAME, COLONIES_PRVKEY,
AWS_S3_ENDPOINT, AWS_S3_TLS, AWS_S3_SKIPVERIFY, AWS_S3_REGION (or AWS_S3_REGION_KEY), AWS_S3_BUCKET, AWS_S3_ACCESSKEY,
AWS_S3_SECRETKEY, COLONYOS_DASHBOARD_URL, COLONIES_VERBOSE, NO_COLOR, POLLINATOR_PROFILE, POLLINATOR_CONFIG,
POLLINATOR_STATE_DIR, POLLINATOR_LOG. \fBpollinator config\fR shows what holds.
.SH FILES
.IP project.yaml
What a project runs, and what it needs.
.IP .cfsignore
What is left out, in the syntax of .gitignore.
.IP ~/.config/pollinator/config.toml
Profiles.
.IP ~/.local/state/pollinator
Runs, last synchronizations, the local colony.
"#;

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<(), CliError> {
    page(context, args, Cli::command())
}

/// The page of one of the programs.
pub fn page(context: &Context, args: Args, whole: Command) -> Result<(), CliError> {
    let program = whole.get_name().to_owned();
    let command = match &args.command {
        None => whole,
        Some(name) => {
            let found = whole.get_subcommands().find(|c| c.get_name() == name).cloned();
            let unknown = || CliError::usage(format!("there is no command {name:?}")).with_hint("`--help` lists them");
            found.ok_or_else(unknown)?.display_name(format!("{program}-{name}"))
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(|e| CliError::failed(format!("cannot render the page: {e}")))?;
    page.extend_from_slice(MORE.as_bytes());
    context.screen().out(&page);
    Ok(())
}
