//! What the engine says about all our containers at once.

use super::cli::Cli;
use super::settings::Flavour;
use super::words::Names;
use crate::executor::backend::Failure;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long the engine may take to list containers.
const LIMIT: Duration = Duration::from_secs(60);
/// The share of time that may go into listing is one in so many; but the pause is never longer than that.
const SHARE: u32 = 20;
const LONGEST: Duration = Duration::from_secs(30);

/// How it stands with a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Made, and not started.
    Made,
    /// Running, paused, about to end: anything that is not over.
    Alive,
    /// Ended.
    Over,
}

/// Containers by name.
pub(super) type States = BTreeMap<String, State>;

/// Asks once for all jobs that want to know.
#[derive(Debug)]
pub(super) struct Census {
    cli: Cli,
    names: Names,
    last: Mutex<Option<(Instant, Arc<States>)>>,
    /// What the last list took, ms.
    cost: AtomicU64,
}

impl Census {
    pub(super) fn new(cli: Cli, names: Names) -> Census {
        Census { cli, names, last: Mutex::default(), cost: AtomicU64::new(0) }
    }

    /// The pause between two lists: where they take long (thousands of containers, a busy machine), longer than wished.
    pub(super) fn pace(&self, wished: Duration) -> Duration {
        let cost = Duration::from_millis(self.cost.load(Ordering::Relaxed));
        wished.max((cost * SHARE).min(LONGEST))
    }

    /// How it stood at some time after `oldest`.
    ///
    /// # Errors
    /// The engine did not answer, or not so that it could be understood.
    pub(super) async fn since(&self, oldest: Instant) -> Result<Arc<States>, Failure> {
        let mut last = self.last.lock().await;
        if let Some((asked, states)) = &*last
            && *asked >= oldest
        {
            return Ok(states.clone());
        }
        let asked = Instant::now();
        let states = Arc::new(self.ask().await?);
        self.cost.store(asked.elapsed().as_millis() as u64, Ordering::Relaxed);
        *last = Some((asked, states.clone()));
        Ok(states)
    }

    async fn ask(&self) -> Result<States, Failure> {
        let what = "cannot list the containers";
        let format = match self.cli.flavour {
            Flavour::Podman => "json",
            Flavour::Docker => "{{json .}}",
        };
        let filter = self.names.filter();
        let words: Vec<OsString> =
            ["ps", "--all", "--no-trunc", "--filter", &filter, "--format", format].iter().map(OsString::from).collect();
        let answer = self.cli.call(what, &words, LIMIT, true).await?;
        let unanswered = |reason| Failure::Unanswered { what: what.into(), reason };
        if !answer.success {
            return Err(unanswered(answer.complaint()));
        }
        read(&answer.stdout).map_err(unanswered)
    }
}

/// Reads a list (podman) or a value a line (docker).
fn read(text: &str) -> Result<States, String> {
    let mut states = States::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match value.map_err(|e| format!("the list of containers cannot be read: {e}"))? {
            Value::Array(all) => all.iter().try_for_each(|one| entry(one, &mut states))?,
            Value::Null => {}
            one => entry(&one, &mut states)?,
        }
    }
    Ok(states)
}

fn entry(value: &Value, states: &mut States) -> Result<(), String> {
    let names = match value.get("Names") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(names)) => names.split(',').collect(),
        _ => Vec::new(),
    };
    let (false, Some(state)) = (names.is_empty(), value.get("State").and_then(Value::as_str)) else {
        return Err("the list of containers holds one without a name or a state".into());
    };
    let state = match state.to_ascii_lowercase().as_str() {
        "created" | "configured" | "initialized" => State::Made,
        "exited" | "dead" | "stopped" => State::Over,
        _ => State::Alive,
    };
    states.extend(names.into_iter().map(|name| (name.to_owned(), state)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_engines_are_understood() {
        let podman = r#"[{"Names":["a"],"State":"running"},{"Names":["b"],"State":"exited"},{"Names":["c"],"State":"created"}]"#;
        let docker = "{\"Names\":\"a\",\"State\":\"running\"}\n{\"Names\":\"b\",\"State\":\"exited\"}\n{\"Names\":\"c\",\"State\":\"created\"}\n";
        for text in [podman, docker] {
            let states = read(text).unwrap();
            let all: Vec<_> = states.iter().map(|(name, state)| (name.as_str(), *state)).collect();
            assert_eq!(all, [("a", State::Alive), ("b", State::Over), ("c", State::Made)]);
        }
        for empty in ["", "[]\n", "null"] {
            assert!(read(empty).unwrap().is_empty());
        }
        for bad in ["{", "[{}]", "[{\"Names\":[],\"State\":\"x\"}]"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(read(r#"[{"Names":["a"],"State":"something new"}]"#).unwrap()["a"], State::Alive, "unknown is no end");
    }
}
