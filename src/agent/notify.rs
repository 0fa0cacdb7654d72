//! A word on the desktop when a run ends.
//!
//! Nobody may be there to read it (a server, a container, a session over the network): then nothing is told, and nothing
//! fails. Texts come from elsewhere, so no shell and no script ever sees them as more than an argument.

use super::programs;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// How long the desktop may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Characters of a text that are shown; desktops cut earlier or later.
const LONGEST: usize = 300;
/// Takes title and text as its arguments.
const APPLE_SCRIPT: [&str; 3] = ["on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run"];

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The line above.
    pub title: String,
    /// The text below.
    pub text: String,
}

impl Note {
    /// That a run of a project has ended: `fate` as in "the run … succeeded".
    pub fn of_run(project: &str, run: &str, fate: &str) -> Note {
        Note { title: "Pollinator".into(), text: format!("{project}: the run {run} {fate}") }
    }
}

/// What notes are shown with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shower {
    /// `notify-send` of free desktops, on a session bus.
    NotifySend,
    /// `osascript` of macOS.
    OsaScript,
}

/// The desktop, as far as a process can know it.
#[derive(Clone, Debug)]
pub struct Desktop {
    /// What shows notes here; none: nothing does.
    pub shower: Option<Shower>,
    /// Where programs are looked for.
    pub path: OsString,
    /// Address of the session bus.
    pub bus: Option<OsString>,
    /// Folder that has the session bus where no address is known.
    pub runtime_folder: Option<PathBuf>,
    /// How long it may take.
    pub patience: Duration,
}

impl Desktop {
    /// That of this process.
    pub fn of_process() -> Desktop {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let shower = match std::env::consts::OS {
            "macos" => Some(Shower::OsaScript),
            "linux" | "freebsd" => Some(Shower::NotifySend),
            _ => None,
        };
        Desktop {
            shower,
            path: variable("PATH").unwrap_or_default(),
            bus: variable("DBUS_SESSION_BUS_ADDRESS"),
            runtime_folder: variable("XDG_RUNTIME_DIR").map(PathBuf::from),
            patience: PATIENCE,
        }
    }

    /// Shows a note, where somebody can see it. Says whether it was handed over.
    pub async fn tell(&self, note: &Note) -> bool {
        let Some(mut command) = self.command(note) else { return false };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        match tokio::time::timeout(self.patience, command.status()).await {
            Ok(Ok(status)) if status.success() => return true,
            Ok(Ok(status)) => tracing::debug!(%status, "the desktop takes no note"),
            Ok(Err(error)) => tracing::debug!(%error, "the desktop cannot be told"),
            Err(_) => tracing::debug!("the desktop did not take the note in time"),
        }
        false
    }

    /// The command that shows a note; none where there is no desktop.
    fn command(&self, note: &Note) -> Option<Command> {
        let (title, text) = (shown(&note.title), shown(&note.text));
        match self.shower? {
            Shower::NotifySend => {
                let bus = self.session_bus()?;
                let mut command = Command::new(self.program("notify-send")?);
                command.args(["--app-name=Pollinator", "--", &title, &without_markup(&text)]);
                command.env("DBUS_SESSION_BUS_ADDRESS", bus);
                Some(command)
            }
            Shower::OsaScript => {
                let mut command = Command::new(self.program("osascript")?);
                for line in APPLE_SCRIPT {
                    command.args(["-e", line]);
                }
                command.args([title, text]);
                Some(command)
            }
        }
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        let found = programs::find(name, &self.path);
        if found.is_none() {
            tracing::debug!(name, "not found: the desktop is not told");
        }
        found
    }

    fn session_bus(&self) -> Option<OsString> {
        let socket = || {
            let path = self.runtime_folder.as_deref().map(|folder: &Path| folder.join("bus")).filter(|path| path.exists())?;
            let mut address = OsString::from("unix:path=");
            address.push(path);
            Some(address)
        };
        let bus = self.bus.clone().or_else(socket);
        if bus.is_none() {
            tracing::debug!("no session bus: the desktop is not told");
        }
        bus
    }
}

/// In one piece: control characters become blanks, and what is too long is cut.
fn shown(text: &str) -> String {
    let line = |c: char| if c.is_control() { ' ' } else { c };
    let mut cut: String = text.chars().take(LONGEST).map(line).collect();
    if text.chars().nth(LONGEST).is_some() {
        cut.push('…');
    }
    cut
}

