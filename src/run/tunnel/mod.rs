//! A tunnel from a port of this machine to a port of the node where a process runs, by the system's own `ssh`.
//!
//! Whoever can `ssh` to a place without a question can have a tunnel through it: configuration, known hosts and agent are the
//! user's. `argv` says what `ssh` is told, `nodes` which node is meant, `said` what it answers, `keeper` keeps it running.

mod argv;
mod keeper;
mod nodes;
mod said;

pub use argv::Jump;
pub use argv::Ports;
pub use argv::Route;
pub use keeper::attend;

use crate::project;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Why there is no tunnel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name or a port is none.
    #[error("{text:?} is {wanted}")]
    Unfit {
        /// What was given.
        text: String,
        /// What it is not.
        wanted: &'static str,
    },
    /// The port of this machine is in use.
    #[error("port {port} of this machine (127.0.0.1) cannot be listened on: {reason}")]
    PortTaken {
        /// The port.
        port: u16,
        /// What the system said.
        reason: String,
    },
    /// The key is not there.
    #[error("the key {} (`sshKey`) cannot be read: {reason}", path.display())]
    NoKey {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// `ssh` cannot be started.
    #[error("`ssh` cannot be started: {reason}")]
    NoSsh {
        /// What the system said.
        reason: String,
    },
    /// Nobody knows the key of the host, or it is another one.
    #[error("ssh does not trust the key of {host}: {}", if *changed { "it is another one than in your known_hosts" } else { "it is not in your known_hosts" })]
    HostKey {
        /// The host.
        host: String,
        /// What to type to meet it.
        command: String,
        /// Another one is known.
        changed: bool,
    },
    /// The host does not let us in.
    #[error("{host} refuses the login: {reason}")]
    Login {
        /// The host.
        host: String,
        /// What to type to try it.
        command: String,
        /// What `ssh` said.
        reason: String,
    },
    /// `ssh` does not understand what it is told.
    #[error("ssh refuses its options: {reason}")]
    Options {
        /// What it said.
        reason: String,
    },
}

impl Error {
    /// What to do about it, for a person.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::PortTaken { .. } => Some(
                "end what listens there, or choose another `localPort` (`pollinator tunnel RUN LOCAL:REMOTE` names one by hand)"
                    .into(),
            ),
            Error::NoKey { .. } => {
                Some("correct `sshKey`, or leave it out: ssh then uses its agent and its own configuration".into())
            }
            Error::NoSsh { .. } => Some("install OpenSSH's client (`openssh-client`)".into()),
            Error::HostKey { command, changed: false, .. } => Some(format!(
                "type `{command}` once, compare the fingerprint with the one that its operators publish, and answer yes"
            )),
            Error::HostKey { command, changed: true, .. } => Some(format!(
                "somebody may be listening in: ask its operators; `{command}` says which line of known_hosts is meant"
            )),
            Error::Login { command, .. } => Some(format!(
                "`{command}` has to work without a question: `ssh-add` gives your key to the agent, `sshKey` names another one"
            )),
            Error::Unfit { .. } | Error::Options { .. } => None,
        }
    }
}

/// Where a tunnel leads through, by the `tunnel` section of project.yaml.
///
/// # Errors
/// [`Error::NoKey`] where the key that it names is not there.
pub fn of_project(tunnel: &project::Tunnel) -> Result<(Route, Ports), Error> {
    let jump = Jump { user: Some(tunnel.user.clone()), host: tunnel.jump_host.clone(), port: Some(tunnel.jump_host_port) };
    let route = Route { jump: Some(jump), key: key(&tunnel.ssh_key)? };
    Ok((route, Ports { local: tunnel.local_port, remote: tunnel.remote_port }))
}

/// A key's file: `~` is the home folder; empty: none.
///
/// # Errors
/// [`Error::NoKey`] where it is not there.
pub fn key(text: &str) -> Result<Option<PathBuf>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let path = match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(below), Some(home)) => home.join(below),
        _ => PathBuf::from(text),
    };
    // ssh warns of a key that is missing, goes on, and is refused for a reason that tells nothing of it.
    std::fs::File::open(&path).map_err(|error| Error::NoKey { path: path.clone(), reason: error.to_string() })?;
    Ok(Some(std::path::absolute(&path).unwrap_or(path)))
}

/// Says before anything begins whether a port of this machine can be listened on.
///
/// # Errors
/// [`Error::PortTaken`] where it cannot.
pub fn check_port(port: u16) -> Result<(), Error> {
    let bound = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    bound.map(drop).map_err(|error| Error::PortTaken { port, reason: error.to_string() })
}
