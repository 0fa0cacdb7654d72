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
