//! The engine's command line: argument vectors, never a shell, in an environment of what the engine itself needs.

use super::settings::Flavour;
use super::settings::Settings;
use crate::executor::backend::Failure;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Variables that an engine needs, beside `LC_…`: how it is reached, and whose user's it is.
const INHERITED: [&str; 29] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CONFIG",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "CONTAINER_HOST",
    "CONTAINERS_CONF",
    "CONTAINERS_STORAGE_CONF",
    "CONTAINERS_REGISTRIES_CONF",
    "REGISTRY_AUTH_FILE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// What an engine says when it, and not the thing asked for, is the trouble: asking again can help.
const AWAY: [&str; 10] = [
    "cannot connect to the docker daemon",
    // Version 29 of its command line.
    "failed to connect to the docker api",
    "cannot connect to podman",
    "resource temporarily unavailable",
    "too many open files",
    "error during connect",
    "unable to connect to podman",
    "database is locked",
    "the docker daemon is shutting down",
    "connection reset by peer",
];

/// An engine's program and how it is called.
#[derive(Clone, Debug)]
pub(super) struct Cli {
    pub(super) flavour: Flavour,
    program: PathBuf,
    global: Vec<String>,
    /// Where it is called from: podman's monitor leaves a file `oom` in the folder that a container was started from, when the
    /// kernel killed a process of it for its memory.
    folder: PathBuf,
}

/// What a call gave.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) success: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Answer {
    /// The last line of its complaint, without the engine's own marks.
    pub(super) fn complaint(&self) -> String {
        complaint(&self.stderr)
    }
}

/// The last line of a complaint, without the engine's own marks.
pub(super) fn complaint(stderr: &str) -> String {
    const LIMIT: usize = 600;
    let line =
        stderr.lines().rev().map(str::trim).find(|l| !l.is_empty() && !l.starts_with("See '")).unwrap_or("no reason given");
    let line =
        ["Error: ", "Error response from daemon: ", "docker: "].iter().fold(line, |l, mark| l.strip_prefix(mark).unwrap_or(l));
    line.chars().take(LIMIT).collect()
}

impl Cli {
    /// The engine that the settings ask for; it is called from within a folder.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub(super) fn new(settings: &Settings, folder: &Path) -> Result<Cli, String> {
        let (flavour, program) = find(settings, |name| in_path(name, std::env::var_os("PATH").as_deref()))?;
        Ok(Cli { flavour, program, global: settings.global_options.clone(), folder: folder.to_owned() })
    }

    /// The same, called from within another folder.
    pub(super) fn within(&self, folder: &Path) -> Cli {
        Cli { folder: folder.to_owned(), ..self.clone() }
    }

    /// A call. It has no terminal, and a signal for our terminal is none of its business.
    pub(super) fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .current_dir(&self.folder)
            .args(&self.global)
            .args(words)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| passes(name)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // An engine without a daemon hands its limits on to the container.
        crate::open_files::give_back(command.as_std_mut());
        command
    }

    /// Calls and waits for the end. `what` is for people: "cannot start the container".
    ///
    /// A call that takes too long is killed where it only asks; where it changes something, it is left to itself.
    pub(super) async fn call(&self, what: &str, words: &[OsString], limit: Duration, asks: bool) -> Result<Answer, Failure> {
        let unanswered = |reason: String| Failure::Unanswered { what: what.into(), reason };
        let mut command = self.command(words);
        command.kill_on_drop(asks);
        let child = command.spawn().map_err(|e| unanswered(format!("{} cannot be run: {e}", self.program.display())))?;
        let output = match tokio::time::timeout(limit, child.wait_with_output()).await {
            Ok(output) => output.map_err(|e| unanswered(e.to_string()))?,
            Err(_) => return Err(unanswered(format!("{} did not answer within {} s", self.name(), limit.as_secs()))),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let answer = Answer { success: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) };
        match answer.success {
            false if is_away(&answer.stderr) => Err(unanswered(answer.complaint())),
            _ => Ok(answer),
        }
    }

    /// Its name, for people.
    pub(super) fn name(&self) -> &'static str {
        match self.flavour {
            Flavour::Podman => "podman",
            Flavour::Docker => "docker",
        }
    }
}

