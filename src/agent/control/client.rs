//! The command line's end of the control socket.

use super::model::Line;
use super::model::PROTOCOL;
use super::model::Refusal;
use super::model::RefusalKind;
use super::model::StatusReply;
use super::model::Work;
use super::socket_path;
use crate::agent::Error;
use crate::agent::engine::Failure;
use crate::agent::lock;
use crate::event::Events;
use crate::socket;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;

/// How long an answer that is no work may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An agent within reach.
#[derive(Clone, Debug)]
pub struct Agent {
    http: reqwest::Client,
    /// Its version.
    pub version: String,
}

#[derive(serde::Deserialize)]
struct Hello {
    version: String,
    protocol: u32,
}

impl Agent {
    /// Finds the agent of a state folder; none: none runs.
    ///
    /// # Errors
    /// [`Error::Refused`]: it speaks another protocol. [`Error::Garbled`]: what answers is no agent.
    pub async fn find(state: &Path) -> Result<Option<Agent>, Error> {
        let path = socket_path(state);
        if !path.exists() {
            return Ok(None);
        }
        let agent = Agent { http: client(&path)?, version: String::new() };
        let hello: Hello = match agent.get("/v1/agent").await {
            Err(Error::NotRunning) => return Ok(None),
            // It ended while it was asked.
            Err(Error::Garbled { .. }) if lock::holder(state).is_none() => return Ok(None),
            other => other?,
        };
        if hello.protocol != PROTOCOL {
            return Err(Error::Refused {
                message: format!(
                    "the agent that runs is version {} and speaks protocol {}; this is version {} with protocol {PROTOCOL}",
                    hello.version,
                    hello.protocol,
                    env!("CARGO_PKG_VERSION")
                ),
                hint: Some("`pollinatord restart` replaces it by this version".into()),
                code: 1,
                kind: RefusalKind::Other,
            });
        }
        Ok(Some(Agent { version: hello.version, ..agent }))
    }

    /// Whether it is of this very version.
    pub fn is_same_version(&self) -> bool {
        self.version == env!("CARGO_PKG_VERSION")
    }

    /// Its status, of all projects or of one.
    pub async fn status(&self, root: Option<&Path>) -> Result<StatusReply, Error> {
        match root {
            Some(root) => self.get(&format!("/v1/status?root={}", encode(root))).await,
            None => self.get("/v1/status").await,
        }
    }

    /// Sends a command that has no answer but yes or no.
    pub async fn tell(&self, path: &str, body: &impl Serialize) -> Result<(), Error> {
        let response = self.http.post(url(path)).timeout(PATIENCE).json(body).send().await.map_err(unreachable)?;
        check(response).await.map(drop)
    }

    /// Hands work over, and follows it: events go to `events`.
    pub async fn work(&self, work: &Work, events: &Events) -> Result<Handed, Error> {
        let response = self.http.post(url("/v1/work")).json(work).send().await.map_err(unreachable)?;
        let mut handed = Handed { lines: Lines::new(check(response).await?), runs: Vec::new() };
        loop {
            match handed.lines.next().await? {
                Some(Line::Event(event)) => events.emit(event.what),
                Some(Line::Done(answer)) => {
                    handed.runs = answer.runs;
                    return Ok(handed);
                }
                Some(Line::Failed(Failure { reason, hint, code, .. })) => {
                    return Err(Error::Refused { message: reason, hint, code, kind: RefusalKind::Other });
                }
                None => return Err(Error::Garbled { reason: "it ended before the work did".into() }),
            }
        }
    }

    /// Status again and again, whenever it changes.
    pub async fn watch(&self, mut each: impl FnMut(StatusReply)) -> Result<(), Error> {
        let response = self.http.get(url("/v1/watch")).send().await.map_err(unreachable)?;
        let mut lines = Lines::new(check(response).await?);
        while let Some(status) = lines.next().await? {
            each(status);
        }
        Ok(())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let response = self.http.get(url(path)).timeout(PATIENCE).send().await.map_err(unreachable)?;
        let response = check(response).await?;
        response.json().await.map_err(|e| Error::Garbled { reason: e.to_string() })
    }
}

/// Work that was done. While this lives, the agent leaves to us what we said that we would do ourselves.
#[derive(Debug)]
pub struct Handed {
    lines: Lines,
    /// Runs that were made.
    pub runs: Vec<String>,
}

/// Lines of JSON out of a body.
#[derive(Debug)]
struct Lines {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Lines {
    fn new(response: reqwest::Response) -> Lines {
        Lines { response, buffer: Vec::new() }
    }

    async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let read = serde_json::from_slice(&line);
                return read.map(Some).map_err(|e| Error::Garbled { reason: e.to_string() });
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.buffer.extend_from_slice(&bytes),
                Ok(None) => return Ok(None),
                Err(error) => return Err(Error::Garbled { reason: format!("the connection broke ({error})") }),
            }
        }
    }
}

fn client(socket: &Path) -> Result<reqwest::Client, Error> {
    socket::client(socket).map_err(|reason| Error::Garbled { reason })
}

fn url(path: &str) -> String {
    format!("http://agent{path}")
}

/// A path as a value of a query.
fn encode(path: &Path) -> String {
    percent_encoding::percent_encode(path.as_os_str().as_encoded_bytes(), percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn unreachable(error: reqwest::Error) -> Error {
    if error.is_connect() {
        return Error::NotRunning;
    }
    let why = if error.is_timeout() { format!("nothing came for {} s", PATIENCE.as_secs()) } else { error.to_string() };
    Error::Garbled { reason: why }
}

async fn check(response: reqwest::Response) -> Result<reqwest::Response, Error> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    match response.json::<Refusal>().await {
        Ok(Refusal { message, hint, code, kind }) => Err(Error::Refused { message, hint, code, kind }),
        Err(_) => Err(Error::Garbled { reason: format!("it answered with {status}") }),
    }
}
