//! What `ssh` is told. Pure.
//!
//! Names come from specifications, attributes and command lines. None of them reaches `ssh` that could be taken for an option, for a
//! place of another kind, or for a text in which `ssh` replaces something.

use super::Error;
use crate::project::is_host_name;
use crate::project::is_user_name;
use std::ffi::OsString;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

/// The host that a tunnel leads through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// Who logs in; none: as ssh's configuration says.
    pub user: Option<String>,
    /// Its name or address, or what ssh's configuration calls it.
    pub host: String,
    /// Its port; none: as ssh's configuration says.
    pub port: Option<u16>,
}

/// How a node is come by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The host that can reach it; none: it takes logins itself.
    pub jump: Option<Jump>,
    /// A key besides those of ssh's configuration and agent.
    pub key: Option<PathBuf>,
}

/// The two ends of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// On this machine's loopback.
    pub local: u16,
    /// On the node.
    pub remote: u16,
}

impl FromStr for Ports {
    type Err = String;

    /// `8888:8888`, or one number for both.
    fn from_str(text: &str) -> Result<Ports, String> {
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && text.bytes().all(|b| b.is_ascii_digit()));
        match (port(local), port(remote)) {
            (Some(local), Some(remote)) => Ok(Ports { local, remote }),
            _ => Err("must be LOCAL:REMOTE, two ports from 1 to 65535".into()),
        }
    }
}

impl FromStr for Jump {
    type Err = String;

    /// `host`, `user@host`, `user@host:port`, `[address]:port`.
    fn from_str(text: &str) -> Result<Jump, String> {
        let (user, place) = match text.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, text),
        };
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or("must be [USER@]HOST[:PORT]")?)),
            None => match place.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (place, None),
            },
        };
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err("must be [USER@]HOST[:PORT] with a port from 1 to 65535".into()),
        };
        match user {
            Some(user) if !is_user_name(user) => Err(format!("{user:?} is not a user's name")),
            _ if !is_host_name(host) => Err(format!("{host:?} is not a host's name")),
            _ => Ok(Jump { user: user.map(str::to_owned), host: host.to_owned(), port }),
        }
    }
}

impl Route {
    /// The host that `ssh` logs in to on the way to a node.
    pub(super) fn host<'a>(&'a self, node: &'a str) -> &'a str {
        self.jump.as_ref().map_or(node, |jump| &jump.host)
    }

    /// What a person types to log in there.
    pub(super) fn command(&self, node: &str) -> String {
        let mut command = "ssh".to_owned();
        if let Some(port) = self.jump.as_ref().and_then(|jump| jump.port).filter(|port| *port != 22) {
            command.push_str(&format!(" -p {port}"));
        }
        if let Some(key) = &self.key {
            command.push_str(&format!(" -i {}", key.display()));
        }
        match self.jump.as_ref().and_then(|jump| jump.user.as_ref()) {
            Some(user) => format!("{command} {user}@{}", self.host(node)),
            None => format!("{command} {}", self.host(node)),
        }
    }

    /// The arguments of `ssh`.
    ///
    /// # Errors
    /// [`Error::Unfit`] where a name is none.
    pub(super) fn arguments(&self, node: &str, ports: Ports) -> Result<Vec<OsString>, Error> {
        check(is_host_name(node), node, "not the name of a node")?;
        if let Some(jump) = &self.jump {
            check(is_host_name(&jump.host), &jump.host, "not a host's name")?;
            let user = jump.user.as_deref();
            check(user.is_none_or(is_user_name), user.unwrap_or_default(), "not a user's name")?;
        }
        let mut arguments: Vec<OsString> = OPTIONS.iter().flat_map(|option| ["-o", option]).map(Into::into).collect();
        // `-v` says when the port is listened on. No login shell, no forwarding of agent or screen, no shared connection: what a
        // master holds would outlive this tunnel.
        arguments.extend(["-v", "-N", "-T", "-a", "-x", "-S", "none"].map(Into::into));
        let target = if self.jump.is_some() { bracketed(node) } else { "127.0.0.1".into() };
        arguments.extend(["-L".into(), format!("127.0.0.1:{}:{target}:{}", ports.local, ports.remote).into()]);
        if let Some(key) = &self.key {
            let text = key.to_string_lossy();
            check(!text.contains("${") && !text.contains(char::is_control), &text, "no path that ssh takes for a key")?;
            arguments.extend(["-i".into(), text.replace('%', "%%").into()]);
        }
        if let Some(jump) = &self.jump {
            if let Some(port) = jump.port {
                arguments.extend(["-p".into(), port.to_string().into()]);
            }
            if let Some(user) = &jump.user {
                arguments.extend(["-l".into(), user.into()]);
            }
        }
        arguments.extend(["--".into(), self.host(node).into()]);
        Ok(arguments)
    }
}

