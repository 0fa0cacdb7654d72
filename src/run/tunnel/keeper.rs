//! Keeps a tunnel: waits for the node, starts `ssh`, starts it again when the connection is lost, and ends it with the process.

use super::Error;
use super::argv::Ports;
use super::argv::Route;
use super::nodes;
use super::said::Heard;
use super::said::Words;
use crate::colonies::Client;
use crate::colonies::NODES;
use crate::colonies::ProcessState;
use crate::event::Event;
use crate::event::Events;
use std::convert::Infallible;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;
use tokio::process::Child;
use tokio::process::Command;

/// How often a process is asked where it runs, until it says so: the server tells nobody of attributes.
const LOOK: Duration = Duration::from_secs(1);
/// How often afterwards: one that was taken away may run elsewhere.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// First pause before a lost connection is made anew; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Keeps a tunnel to the node where a process runs. It ends with what cannot be mended, and with whoever drops it: then `ssh` ends, too.
///
/// What happens is told as events, also the error that is given back.
pub async fn attend(client: &Client, process: &str, route: &Route, ports: Ports, events: &Events) -> Error {
    let mut closing = Closing { process, events: events.clone(), opened: false };
    let mut node = place(client, process, None, LOOK).await;
    loop {
        let moved = place(client, process, Some(&node), LOOK_AGAIN);
        let kept = tokio::select! {
            kept = keep(&node, route, ports, &mut closing) => kept,
            elsewhere = moved => {
                node = elsewhere;
                continue;
            }
        };
        let Err(error) = kept;
        let (reason, hint) = (error.to_string(), error.hint());
        events.emit(Event::TunnelFailed { process: process.to_owned(), reason, hint });
        return error;
    }
}

/// Says that the tunnel is closed, however its keeper ends.
struct Closing<'a> {
    process: &'a str,
    events: Events,
    opened: bool,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        if self.opened {
            self.events.emit(Event::TunnelClosed { process: self.process.to_owned() });
        }
    }
}

/// Waits until a process runs on another node than `not`; gives its name.
async fn place(client: &Client, process: &str, not: Option<&str>, look: Duration) -> String {
    loop {
        match client.process(process).await {
            Ok(found) if found.state == ProcessState::Running => {
                let told = found.attribute(NODES).and_then(nodes::first);
                if let Some(node) = told.filter(|node| not != Some(node)) {
                    return node;
                }
            }
            Ok(_) => {}
            // Whoever follows the process tells of a server that does not answer.
            Err(error) => tracing::debug!(%error, process, "it is not known where the process runs"),
        }
        tokio::time::sleep(look).await;
    }
}

async fn keep(node: &str, route: &Route, ports: Ports, told: &mut Closing<'_>) -> Result<Infallible, Error> {
    let mut pause = FIRST_PAUSE;
    let mut last_reason = String::new();
    loop {
        let (opened, words) = once(node, route, ports, told).await?;
        if let Some(error) = words.lasting(route, node, ports) {
            return Err(error);
        }
        if opened {
            pause = FIRST_PAUSE;
        }
        let reason = words.reason();
        // Once for each reason, not for each try.
        if opened || reason != last_reason {
            let (process, again_in) = (told.process.to_owned(), pause.as_secs());
            told.events.emit(Event::TunnelLost { process, reason: reason.clone(), again_in });
        }
        last_reason = reason;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One connection, from its beginning to its end; gives whether the port was listened on, and what was said.
async fn once(node: &str, route: &Route, ports: Ports, told: &mut Closing<'_>) -> Result<(bool, Words), Error> {
    let mut child = start(node, route, ports)?;
    let mut words = Words::default();
    let mut opened = false;
    let Some(stderr) = child.stderr.take() else { return Ok((opened, words)) };
    let mut lines = BufReader::new(stderr).split(b'\n');
    let mut unanswered = false;
    loop {
        let line = match lines.next_segment().await {
            Ok(Some(line)) => line,
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "what ssh says cannot be read");
                break;
            }
        };
        let line = String::from_utf8_lossy(&line);
        tracing::trace!(line = %line.trim_end(), "ssh");
        match words.hear(&line) {
            Heard::Open => {
                opened = true;
                told.opened = true;
                let (process, local, remote) = (told.process.to_owned(), ports.local, ports.remote);
                let through = route.jump.as_ref().map(|jump| jump.host.clone());
                told.events.emit(Event::TunnelOpened { process, local, node: node.to_owned(), remote, through });
            }
            Heard::Unanswered(why) if !unanswered => {
                unanswered = true;
                let port = ports.remote;
                told.events.warn(format!(
                    "the tunnel is open, but nothing answers at port {port} of {node} ({why}): does the program listen there yet, and \
                     on 0.0.0.0?"
                ));
            }
            _ => {}
        }
    }
    if let Err(error) = child.wait().await {
        tracing::debug!(%error, "how ssh ended is not known");
    }
    Ok((opened, words))
}

/// Starts `ssh` so that it ends with us, whichever way that is.
fn start(node: &str, route: &Route, ports: Ports) -> Result<Child, Error> {
    let mut command = Command::new("ssh");
    command.args(route.arguments(node, ports)?);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    // Nobody is to be asked for a password by a window either.
    command.env("SSH_ASKPASS_REQUIRE", "never");
    #[cfg(target_os = "linux")]
    {
        let own = std::process::id();
        let with_us = move || {
            // SAFETY: both calls only read and set what belongs to the calling process, and allocate nothing.
            let parent = unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                libc::getppid()
            };
            // We may have died before it was asked for.
            if u32::try_from(parent) == Ok(own) { Ok(()) } else { Err(std::io::Error::from_raw_os_error(libc::ESRCH)) }
        };
        // SAFETY: between fork and exec only the calls above are made, which are safe for signals.
        unsafe { command.pre_exec(with_us) };
    }
    command.spawn().map_err(|error| Error::NoSsh { reason: error.to_string() })
}
