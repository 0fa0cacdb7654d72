//! From a project and a snapshot to the function specification that executors understand. Pure.
//!
//! The fields and their values are those that today's executors expect (`executors.md` in the project's papers): src as
//! a snapshot, result kept by the executor at close, data kept as stored.

use crate::colonies::Conditions;
use crate::colonies::DirMount;
use crate::colonies::Filesystem;
use crate::colonies::FunctionSpec;
use crate::colonies::Gpu;
use crate::colonies::KeepLocal;
use crate::colonies::OnConflicts;
use crate::colonies::SnapshotMount;
use crate::event::Tree;
use crate::project::ProjectFile;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;

/// Type of the executors that run containers, jobs and processes.
pub const EXECUTOR_TYPE: &str = "container-executor";
/// Where a job sees its files.
pub const MOUNT: &str = "/cfs";
/// Environment variable that carries our run id.
pub const RUN_ID: &str = "POLLINATOR_RUN_ID";

/// What a specification is made of besides the project's settings.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Name of the colony.
    pub colony: &'a str,
    /// Executors that may take it.
    pub executors: &'a [String],
    /// Snapshot of the src tree.
    pub snapshot_id: &'a str,
    /// Label that the snapshot was made of.
    pub snapshot_label: &'a str,
    /// Our id of the run: the process's label, by which it is found again after a lost answer.
    pub run_id: &'a str,
}

/// The root label of one of a project's trees.
pub fn label(project_name: &str, tree: Tree) -> String {
    format!("/pollinator/{project_name}/{tree}")
}

/// Makes the specification.
pub fn function_spec(project: &ProjectFile, parts: &Parts<'_>) -> FunctionSpec {
    let name = &project.projectname;
    let src_dir = format!("/pollinator/{name}/{}/src", parts.snapshot_id);
    let mut env = BTreeMap::new();
    env.insert("PROJECT_DIR".to_owned(), format!("{MOUNT}/pollinator/{name}"));
    env.insert(RUN_ID.to_owned(), parts.run_id.to_owned());
    FunctionSpec {
        funcname: "execute".into(),
        kwargs: kwargs(project, &src_dir),
        priority: 5,
        maxwaittime: -1,
        maxexectime: max_exec_time(project.walltime),
        maxretries: 3,
        conditions: conditions(project, parts),
        label: parts.run_id.to_owned(),
        fs: Filesystem {
            mount: MOUNT.into(),
            snapshots: Some(vec![SnapshotMount {
                snapshotid: parts.snapshot_id.to_owned(),
                label: parts.snapshot_label.to_owned(),
                dir: src_dir,
                keepfiles: true,
                keepsnapshot: true,
            }]),
            dirs: Some(vec![dir(name, Tree::Result, false, true), dir(name, Tree::Data, true, false)]),
        },
        env,
        ..FunctionSpec::default()
    }
}

/// One second below the walltime, as existing executors want it; at least 1, since 0 would take the process away at once.
fn max_exec_time(walltime: i64) -> i64 {
    (walltime - 1).max(1)
}

fn kwargs(project: &ProjectFile, src_dir: &str) -> Map<String, Value> {
    let args: Vec<String> = project.source.iter().map(|source| format!("{MOUNT}{src_dir}/{source}")).collect();
    let mut kwargs = Map::new();
    kwargs.insert("docker-image".into(), json!(project.docker));
    kwargs.insert("rebuild-image".into(), json!(project.rebuild_image));
    kwargs.insert("init-cmd".into(), json!(project.init_cmd));
    kwargs.insert("cmd".into(), json!(project.cmd));
    kwargs.insert("args".into(), json!(args));
    kwargs
}

fn conditions(project: &ProjectFile, parts: &Parts<'_>) -> Conditions {
    Conditions {
        colonyname: parts.colony.to_owned(),
        executornames: Some(parts.executors.to_vec()),
        executortype: EXECUTOR_TYPE.into(),
        nodes: project.nodes,
        processespernode: project.processes_per_node,
        cpu: project.cpu.clone(),
        mem: project.mem.clone(),
        gpu: Gpu { name: project.gpu.name.clone(), count: project.gpu.count, ..Gpu::default() },
        walltime: project.walltime,
        ..Conditions::default()
    }
}

fn dir(project_name: &str, tree: Tree, keepfiles: bool, keep_on_close: bool) -> DirMount {
    let label = label(project_name, tree);
    DirMount {
        dir: label.clone(),
        label,
        keepfiles,
        onconflicts: OnConflicts { onstart: KeepLocal { keeplocal: false }, onclose: KeepLocal { keeplocal: keep_on_close } },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Gpu as ProjectGpu;
    use serde_json::Value;

    /// The specification that today's tool was recorded to submit, made here of the same project.
    #[test]
    fn it_is_what_todays_tool_submits() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/session-run-follow.json");
        let session: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let submitted = |c: &&Value| c["request"]["payload"]["msgtype"] == "submitfuncspecmsg";
        let theirs =
            session["exchanges"].as_array().unwrap().iter().find(submitted).unwrap()["request"]["payload"]["spec"].clone();
        let label = theirs["fs"]["snapshots"][0]["label"].as_str().unwrap();
        let project = ProjectFile {
            projectname: label.split('/').nth(2).unwrap().into(),
            nodes: 1,
            processes_per_node: 1,
            cpu: "1000m".into(),
            mem: "1000Mi".into(),
            walltime: 600,
            gpu: ProjectGpu::default(),
            docker: "python:3.12-rc-bookworm".into(),
            init_cmd: "pip3 install numpy".into(),
            cmd: "python3".into(),
            source: Some("main.py".into()),
            ..ProjectFile::default()
        };
        let parts = Parts {
            colony: "bench",
            executors: &["bench-exec".to_owned()],
            snapshot_id: theirs["fs"]["snapshots"][0]["snapshotid"].as_str().unwrap(),
            snapshot_label: label,
            run_id: "0123",
        };
        let mut ours = serde_json::to_value(function_spec(&project, &parts)).unwrap();
        // Ours tells which run it is, twice.
        assert_eq!(ours["env"].as_object_mut().unwrap().remove(RUN_ID).unwrap(), "0123");
        assert_eq!(std::mem::replace(&mut ours["label"], theirs["label"].clone()), "0123");
        assert_eq!(ours, theirs);
    }

    #[test]
    fn a_walltime_of_one_second_is_not_over_at_once() {
        assert_eq!((max_exec_time(1), max_exec_time(2), max_exec_time(600)), (1, 1, 599));
    }
}
