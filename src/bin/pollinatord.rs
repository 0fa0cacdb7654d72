//! The `pollinatord` agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    pollinator::cli::agent::main()
}
