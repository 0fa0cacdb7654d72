//! From a project and a snapshot to the function specification that executors understand. Pure.
//!
//! The fields and their values are those that today's executors expect (`executors.md` in the project's papers): src as
//! a snapshot, result kept by the executor at close, data kept as stored.

use super::points;
use super::points::Point;
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
use crate::project::Results;
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

/// Environment variable that names the folder where results are to be written.
pub const RESULT_DIR: &str = "RESULT_DIR";
/// What stands for the id of a snapshot that was not made.
pub const NO_SNAPSHOT: &str = "SNAPSHOT_ID";
/// What stands for the id of a run that there is not.
pub const NO_RUN: &str = "RUN_ID";
/// What stands for the id of a sweep that there is not.
pub const NO_SWEEP: &str = "SWEEP_ID";
/// So many digits of a run's id name the folder of its results.
const RESULT_DIGITS: usize = 12;

/// What a specification is made of besides the project's settings.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Name of the colony.
    pub colony: &'a str,
    /// Executors that may take it.
    pub executors: &'a [String],
    /// Whether all of them are ours and have a queue of their own: then no time in it counts against the run.
    pub queue: bool,
    /// Snapshot of the src tree.
    pub snapshot_id: &'a str,
    /// Label that the snapshot was made of.
    pub snapshot_label: &'a str,
    /// Our id of the run: the process's label, by which it is found again after a lost answer.
    pub run_id: &'a str,
    /// The sweep that it is a part of, by its id, and which part.
    pub sweep: Option<(&'a str, &'a Point)>,
}

/// The root label of one of a project's trees.
pub fn label(project_name: &str, tree: Tree) -> String {
    format!("/pollinator/{project_name}/{tree}")
}

/// The label where a run's results lie: that of all runs, or one below it. Those of a sweep are never in one place, since the
/// same program would write the same names.
fn result_label(project: &ProjectFile, parts: &Parts<'_>) -> String {
    let label = label(&project.projectname, Tree::Result);
    let id = beginning(parts.run_id);
    match (parts.sweep, project.results) {
        (Some((sweep, point)), _) => {
            format!("{label}/sweep-{}/{}", beginning(sweep), points::folder_name(&point.values, id))
        }
        (None, Results::Shared) => label,
        (None, Results::PerRun) => format!("{label}/{id}"),
    }
}

fn beginning(run_id: &str) -> &str {
    run_id.get(..RESULT_DIGITS).unwrap_or(run_id)
}

/// The folder below `cfs/result` where a run's results lie, by its specification as it was submitted; none where all runs
/// write to one.
pub fn result_folder(spec: &str, project_name: &str) -> Option<String> {
    let spec: FunctionSpec = serde_json::from_str(spec).ok()?;
    let above = label(project_name, Tree::Result);
    let dirs = spec.fs.dirs.unwrap_or_default();
    dirs.iter().find_map(|dir| dir.label.strip_prefix(&above)?.strip_prefix('/').map(str::to_owned))
}

/// A specification without what tells one run from another.
pub(super) fn without_id(spec: &str, id: &str) -> String {
    match id.is_empty() {
        true => spec.to_owned(),
        false => spec.replace(id, "").replace(beginning(id), ""),
    }
}