/// Whether the engine, and not the thing asked for, is the trouble.
pub(super) fn is_away(stderr: &str) -> bool {
    let stderr = stderr.to_lowercase();
    AWAY.iter().any(|words| stderr.contains(words))
}

fn passes(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| INHERITED.contains(&name) || name.starts_with("LC_"))
}

/// Words for a call.
pub(super) fn words(all: &[&str]) -> Vec<OsString> {
    all.iter().map(OsString::from).collect()
}

/// Which engine, and where it is. `in_path` finds a program.
fn find(settings: &Settings, in_path: impl Fn(&str) -> Option<PathBuf>) -> Result<(Flavour, PathBuf), String> {
    let by_name = |path: &Path| match path.file_name().and_then(OsStr::to_str) {
        Some(name) if name.contains("docker") => Flavour::Docker,
        _ => Flavour::Podman,
    };
    if let Some(program) = &settings.program {
        let found = match program.components().count() {
            1 => in_path(&program.to_string_lossy()),
            _ => std::path::absolute(program).ok(),
        };
        let found = found.filter(|p| p.is_file());
        let found = found.ok_or_else(|| format!("there is no program {} (setting `program`)", program.display()))?;
        return Ok((settings.engine.unwrap_or(by_name(program)), found));
    }
    let wanted: &[(Flavour, &str)] = match settings.engine {
        Some(Flavour::Podman) => &[(Flavour::Podman, "podman")],
        Some(Flavour::Docker) => &[(Flavour::Docker, "docker")],
        None => &[(Flavour::Podman, "podman"), (Flavour::Docker, "docker")],
    };
    let found = wanted.iter().find_map(|(flavour, name)| Some((*flavour, in_path(name)?)));
    found.ok_or_else(|| {
        let names: Vec<&str> = wanted.iter().map(|(_, name)| *name).collect();
        format!("{} is not in PATH: install it, or name the program in the setting `program`", names.join(" or "))
    })
}

fn in_path(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    std::env::split_paths(path?).map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_found() {
        let have = |names: &'static [&'static str]| move |name: &str| names.contains(&name).then(|| PathBuf::from("/bin/sh"));
        let settings =
            |engine, program: Option<&str>| Settings { engine, program: program.map(PathBuf::from), ..Settings::default() };
        let flavour = |s: Settings, names| find(&s, have(names)).map(|(f, _)| f);
        assert_eq!(flavour(settings(None, None), &["podman", "docker"]), Ok(Flavour::Podman));
        assert_eq!(flavour(settings(None, None), &["docker"]), Ok(Flavour::Docker));
        assert_eq!(flavour(settings(None, Some("docker")), &["podman", "docker"]), Ok(Flavour::Docker));
        assert_eq!(flavour(settings(Some(Flavour::Docker), Some("/bin/sh")), &[]), Ok(Flavour::Docker));
        let missing = flavour(settings(None, None), &[]).unwrap_err();
        assert!(missing.contains("podman or docker is not in PATH"), "{missing}");
        assert!(flavour(settings(None, Some("/no/such")), &[]).unwrap_err().contains("/no/such"));
    }

    #[test]
    fn no_key_of_ours_reaches_the_engine() {
        for name in ["COLONIES_PRVKEY", "AWS_S3_SECRETKEY", "LD_PRELOAD", "POLLINATOR_PROFILE"] {
            assert!(!passes(OsStr::new(name)), "{name}");
        }
        assert!(passes(OsStr::new("LC_ALL")) && passes(OsStr::new("DOCKER_HOST")));
    }

    #[test]
    fn complaints_are_told_without_marks() {
        assert_eq!(complaint("Trying x\nError: image not known\n"), "image not known");
        assert_eq!(
            complaint("docker: Error response from daemon: No.\nSee 'docker run --help'.\n"),
            "Error response from daemon: No."
        );
        assert_eq!(complaint(""), "no reason given");
        assert!(is_away("Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?"));
        assert!(!is_away("Error: no such image"));
    }
}
