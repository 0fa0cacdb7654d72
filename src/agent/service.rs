//! Having the agent started at login: the files of `systemd/` and `launchd/`, with the path of this program.

use super::Error;
use super::life;
use serde::Serialize;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// As it stands in the repository.
pub const UNIT: &str = include_str!("../../systemd/pollinatord.service");
/// As it stands in the repository.
pub const PLIST: &str = include_str!("../../launchd/io.colonyos.pollinatord.plist");
/// Where the program is in both of them.
const PROGRAM: &str = "/usr/local/bin/pollinatord";
const UNIT_NAME: &str = "pollinatord.service";
const PLIST_NAME: &str = "io.colonyos.pollinatord.plist";

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Done {
    /// The file.
    pub file: PathBuf,
    /// The service manager was told, and did it.
    pub active: bool,
    /// What happened, for people.
    pub said: Vec<String>,
    /// What is left to do by hand.
    pub advice: Vec<String>,
}

/// The service manager of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Systemd,
    Launchd,
}

impl Manager {
    fn here() -> Manager {
        if cfg!(target_os = "macos") { Manager::Launchd } else { Manager::Systemd }
    }

    fn file(self, system: bool) -> Result<PathBuf, Error> {
        let folder = match (self, system) {
            (Manager::Systemd, true) => PathBuf::from("/etc/systemd/user"),
            (Manager::Systemd, false) => config_home()?.join("systemd/user"),
            (Manager::Launchd, true) => PathBuf::from("/Library/LaunchAgents"),
            (Manager::Launchd, false) => home()?.join("Library/LaunchAgents"),
        };
        Ok(folder.join(if self == Manager::Systemd { UNIT_NAME } else { PLIST_NAME }))
    }

    fn text(self, program: &Path) -> Result<String, Error> {
        let program = program.to_str().filter(|text| !text.chars().any(|c| c.is_control())).ok_or_else(|| Error::Service {
            what: "the agent cannot be installed from where it is".into(),
            reason: format!("{} cannot be written into a service file", program.display()),
        })?;
        Ok(match self {
            Manager::Systemd => {
                UNIT.replace(&format!("ExecStart={PROGRAM}"), &format!("ExecStart={}", quoted_for_systemd(program)))
            }
            Manager::Launchd => {
                PLIST.replace(&format!("<string>{PROGRAM}</string>"), &format!("<string>{}</string>", escaped_for_xml(program)))
            }
        })
    }

    fn commands(self, file: &Path, system: bool, install: bool) -> Vec<Vec<String>> {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        match (self, system, install) {
            (Manager::Systemd, false, true) => {
                vec![words("systemctl --user daemon-reload"), words("systemctl --user enable --now pollinatord.service")]
            }
            (Manager::Systemd, false, false) => vec![words("systemctl --user disable --now pollinatord.service")],
            (Manager::Systemd, true, true) => vec![words("systemctl --global enable pollinatord.service")],
            (Manager::Systemd, true, false) => vec![words("systemctl --global disable pollinatord.service")],
            (Manager::Launchd, ..) => {
                let verb = if install { "load" } else { "unload" };
                vec![vec!["launchctl".into(), verb.into(), "-w".into(), file.display().to_string()]]
            }
        }
    }
}

/// The file for launchd, for a program at this place.
///
/// # Errors
/// A path that cannot be written there.
pub fn plist(program: &Path) -> Result<String, Error> {
    Manager::Launchd.text(program)
}

/// Installs the service file and has the service manager start it. Where there is no service manager to talk to, the file is written and
/// what is left to do is said.
pub fn install(system: bool) -> Result<Done, Error> {
    let manager = Manager::here();
    let file = manager.file(system)?;
    let program = life::program()?;
    let text = manager.text(&program)?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let failed = |source| Error::Folder { what: "the service file", path: file.clone(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    std::fs::write(&file, text).map_err(failed)?;
    let mut done = Done { file: file.clone(), said: vec![format!("wrote {}", file.display())], ..Done::default() };
    tell(&manager.commands(&file, system, true), &mut done);
    if done.active {
        done.said.push(if system { "each user's agent starts at login" } else { "the agent runs, and starts at login" }.into());
    }
    let set: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("COLONIES_") || name.starts_with("AWS_S3_"))
        .collect();
    if !set.is_empty() {
        done.advice.push(format!(
            "{} and others are set in this shell, and an agent that starts at login does not see them: put them into a profile of the \
             config file (`pollinator config` says where), or as NAME=value into agent.env beside it, readable by you only",
            set[0]
        ));
    }
    Ok(done)
}

/// Stops the service and removes its file. Projects, settings and state stay.
pub fn uninstall(system: bool) -> Result<Done, Error> {
    let manager = Manager::here();
    let file = manager.file(system)?;
    let mut done = Done { file: file.clone(), ..Done::default() };
    if !file.exists() {
        done.said.push(format!("{} is not there: nothing was installed", file.display()));
        return Ok(done);
    }
    tell(&manager.commands(&file, system, false), &mut done);
    std::fs::remove_file(&file).map_err(|source| Error::Folder { what: "the service file", path: file.clone(), source })?;
    done.said.push(format!("removed {}", file.display()));
    Ok(done)
}

/// Runs the service manager's commands. Where one cannot be run, or fails, it becomes advice.
fn tell(commands: &[Vec<String>], done: &mut Done) {
    for words in commands {
        let Some((program, arguments)) = words.split_first() else { continue };
        let why = match Command::new(program).args(arguments).stdin(std::process::Stdio::null()).output() {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it failed").to_owned(),
            Err(error) => error.to_string(),
        };
        done.advice.push(format!("the service manager was not told ({why}): run `{}` yourself", words.join(" ")));
        done.advice.push("until then, or without a service manager, `pollinatord start` starts the agent".into());
        return;
    }
    done.active = true;
}

fn home() -> Result<PathBuf, Error> {
    let folders = directories::BaseDirs::new().ok_or_else(|| Error::Service {
        what: "the service file has no place".into(),
        reason: "you have no home folder".into(),
    })?;
    Ok(folders.home_dir().to_owned())
}

fn config_home() -> Result<PathBuf, Error> {
    match std::env::var_os("XDG_CONFIG_HOME").filter(|folder| Path::new(folder).is_absolute()) {
        Some(folder) => Ok(folder.into()),
        None => Ok(home()?.join(".config")),
    }
}

/// As systemd.service(5) and systemd.unit(5) want a word: `%` and `$` doubled, quotes and backslashes escaped.
fn quoted_for_systemd(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) {
        return text.to_owned();
    }
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

fn escaped_for_xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_what_the_repository_holds_but_for_the_program() {
        assert_eq!(Manager::Systemd.text(Path::new(PROGRAM)).unwrap(), UNIT);
        assert_eq!(Manager::Launchd.text(Path::new(PROGRAM)).unwrap(), PLIST);
        let unit = Manager::Systemd.text(Path::new("/home/a b/100%/$x/pollinatord")).unwrap();
        assert!(unit.contains("ExecStart=\"/home/a b/100%%/$$x/pollinatord\"\n"), "{unit}");
        let plist = Manager::Launchd.text(Path::new("/Users/a & b/pollinatord")).unwrap();
        assert!(plist.contains("<string>/Users/a &amp; b/pollinatord</string>"));
        assert!(Manager::Systemd.text(Path::new("/a\nExecStartPre=/bin/evil")).is_err());
    }
}