/// Makes the specification.
pub fn function_spec(project: &ProjectFile, parts: &Parts<'_>) -> FunctionSpec {
    let name = &project.projectname;
    let src_dir = format!("/pollinator/{name}/{}/src", parts.snapshot_id);
    let results = result_label(project, parts);
    let mut env = BTreeMap::new();
    env.insert("PROJECT_DIR".to_owned(), format!("{MOUNT}/pollinator/{name}"));
    env.insert(RESULT_DIR.to_owned(), format!("{MOUNT}{results}"));
    env.insert(RUN_ID.to_owned(), parts.run_id.to_owned());
    if let Some((sweep, point)) = parts.sweep {
        env.insert(points::SWEEP_ID.to_owned(), sweep.to_owned());
        env.extend(point.env.clone());
    }
    FunctionSpec {
        funcname: "execute".into(),
        kwargs: kwargs(project, &src_dir),
        priority: 5,
        maxwaittime: -1,
        maxexectime: if parts.queue { -1 } else { max_exec_time(project.walltime) },
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
            dirs: Some(vec![dir(results, false, true), dir(label(name, Tree::Data), true, false)]),
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

fn dir(label: String, keepfiles: bool, keep_on_close: bool) -> DirMount {
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
            queue: false,
            snapshot_id: theirs["fs"]["snapshots"][0]["snapshotid"].as_str().unwrap(),
            snapshot_label: label,
            run_id: "0123",
            sweep: None,
        };
        let mut ours = serde_json::to_value(function_spec(&project, &parts)).unwrap();
        // Ours tells where results go, and which run it is, twice.
        assert_eq!(
            ours["env"].as_object_mut().unwrap().remove(RESULT_DIR).unwrap(),
            format!("/cfs{}", theirs["fs"]["dirs"][0]["dir"].as_str().unwrap())
        );
        assert_eq!(ours["env"].as_object_mut().unwrap().remove(RUN_ID).unwrap(), "0123");
        assert_eq!(std::mem::replace(&mut ours["label"], theirs["label"].clone()), "0123");
        assert_eq!(ours, theirs);
    }

    #[test]
    fn no_time_in_a_queue_counts_against_a_run() {
        let project = ProjectFile { walltime: 600, ..ProjectFile::default() };
        let made = |queue| {
            let parts = Parts {
                colony: "c",
                executors: &[],
                queue,
                snapshot_id: "s",
                snapshot_label: "/pollinator/p/src",
                run_id: "0",
                sweep: None,
            };
            let spec = function_spec(&project, &parts);
            (spec.maxexectime, spec.conditions.walltime)
        };
        assert_eq!((made(true), made(false)), ((-1, 600), (599, 600)));
    }

    #[test]
    fn a_run_of_its_own_folder_differs_from_another_in_nothing_but_its_id() {
        let made = |results, run_id: &str| {
            let project = ProjectFile { projectname: "p".into(), results, ..ProjectFile::default() };
            let parts = Parts {
                colony: "c",
                executors: &[],
                queue: false,
                snapshot_id: "s",
                snapshot_label: "/pollinator/p/src",
                run_id,
                sweep: None,
            };
            serde_json::to_string(&function_spec(&project, &parts)).unwrap()
        };
        let (one, other) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
        let own = made(Results::PerRun, one);
        let spec: FunctionSpec = serde_json::from_str(&own).unwrap();
        let results = &spec.fs.dirs.as_ref().unwrap()[0];
        assert_eq!((results.label.as_str(), &results.dir), ("/pollinator/p/result/0123456789ab", &results.label));
        assert_eq!(spec.env[RESULT_DIR], "/cfs/pollinator/p/result/0123456789ab");
        assert_eq!(spec.env["PROJECT_DIR"], "/cfs/pollinator/p");
        assert_eq!(result_folder(&own, "p").as_deref(), Some("0123456789ab"));
        let shared = made(Results::Shared, one);
        assert_eq!(result_folder(&shared, "p"), None);
        for results in [Results::PerRun, Results::Shared] {
            assert_eq!(without_id(&made(results, one), one), without_id(&made(results, other), other));
        }
        assert_ne!(without_id(&own, one), without_id(&shared, one));
        assert_eq!((result_folder("", "p"), without_id("x", "")), (None, "x".to_owned()));
    }

    #[test]
    fn points_of_a_sweep_have_folders_of_their_own_and_differ_in_ids_only_from_those_of_another() {
        let (a, b) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
        let made = |sweep_id: &str, run_id: &str, value: &str| {
            let sweep = crate::project::Sweep::List(vec![vec![("lr".to_owned(), value.to_owned())]]);
            let project =
                ProjectFile { projectname: "p".into(), cmd: "x {lr}".into(), sweep: Some(sweep), ..ProjectFile::default() };
            let point = points::of(&project, 1).unwrap().unwrap().remove(0);
            let (snapshot_id, snapshot_label) = ("s", "/pollinator/p/src");
            let parts = Parts {
                colony: "c",
                executors: &[],
                queue: false,
                snapshot_id,
                snapshot_label,
                run_id,
                sweep: Some((sweep_id, &point)),
            };
            serde_json::to_string(&function_spec(&point.settings, &parts)).unwrap()
        };
        let one = made(a, b, "0.1");
        let spec: FunctionSpec = serde_json::from_str(&one).unwrap();
        assert_eq!((spec.kwargs["cmd"].as_str(), spec.env["POLLINATOR_PARAM_LR"].as_str()), (Some("x 0.1"), "0.1"));
        assert_eq!((spec.env[points::SWEEP_ID].as_str(), spec.env[RUN_ID].as_str()), (a, b));
        assert_eq!(result_folder(&one, "p").as_deref(), Some("sweep-0123456789ab/lr=0.1-fedcba987654"));
        let bare = |spec: &str, sweep: &str, run: &str| without_id(&without_id(spec, run), sweep);
        assert_eq!(bare(&one, a, b), bare(&made(b, a, "0.1"), b, a));
        assert_ne!(bare(&one, a, b), bare(&made(a, b, "0.2"), a, b));
    }

    #[test]
    fn a_walltime_of_one_second_is_not_over_at_once() {
        assert_eq!((max_exec_time(1), max_exec_time(2), max_exec_time(600)), (1, 1, 599));
    }
}