/// Free desktops read the text as markup.
fn without_markup(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A desktop whose programs are scripts: where tests run there is no bus, and nobody to look. What is left to test is
    /// everything that is ours, up to the arguments.
    fn desktop(folder: &TempDir, program: &str, script: &str) -> Desktop {
        let (path, text) = (folder.path().join(program), format!("#!/bin/sh\n{script}\n"));
        // Written by another process: a file that this one has open for writing while another test starts a program cannot
        // be started itself for a moment.
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", &text]).arg(path);
        assert!(shell.status().unwrap().success());
        Desktop {
            shower: Some(Shower::NotifySend),
            path: folder.path().into(),
            bus: Some("unix:path=/tmp/bus".into()),
            runtime_folder: None,
            patience: PATIENCE,
        }
    }

    /// Writes its arguments, one a line, and the bus.
    fn noting(folder: &TempDir) -> String {
        let told = folder.path().join("told").display().to_string();
        format!("{{ printf '%s\\n' \"$@\"; echo \"$DBUS_SESSION_BUS_ADDRESS\"; }} > '{told}'")
    }

    fn told(folder: &TempDir) -> Vec<String> {
        let text = std::fs::read_to_string(folder.path().join("told")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_text_is_an_argument_whatever_is_in_it() {
        let folder = TempDir::new().unwrap();
        let desktop = desktop(&folder, "notify-send", &noting(&folder));
        let note = Note { title: "--help".into(), text: "$(id) `id` <b>&\nnext \"quoted\"".into() };
        assert!(desktop.tell(&note).await);
        let expected =
            ["--app-name=Pollinator", "--", "--help", "$(id) `id` &lt;b&gt;&amp; next \"quoted\"", "unix:path=/tmp/bus"];
        assert_eq!(told(&folder), expected);
        let long = Note { text: "é".repeat(1000), ..note };
        assert!(desktop.tell(&long).await);
        assert_eq!(told(&folder)[3].chars().count(), LONGEST + 1);
    }

    #[tokio::test]
    async fn on_a_mac_the_script_is_fixed_and_the_texts_are_arguments() {
        let folder = TempDir::new().unwrap();
        let mut desktop = desktop(&folder, "osascript", &noting(&folder));
        (desktop.shower, desktop.bus) = (Some(Shower::OsaScript), None);
        assert!(desktop.tell(&Note::of_run("p", "abc", "succeeded\" & (do shell script \"id\")")).await);
        let told = told(&folder);
        assert_eq!(told[..6], ["-e", APPLE_SCRIPT[0], "-e", APPLE_SCRIPT[1], "-e", APPLE_SCRIPT[2]]);
        assert_eq!(told[6..8], ["Pollinator", "p: the run abc succeeded\" & (do shell script \"id\")"]);
    }

    #[tokio::test]
    async fn without_a_bus_or_a_program_nothing_is_started() {
        let folder = TempDir::new().unwrap();
        let mut desktop = desktop(&folder, "notify-send", &noting(&folder));
        let note = Note::of_run("p", "abc", "failed");
        desktop.bus = None;
        assert!(!desktop.tell(&note).await);
        desktop.runtime_folder = Some(folder.path().into());
        assert!(!desktop.tell(&note).await);
        assert!(!folder.path().join("told").exists());
        // The folder of the session has a bus, though no variable says so.
        let bus = folder.path().join("bus");
        std::fs::write(&bus, "").unwrap();
        assert!(desktop.tell(&note).await);
        assert_eq!(told(&folder).last(), Some(&format!("unix:path={}", bus.display())));
        desktop.path = "/nonexistent".into();
        assert!(!desktop.tell(&note).await);
        desktop.shower = None;
        assert!(!desktop.tell(&note).await);
    }

    #[tokio::test]
    async fn a_desktop_that_hangs_or_refuses_holds_nobody_up() {
        let folder = TempDir::new().unwrap();
        let note = Note::of_run("p", "abc", "failed");
        assert!(!desktop(&folder, "notify-send", "exit 1").tell(&note).await);
        let mut hanging = desktop(&folder, "notify-send", "exec sleep 600");
        hanging.patience = Duration::from_millis(50);
        let begun = std::time::Instant::now();
        assert!(!hanging.tell(&note).await);
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    }
}