/// What holds whatever ssh's configuration says: nobody is asked anything, no key is trusted unseen, a tunnel that cannot listen ends,
/// and one whose other end is gone ends soon.
const OPTIONS: [&str; 9] = [
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "ExitOnForwardFailure=yes",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "ConnectTimeout=15",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "GatewayPorts=no",
];

fn check(holds: bool, text: &str, wanted: &'static str) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::Unfit { text: text.into(), wanted }) }
}

fn bracketed(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PORTS: Ports = Ports { local: 8888, remote: 9999 };

    fn words(route: &Route, node: &str) -> Vec<String> {
        route.arguments(node, PORTS).unwrap().into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    fn route(jump: &str) -> Route {
        Route { jump: Some(jump.parse().unwrap()), key: None }
    }

    #[test]
    fn the_jump_host_forwards_to_the_node() {
        let with_key = Route { key: Some("/home/a b/50%.key".into()), ..route("ada@login.example.org:2222") };
        let said = words(&with_key, "n01");
        assert!(
            said.ends_with(
                &[
                    "-L",
                    "127.0.0.1:8888:n01:9999",
                    "-i",
                    "/home/a b/50%%.key",
                    "-p",
                    "2222",
                    "-l",
                    "ada",
                    "--",
                    "login.example.org"
                ]
                .map(String::from)
            )
        );
        assert!(said.contains(&"StrictHostKeyChecking=yes".to_owned()) && !said.iter().any(|word| word == "-F" || word == "-f"));
        assert_eq!(with_key.command("n01"), "ssh -p 2222 -i /home/a b/50%.key ada@login.example.org");
        assert!(words(&route("login"), "fe80::1").contains(&"127.0.0.1:8888:[fe80::1]:9999".to_owned()));
        let direct = words(&Route::default(), "n01");
        assert!(direct.ends_with(&["-L", "127.0.0.1:8888:127.0.0.1:9999", "--", "n01"].map(String::from)), "{direct:?}");
    }

    #[test]
    fn jumps_and_ports_are_read() {
        let jump = |text: &str| text.parse::<Jump>().map(|j| (j.user.unwrap_or_default(), j.host, j.port.unwrap_or(0)));
        for (text, user, host, port) in [
            ("h", "", "h", 0),
            ("a@h", "a", "h", 0),
            ("a@b@h:22", "a@b", "h", 22),
            ("[::1]:22", "", "::1", 22),
            ("::1", "", "::1", 0),
            ("u@[fe80::1]", "u", "fe80::1", 0),
        ] {
            assert_eq!(jump(text), Ok((user.into(), host.into(), port)), "{text}");
        }
        for bad in [
            "",
            "-oProxyCommand=x",
            "a@-x",
            "-x@h",
            "@h",
            "h:",
            "h:0",
            "h:x",
            "h:70000",
            "a b",
            "h/x",
            "a@h;id",
            "[h]x",
            "%h",
            "h\n",
        ] {
            assert!(jump(bad).is_err(), "{bad:?}");
        }
        assert_eq!("8888:9999".parse(), Ok(PORTS));
        assert_eq!("80".parse(), Ok(Ports { local: 80, remote: 80 }));
        for bad in ["", ":", "1:", ":1", "0:1", "1:65536", "+1:2", "1:2:3", "-1"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_name_never_reaches_ssh() {
        for bad in
            ["", "-oProxyCommand=id", "n01:22", "a b", "n;id", "$(id)", "n\n", "n01,n02", "n[1-2]", "%h", "/tmp/socket", "a@b"]
        {
            assert!(matches!(route("login").arguments(bad, PORTS), Err(Error::Unfit { .. })), "{bad:?}");
            let jump = Jump { user: None, host: bad.into(), port: None };
            assert!(Route { jump: Some(jump), key: None }.arguments("n01", PORTS).is_err(), "{bad:?}");
        }
        let jump = Jump { user: Some("-l".into()), host: "h".into(), port: None };
        assert!(Route { jump: Some(jump), key: None }.arguments("n01", PORTS).is_err());
    }

    proptest! {
        #[test]
        fn names_are_refused_or_stay_one_word(node in ".{0,12}", user in ".{0,8}", host in ".{0,12}") {
            let jump = Jump { user: Some(user.clone()), host: host.clone(), port: Some(22) };
            if let Ok(arguments) = (Route { jump: Some(jump), key: None }).arguments(&node, PORTS) {
                prop_assert!(![&node, &user, &host].into_iter().any(|name| name.starts_with('-') || name.is_empty()));
                prop_assert_eq!(arguments.last().unwrap().to_str().unwrap(), host);
            }
        }
    }
}
