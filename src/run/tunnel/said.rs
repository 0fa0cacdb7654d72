//! What `ssh -v` says, understood as far as a tunnel needs it. Pure.

use super::Error;
use super::argv::Ports;
use super::argv::Route;

/// So many lines are kept for reasons.
const KEPT: usize = 6;

/// A line that means something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The port is listened on.
    Open,
    /// Somebody connected, and the other end could not be reached: why.
    Unanswered(String),
    /// Nothing.
    Nothing,
}

/// The last lines that are no diagnostics.
#[derive(Debug, Default)]
pub(super) struct Words {
    lines: Vec<String>,
    changed: bool,
}

impl Words {
    /// Takes a line.
    pub(super) fn hear(&mut self, line: &str) -> Heard {
        let line = line.trim();
        if let Some(diagnostic) = line.strip_prefix("debug1: ") {
            return if diagnostic.starts_with("Local forwarding listening on ") { Heard::Open } else { Heard::Nothing };
        }
        self.changed |= line.contains("REMOTE HOST IDENTIFICATION HAS CHANGED");
        // `channel 2: open failed: connect failed: Connection refused`
        if let Some((_, why)) = line.split_once(": open failed: ").filter(|_| line.starts_with("channel ")) {
            return Heard::Unanswered(why.to_owned());
        }
        let is_chatter = line.is_empty()
            || line.starts_with("OpenSSH_")
            || line.starts_with("Authenticated to ")
            || line.starts_with("Transferred: ")
            || line.starts_with("Bytes per second: ")
            || line.starts_with('@');
        if !is_chatter {
            if self.lines.len() == KEPT {
                self.lines.remove(0);
            }
            self.lines.push(line.to_owned());
        }
        Heard::Nothing
    }

    /// Why `ssh` ended, in its own words.
    pub(super) fn reason(&self) -> String {
        match self.lines.last() {
            Some(line) => line.clone(),
            None => "the connection ended".into(),
        }
    }

    /// What will not go away by itself.
    pub(super) fn lasting(&self, route: &Route, node: &str, ports: Ports) -> Option<Error> {
        let has = |text: &str| self.lines.iter().any(|line| line.contains(text));
        let (host, command) = (route.host(node).to_owned(), route.command(node));
        if has("Host key verification failed") {
            return Some(Error::HostKey { host, command, changed: self.changed });
        }
        if has("Permission denied (") || has("Too many authentication failures") || has("No supported authentication methods") {
            let found = self.lines.iter().find(|line| line.contains("too open")).or(self.lines.last());
            return Some(Error::Login { host, command, reason: found.cloned().unwrap_or_default() });
        }
        if has("Could not request local forwarding") || has("cannot listen to port") {
            let found = self.lines.iter().find(|line| line.starts_with("bind ")).or(self.lines.first());
            let reason = found.map(|line| line.rsplit_once(": ").map_or(line.as_str(), |(_, why)| why).to_owned());
            return Some(Error::PortTaken { port: ports.local, reason: reason.unwrap_or_default() });
        }
        let options = ["Bad configuration option", "unknown option", "command-line line ", "usage: ssh", "terminating, "];
        let found = self.lines.iter().find(|line| options.iter().any(|text| line.contains(text)));
        found.map(|line| Error::Options { reason: line.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Words {
        let mut words = Words::default();
        text.lines().for_each(|line| drop(words.hear(line)));
        words
    }

    fn lasting(text: &str) -> Option<Error> {
        let route = Route { jump: Some("ada@login:2222".parse().unwrap()), key: None };
        heard(text).lasting(&route, "n1", Ports { local: 8888, remote: 1 })
    }

    #[test]
    fn what_lasts_is_told_from_what_passes() {
        let unknown = "OpenSSH_9.2p1\r\nNo ED25519 host key is known for [login]:2222 and you have requested strict checking.\r\nHost key verification failed.\r\n";
        assert!(matches!(lasting(unknown), Some(Error::HostKey { changed: false, .. })));
        let hint = lasting(unknown).and_then(|error| error.hint()).unwrap();
        assert!(hint.contains("`ssh -p 2222 ada@login` once"), "{hint}");
        let changed = format!("@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n{unknown}");
        assert!(matches!(lasting(&changed), Some(Error::HostKey { changed: true, .. })));
        assert!(matches!(lasting("ada@login: Permission denied (publickey).\n"), Some(Error::Login { .. })));
        let taken = lasting(
            "bind [127.0.0.1]:8888: Address already in use\nchannel_setup_fwd_listener_tcpip: cannot listen to port: 8888\nCould not request local forwarding.\n",
        );
        assert_eq!(taken, Some(Error::PortTaken { port: 8888, reason: "Address already in use".into() }));
        assert!(matches!(lasting("command-line: line 0: Bad configuration option: x\n"), Some(Error::Options { .. })));
        for passing in [
            "ssh: connect to host login port 2222: Connection refused\n",
            "ssh: Could not resolve hostname login: Name or service not known\n",
            "Timeout, server login not responding.\n",
            "Connection to login closed by remote host.\n",
            "kex_exchange_identification: read: Connection reset by peer\n",
            "",
        ] {
            assert_eq!(lasting(passing), None, "{passing}");
        }
        assert_eq!(heard("x\nConnection refused\n\ndebug1: y\n").reason(), "Connection refused");
    }

    #[test]
    fn a_port_that_is_listened_on_is_heard_of() {
        let mut words = Words::default();
        assert_eq!(words.hear("debug1: Local connections to 127.0.0.1:8888 forwarded to remote address n1:1"), Heard::Nothing);
        assert_eq!(words.hear("debug1: Local forwarding listening on 127.0.0.1 port 8888."), Heard::Open);
        let refused = words.hear("channel 2: open failed: connect failed: Connection refused");
        assert_eq!(refused, Heard::Unanswered("connect failed: Connection refused".into()));
    }
}
