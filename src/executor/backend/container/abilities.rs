//! What an engine can do on this machine.
//!
//! An engine without root has the control groups that were delegated to its user: by systemd's default those of memory and the
//! number of processes, not of CPUs; none without a session, or with cgroups v1. What podman is asked for beyond that ends a
//! container before it starts (its troubleshooting guide, "Running containers with resource limits fails with a permissions error").

use crate::executor::spec::Job;
use serde_json::Value;

/// What is asked of an engine once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// Root in its containers is who runs it.
    pub rootless: bool,
    /// It can hold containers to a share of the CPUs.
    pub cpu: bool,
    /// To an amount of memory.
    pub memory: bool,
    /// To a number of processes.
    pub processes: bool,
}

impl Abilities {
    /// Those of an engine of root.
    pub const ALL: Abilities = Abilities { rootless: false, cpu: true, memory: true, processes: true };

    /// By what `podman info` says.
    pub fn of_podman(info: &Value) -> Abilities {
        let host = &info["host"];
        let rootless = host["security"]["rootless"].as_bool().unwrap_or(false);
        let Some(controllers) = host["cgroupControllers"].as_array().filter(|_| rootless) else {
            return Abilities { rootless, ..Abilities::ALL };
        };
        let has = |name: &str| controllers.iter().any(|controller| controller == name);
        Abilities { rootless, cpu: has("cpu"), memory: has("memory"), processes: has("pids") }
    }

    /// By what `docker info` says.
    pub fn of_docker(info: &Value) -> Abilities {
        let options = info["SecurityOptions"].as_array();
        let is_rootless = |option: &Value| option.as_str().is_some_and(|option| option.contains("name=rootless"));
        let can = |name: &str| info[name].as_bool().unwrap_or(true);
        Abilities {
            rootless: options.is_some_and(|options| options.iter().any(is_rootless)),
            cpu: can("CpuCfsQuota"),
            memory: can("MemoryLimit"),
            processes: can("PidsLimit"),
        }
    }

    /// What of a job's limits cannot be held, for its reader.
    pub fn lacks(self, job: &Job) -> Option<String> {
        let cpu = (!self.cpu && job.cpu_millis > 0).then_some("CPUs (conditions.cpu)");
        let memory = (!self.memory && job.mem_mib > 0).then_some("memory (conditions.mem)");
        let limits: Vec<&str> = cpu.into_iter().chain(memory).collect();
        let text = "control groups for it are not delegated to the user of the container engine";
        (!limits.is_empty()).then(|| format!("the job is not held to its {}: {text}", limits.join(" and its ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn podman_without_root_has_what_is_delegated() {
        let info = |rootless: bool, controllers: Value| json!({ "host": { "cgroupVersion": "v2", "cgroupControllers": controllers, "security": { "rootless": rootless } } });
        let of = |rootless, controllers| Abilities::of_podman(&info(rootless, controllers));
        assert_eq!(of(true, json!(["memory", "pids"])), Abilities { rootless: true, cpu: false, ..Abilities::ALL });
        let none = Abilities { rootless: true, cpu: false, memory: false, processes: false };
        assert_eq!(of(true, json!([])), none);
        // Of versions that do not say, and of root, everything is expected.
        assert_eq!(of(true, Value::Null), Abilities { rootless: true, ..Abilities::ALL });
        assert_eq!(of(false, json!([])), Abilities::ALL);
        assert_eq!(Abilities::of_podman(&Value::Null), Abilities::ALL);
    }

    #[test]
    fn docker_says_what_it_can() {
        let info = json!({ "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"], "MemoryLimit": false, "CpuCfsQuota": false, "PidsLimit": true });
        assert_eq!(Abilities::of_docker(&info), Abilities { rootless: true, cpu: false, memory: false, processes: true });
        assert_eq!(Abilities::of_docker(&json!({ "SecurityOptions": ["name=seccomp"] })), Abilities::ALL);
        assert_eq!(Abilities::of_docker(&json!({ "SecurityOptions": null })), Abilities::ALL);
    }

    #[test]
    fn what_is_not_held_is_said_where_it_was_asked_for() {
        let spec = json!({ "funcname": "execute", "kwargs": { "cmd": "x", "docker-image": "i" },
            "conditions": { "nodes": 1, "processespernode": 1, "walltime": 60, "cpu": "500m", "mem": "10Mi" } });
        let spec = serde_json::from_value(spec).unwrap();
        let process = crate::colonies::Process { processid: "a".repeat(64), spec, ..Default::default() };
        let mut job = Job::read(&process, true).unwrap();
        assert_eq!(Abilities::ALL.lacks(&job), None);
        let none = Abilities { cpu: false, memory: false, ..Abilities::ALL };
        let begins = |text: &str| none.lacks(&job).unwrap().starts_with(text);
        assert!(begins("the job is not held to its CPUs (conditions.cpu) and its memory (conditions.mem): control groups"));
        job.cpu_millis = 0;
        assert!(none.lacks(&job).unwrap().starts_with("the job is not held to its memory (conditions.mem): "));
        job.mem_mib = 0;
        assert_eq!(none.lacks(&job), None);
    }
}
