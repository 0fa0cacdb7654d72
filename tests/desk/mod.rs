//! Somebody's desk: a laboratory with git in it, which knows nothing of the machine's settings.

#![allow(dead_code)] // Each test program uses another part of it.

use crate::lab;
use crate::lab::Ended;
use crate::lab::Lab;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

/// A job that says something and leaves a result.
pub const JOB: &str = "import os\nprint('the job has run')\nd = os.environ['PROJECT_DIR'] + '/result'\nos.makedirs(d, exist_ok=True)\nopen(d + '/out.txt', 'w').write('out')\n";

/// A laboratory with git.
pub struct Desk {
    pub lab: Lab,
}

impl Desk {
    /// With nothing configured: an embedded colony serves.
    pub fn new() -> Desk {
        Desk::at(Lab::new())
    }

    /// With a colony that nobody serves.
    pub fn without_colony() -> Desk {
        // A port that was free a moment ago refuses connections.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Desk::with_colony_at(port)
    }

    /// With a colony on that port.
    pub fn with_colony_at(port: u16) -> Desk {
        let variables = [
            ("COLONIES_SERVER_HOST", "127.0.0.1".to_owned()),
            ("COLONIES_SERVER_PORT", port.to_string()),
            ("COLONIES_TLS", "false".to_owned()),
            ("COLONIES_COLONY_NAME", "lab".to_owned()),
            ("COLONIES_PRVKEY", "1".repeat(64)),
            ("AWS_S3_ENDPOINT", format!("http://127.0.0.1:{port}")),
            ("AWS_S3_ACCESSKEY", "a".to_owned()),
            ("AWS_S3_SECRETKEY", "b".to_owned()),
            ("AWS_S3_BUCKET", "c".to_owned()),
        ];
        Desk::at(variables.into_iter().fold(Lab::new(), |lab, (name, value)| lab.with(name, value)))
    }

    /// With a desktop whose programs note what they are told in a folder: where tests run there is none to look at.
    pub fn with_desktop(folder: &Path) -> Desk {
        let told = folder.join("told");
        script(&folder.join("notify-send"), format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >> '{}'\n", told.display()));
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        Desk::at(Lab::new().with("PATH", path).with("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent"))
    }

    fn at(lab: Lab) -> Desk {
        let config = lab.home().join("gitconfig");
        let settings = "[user]\nname = t\nemail = t@example.org\n[init]\ndefaultBranch = main\n[protocol \"file\"]\nallow = always\n[commit]\ngpgSign = false\n[advice]\nignoredHook = false\n";
        fs::write(&config, settings).unwrap();
        let lab = lab.with("GIT_CONFIG_NOSYSTEM", "1").with("GIT_CONFIG_GLOBAL", config.to_str().unwrap());
        Desk { lab: lab.with("GIT_TERMINAL_PROMPT", "0") }
    }

    /// Any program in the environment of the laboratory.
    pub fn command(&self, program: impl AsRef<OsStr>, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir(folder).stdin(Stdio::null());
        for (name, value) in self.lab.command([""; 0]).get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command
    }

    /// Runs git, however it ends.
    #[track_caller]
    pub fn git_any(&self, folder: &Path, arguments: &[&str]) -> Ended {
        lab::finish(self.command("git", folder, arguments))
    }

    /// Runs git, which must succeed.
    #[track_caller]
    pub fn git(&self, folder: &Path, arguments: &[&str]) -> Ended {
        self.git_any(folder, arguments).expect_code(0)
    }

    /// Runs `pollinator hook` in a folder.
    #[track_caller]
    pub fn hook(&self, folder: &Path, arguments: &[&str]) -> Ended {
        self.lab.run_in(folder, ["hook"].iter().chain(arguments))
    }

    /// A repository with a first commit and a bare one, `NAME.git`, as its origin.
    pub fn repository(&self, name: &str) -> PathBuf {
        let folder = self.lab.home().join(name);
        let bare = self.lab.home().join(format!("{name}.git"));
        self.git(self.lab.home(), &["init", "-q", "--bare", bare.to_str().unwrap()]);
        self.git(self.lab.home(), &["init", "-q", folder.to_str().unwrap()]);
        self.git(&folder, &["remote", "add", "origin", bare.to_str().unwrap()]);
        fs::write(folder.join("README"), "first\n").unwrap();
        self.commit(&folder, "first");
        folder
    }

    /// A repository that is a project, with these lines as the `agent` section.
    pub fn project(&self, name: &str, agent: &str) -> PathBuf {
        let folder = self.repository(name);
        self.project_in(&folder, name, agent);
        self.commit(&folder, "project");
        folder
    }

    /// Makes a project in a folder of a repository.
    pub fn project_in(&self, folder: &Path, name: &str, agent: &str) {
        // The laboratory makes projects in its home folder.
        let made = self.lab.project(&format!("template-{name}"), JOB);
        fs::create_dir_all(folder).unwrap();
        for item in fs::read_dir(&made).unwrap() {
            let item = item.unwrap();
            fs::rename(item.path(), folder.join(item.file_name())).unwrap();
        }
        fs::remove_dir(made).unwrap();
        let file = folder.join("project.yaml");
        fs::write(&file, fs::read_to_string(&file).unwrap().replace("projectname: template-", "projectname: ")).unwrap();
        self.agent(folder, agent);
    }

    /// Replaces the `agent` section of a project.
    pub fn agent(&self, folder: &Path, agent: &str) {
        let file = folder.join("project.yaml");
        let text = fs::read_to_string(&file).unwrap();
        let rest = text.split("agent:").next().unwrap();
        let lines: String = agent.lines().map(|line| format!("  {line}\n")).collect();
        fs::write(file, format!("{rest}agent:\n{lines}")).unwrap();
    }

    /// Commits all there is.
    #[track_caller]
    pub fn commit(&self, folder: &Path, message: &str) -> Ended {
        self.git(folder, &["add", "-A"]);
        self.git(folder, &["commit", "-q", "--allow-empty", "-m", message])
    }

    /// Pushes to the origin, however it ends.
    #[track_caller]
    pub fn push(&self, folder: &Path) -> Ended {
        self.git_any(folder, &["push", "origin", "HEAD"])
    }

    /// What the origin of a repository has as its branch `main`.
    pub fn pushed(&self, folder: &Path) -> Option<String> {
        let bare = folder.with_extension("git");
        let ended = self.git_any(&bare, &["rev-parse", "-q", "--verify", "refs/heads/main"]);
        (ended.code == Some(0)).then(|| ended.stdout.trim().to_owned())
    }

    /// The id of what is checked out.
    pub fn head(&self, folder: &Path) -> String {
        self.git(folder, &["rev-parse", "HEAD"]).stdout.trim().to_owned()
    }
}

/// Writes an executable file.
///
/// Another process does it: a file that this one has open for writing while another test starts a program cannot be started
/// itself for a moment ("text file busy").
pub fn script(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh"]).arg(OsStr::from_bytes(text.as_ref())).arg(path);
    lab::finish(shell).expect_code(0);
}

/// Copies a program, for the same reason so.
pub fn copy(from: impl AsRef<Path>, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let mut cp = Command::new("cp");
    cp.arg(from.as_ref()).arg(to);
    lab::finish(cp).expect_code(0);
}

/// Everything in a folder: names, modes, contents, and where links lead.
pub fn contents(folder: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        let mode = path.symlink_metadata().unwrap().permissions().mode();
        let bytes = if path.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else {
            fs::read(&path).unwrap()
        };
        all.insert(path.file_name().unwrap().to_string_lossy().into_owned(), (mode, bytes));
    }
    all
}
