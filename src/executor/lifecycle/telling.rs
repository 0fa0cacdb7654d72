//! What becomes known about a job is told to the colony: where it runs (a tunnel needs it), and why it does not run yet.
//!
//! Attributes cannot be changed once they are set (their id is a digest of process, type and key), so each reason for
//! waiting is an attribute of its own, numbered; the last one counts, until the nodes are named.

use super::retry::until_answered;
use crate::colonies::ATTRIBUTE_SET;
use crate::colonies::Attribute;
use crate::colonies::Client;
use crate::colonies::NODES;
use crate::colonies::WAITING;
use crate::executor::backend::Facts;
use crate::executor::backend::say;
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// Most reasons for waiting that are told of one job: a scheduler that changes its mind all the time fills no database.
const MOST: usize = 20;
/// Pause after a reason was told.
const PACE: Duration = Duration::from_secs(2);

/// Tells about one job.
pub(super) struct Teller {
    pub(super) client: Client,
    pub(super) process_id: String,
    /// The job's main output, for the reader of the process log.
    pub(super) log: PathBuf,
}

impl Teller {
    /// Tells what is known and what becomes known, until nobody will say more.
    pub(super) async fn tell(self, mut facts: watch::Receiver<Facts>) {
        let mut told = HashSet::new();
        let mut reasons: Vec<String> = Vec::new();
        loop {
            let now = facts.borrow_and_update().clone();
            let nodes = (!now.nodes.is_empty()).then(|| (NODES.to_owned(), now.nodes.join(",")));
            let home = now.home.map(|home| ("HOME".to_owned(), home));
            for (key, value) in nodes.into_iter().chain(home).chain(now.job_id) {
                if told.insert(key.clone()) {
                    self.set(key, value).await;
                }
            }
            if let Some(reason) = now.waiting.filter(|reason| reasons.last() != Some(reason) && reasons.len() < MOST) {
                self.wait_for(reasons.len() + 1, &reason).await;
                reasons.push(reason);
                tokio::time::sleep(PACE).await;
            }
            if facts.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tells why a job is not even in the queue of its backend; what the backend says of one that is comes after it.
    pub(super) async fn hold_up(&self, reason: &str) {
        if self.set(format!("{WAITING}-0"), reason.to_owned()).await {
            let line = format!("pollinator: waiting: {reason}\n");
            // The log's stream begins with the job.
            if let Err(error) = self.client.add_log(&self.process_id, &line).await {
                tracing::debug!(process = self.process_id, %error, "the reader of the log is not told");
            }
        }
    }

    async fn wait_for(&self, number: usize, reason: &str) {
        let key = format!("{WAITING}-{number}");
        // After a restart of the executor the numbers begin anew, and a number that is set already stays as it is.
        if self.set(key, reason.to_owned()).await {
            let line = format!("waiting: {reason}");
            say(&self.log, &line).unwrap_or_else(|error| tracing::warn!(%error, "cannot add to the log"));
        }
    }

    /// Whether it is set now. Setting one twice is refused: then it is there, and all is well.
    async fn set(&self, key: String, value: String) -> bool {
        let attribute = Attribute {
            targetid: self.process_id.clone(),
            targetcolonyname: self.client.colony().into(),
            attributetype: ATTRIBUTE_SET,
            key,
            value,
            ..Attribute::default()
        };
        let set = until_answered("addattribute", || self.client.add_attribute(&attribute)).await;
        if let Err(error) = &set {
            tracing::debug!(process = self.process_id, key = attribute.key, %error, "an attribute is not set");
        }
        set.is_ok()
    }
}
