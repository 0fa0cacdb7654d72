//! A command as a unit of its own beside a service of systemd's.
//!
//! What a service starts lives in the service's sandbox and within its limits. The local colony and its jobs are no part of the
//! agent: they want all the memory, namespaces for containers, and kinds of sockets that the agent never needs.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// Variables that go with it. No more: a command line can be read by everybody on the machine.
const KEPT: [&str; 7] = ["PATH", "LANG", "LC_ALL", "TZ", "POLLINATOR_LOG", "DOCKER_HOST", "CONTAINER_HOST"];

/// Whether this process is what systemd started as a service, and not only started by such a one.
pub(super) fn is_a_service() -> bool {
    let variable = |name| std::env::var_os(name);
    is_main(variable("INVOCATION_ID").as_deref(), variable("SYSTEMD_EXEC_PID").as_deref(), std::process::id())
}

fn is_main(invocation: Option<&OsStr>, main: Option<&OsStr>, pid: u32) -> bool {
    invocation.is_some() && main.and_then(OsStr::to_str).is_some_and(|text| text == pid.to_string())
}

/// The command that has the user's service manager start a program, with our standard streams.
pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new("systemd-run");
    command.args(["--user", "--quiet", "--collect", "--pipe", "--working-directory=/"]);
    // Jobs outlive the colony, as they do where it is no unit.
    command.args(["--description=Local colony of Pollinator", "--property=KillMode=process", "--property=UMask=0077"]);
    for (name, value) in KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))) {
        let mut setting = OsString::from(format!("--setenv={name}="));
        setting.push(value);
        command.arg(setting);
    }
    command.arg("--").arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_a_service_started_is_no_service() {
        let is = |id: Option<&str>, main: Option<&str>| is_main(id.map(OsStr::new), main.map(OsStr::new), 77);
        assert!(is(Some("ab"), Some("77")));
        assert!(!is(Some("ab"), Some("78")) && !is(Some("ab"), None) && !is(None, Some("77")) && !is(None, None));
    }
}
