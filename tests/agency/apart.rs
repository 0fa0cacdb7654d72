//! A shell in namespaces of its own (`unshare`): limits and mounts that are changed there are those of nobody else.

use crate::agency::Agency;
use crate::lab::finish;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;

/// The shell; it ends with this.
pub struct Apart {
    shell: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Apart {
    /// A shell with the environment of the laboratory. `flags` are those of `unshare(1)`: a new user namespace must be among them,
    /// so that nothing is ever changed for the machine.
    #[track_caller]
    pub fn new(agency: &Agency, flags: &[&str]) -> Apart {
        assert!(flags.iter().any(|flag| flag.starts_with("-U")));
        let probe = finish(probing(flags));
        assert_eq!(probe.code, Some(0), "this test needs user namespaces (sysctl user.max_user_namespaces): {}", probe.all());
        let like = agency.agent_command(Vec::<&str>::new());
        let mut command = Command::new("unshare");
        command.args(flags).arg("sh").env_clear().current_dir(agency.lab.home());
        for (name, value) in like.get_envs() {
            command.env(name, value.unwrap());
        }
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (shell.stdin.take().unwrap(), BufReader::new(shell.stdout.take().unwrap()));
        Apart { shell, stdin, stdout }
    }

    /// Runs a command to its end, gives what it printed, and panics unless it succeeded.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        writeln!(self.stdin, "{{ {command}\n}} </dev/null 2>&1; echo \"the code is $?\"").unwrap();
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "the shell ended at `{command}`: {said}");
            match line.trim_end().split_once("the code is ") {
                Some((rest, "0")) => return said + rest,
                Some((_, code)) => panic!("`{command}` ended with {code}: {said}"),
                None => said.push_str(&line),
            }
        }
    }

    /// Starts the agent in here. It is reached from outside as any other.
    #[track_caller]
    pub fn start_agent(&mut self) {
        self.run(&format!("{} start", env!("CARGO_BIN_EXE_pollinatord")));
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // It has ended already where a test failed.
        let _ = writeln!(self.stdin, "exit");
        let _ = self.shell.wait();
    }
}

fn probing(flags: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(flags).arg("true").stdin(Stdio::null());
    command
}
