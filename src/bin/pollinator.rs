//! The `pollinator` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    pollinator::cli::main()
}
