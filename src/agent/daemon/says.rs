//! What the agent says of itself.

use super::Daemon;
use super::requests::unknown;
use crate::agent::control::model::AgentStatus;
use crate::agent::control::model::PROTOCOL;
use crate::agent::control::model::Refusal;
use crate::agent::control::model::StatusReply;
use crate::agent::engine::Millis;
use crate::agent::lock;
use crate::agent::member::Member;
use crate::agent::memory;
use jiff::SignedDuration;
use jiff::Timestamp;
use std::path::Path;

impl Daemon {
    pub(super) fn status(&self, root: Option<&Path>) -> Result<StatusReply, Refusal> {
        let chosen: Vec<&Member> = match root {
            None => self.members.values().collect(),
            Some(root) => {
                let id = self.find_above(root).ok_or_else(|| unknown(root))?;
                self.members.get(&id).into_iter().collect()
            }
        };
        let (began, started) = (self.began, self.started);
        let now = (Timestamp::now(), u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        let clock = move |time: Millis| now.0 + SignedDuration::from_millis(time as i64 - now.1 as i64);
        let projects: Vec<_> = chosen.into_iter().map(|member| member.status(clock)).collect();
        let ok = projects.iter().all(|project| project.in_sync || project.state == "paused");
        let agent = AgentStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: PROTOCOL,
            pid: std::process::id(),
            host: lock::host(),
            started: started.to_string(),
            uptime: began.elapsed().as_secs(),
            memory: memory::resident(),
            state_dir: self.options.state.clone(),
        };
        Ok(StatusReply { agent, projects, ok })
    }

    /// Tells those who watch the status, where it is another than before.
    pub(super) fn tell_changes(&mut self) {
        if !std::mem::take(&mut self.changed) || self.watchers.is_empty() {
            return;
        }
        let Ok(status) = self.status(None) else { return };
        let is_news = self.last_told.as_ref().is_none_or(|told| told.projects != status.projects);
        if is_news {
            self.watchers.retain(|watcher| watcher.send(status.clone()).is_ok());
            self.last_told = Some(status);
        }
    }
}
