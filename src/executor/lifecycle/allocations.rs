//! What is allocated to which project is reported to the colony while jobs run.
//!
//! The protocol has CPU, GPUs and storage for each project, no memory. "Allocated" is what all jobs of the project hold, "used" what
//! those that run hold: millicores and GPUs. Jobs that go on while the executor is stopped stay allocated.

use super::Host;
use super::retry::until_answered;
use super::room::Taken;
use crate::colonies::Allocations;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Pause after a report: a hundred short jobs are not a hundred reports.
const PACE: Duration = Duration::from_secs(2);
/// Stands for processes that belong to no project.
const NO_PROJECT: &str = "-";

impl Host {
    /// Reports until the shutdown.
    pub(super) async fn report_allocations(self: Arc<Host>) {
        let mut news = self.room.news();
        let mut told = None;
        loop {
            news.borrow_and_update();
            let now = allocations(&self.room.by_project());
            if told.as_ref() != Some(&now) {
                let reporting = until_answered("reportallocation", || self.client.report_allocation(&self.name, &now));
                tokio::select! {
                    told = reporting => if let Err(error) = told {
                        // Nothing depends on it.
                        tracing::debug!(%error, "what is allocated cannot be reported");
                    },
                    () = self.shutdown.cancelled() => return,
                }
                told = Some(now);
                tokio::select! { () = tokio::time::sleep(PACE) => {}, () = self.shutdown.cancelled() => return }
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return },
                () = self.shutdown.cancelled() => return,
            }
        }
    }
}

fn allocations(taken: &[Taken]) -> Allocations {
    let one = |taken: &Taken| {
        let project = if taken.project.is_empty() { NO_PROJECT.to_owned() } else { taken.project.clone() };
        let ((cpu, used_cpu), (gpus, used_gpus)) = (taken.cpu, taken.gpus);
        let numbers = json!({ "allocatedcpu": cpu, "usedcpu": used_cpu, "allocatedgpu": gpus, "usedgpu": used_gpus,
            "allocatedstorage": 0, "usedstorage": 0 });
        (project, numbers)
    };
    Allocations { projects: Some(taken.iter().map(one).collect()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_where_the_protocol_has_them() {
        let taken = [
            Taken { project: "p".into(), cpu: (3000, 1000), gpus: (2, 1) },
            Taken { project: String::new(), cpu: (0, 0), gpus: (0, 0) },
        ];
        let told = serde_json::to_value(allocations(&taken)).unwrap();
        let want = json!({ "allocatedcpu": 3000, "usedcpu": 1000, "allocatedgpu": 2, "usedgpu": 1,
            "allocatedstorage": 0, "usedstorage": 0 });
        assert_eq!(told["projects"]["p"], want);
        assert_eq!(told["projects"]["-"]["allocatedcpu"], 0);
        assert_eq!(serde_json::to_value(allocations(&[])).unwrap(), json!({ "projects": {} }));
    }
}
