//! The environment of a job: what it needs, and nothing of the executor's own (keys, store credentials).

use super::Failure;
use super::Task;
use super::binds;
use crate::executor::mount;
use crate::executor::place::Inside;
use crate::executor::spec::Command;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

/// Variables of the executor that a command on this machine needs to behave as in a terminal.
const INHERITED: [&str; 8] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR"];
/// Where PATH is not set at all.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Names the project's folder.
pub const PROJECT_DIR: &str = "PROJECT_DIR";

/// All variables of a job in a container: those of the specification, and who it is. The image's own stand beside them.
/// Ranks come from whatever starts the processes.
pub fn in_container(task: &Task) -> BTreeMap<String, String> {
    let mut all = task.job.env.clone();
    if !task.job.mount.is_empty() {
        all.entry(PROJECT_DIR.into()).or_insert_with(|| binds::work_folder(task));
    }
    identify(&mut all, task);
    all
}

/// Variables of a job on a machine that has the file area but not the mount point, which is replaced by the real folder.
/// The machine's own stand beside them.
pub fn on_node(task: &Task) -> BTreeMap<String, String> {
    let real = task.fs_dir.to_string_lossy();
    let mut all: BTreeMap<String, String> =
        task.job.env.iter().map(|(name, value)| (name.clone(), mount::in_word(value, &task.job.mount, &real))).collect();
    if !task.job.mount.is_empty() {
        all.insert(PROJECT_DIR.into(), project_dir(task));
    }
    identify(&mut all, task);
    all
}

/// The command with the mount point replaced by the real folder.
pub fn localized(task: &Task, command: &Command) -> Command {
    let real = task.fs_dir.to_string_lossy();
    let mount = &task.job.mount;
    Command {
        cmd: mount::in_shell(&command.cmd, mount, &real),
        init: mount::in_shell(&command.init, mount, &real),
        args: command.args.iter().map(|a| mount::in_word(a, mount, &real)).collect(),
    }
}

/// All variables of a job on this machine. The mount point in their values is replaced by the real folder.
pub fn on_host(task: &Task) -> BTreeMap<String, String> {
    assemble(task, std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))))
}

/// What every job is told, whatever its specification says.
fn identify(all: &mut BTreeMap<String, String>, task: &Task) {
    // Output to a file is held back by Python until its buffer is full, and the reader of the log waits for it.
    all.entry("PYTHONUNBUFFERED".into()).or_insert_with(|| "1".into());
    all.insert("COLONIES_PROCESS_ID".into(), task.job.process_id.clone());
    all.insert("POLLINATOR_RANK".into(), "0".into());
    all.insert("POLLINATOR_SIZE".into(), task.job.processes().to_string());
}

fn assemble(task: &Task, own: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> =
        own.filter(|(name, _)| INHERITED.contains(&name.as_str()) || name.starts_with("LC_")).collect();
    all.entry("PATH".into()).or_insert_with(|| PATH.into());
    all.extend(on_node(task));
    all
}

/// The project's folder on this machine: `PROJECT_DIR` of the specification, or the file area.
pub fn project_dir(task: &Task) -> String {
    let real = task.fs_dir.to_string_lossy();
    match task.job.env.get(PROJECT_DIR) {
        Some(dir) => mount::in_word(dir, &task.job.mount, &real),
        None => real.into_owned(),
    }
}

/// Where the command begins on a machine without the mount point, made where it is missing: in its project's folder, or in
/// the file area, or, where it has no files, in an empty folder of its own.
///
/// # Errors
/// Those of the file system.
pub fn work_folder(task: &Task) -> Result<PathBuf, Failure> {
    if task.job.mount.is_empty() {
        let own = task.folder.join("work");
        std::fs::create_dir_all(&own).map_err(Failure::io("cannot make the working folder of the job", &own))?;
        return Ok(own);
    }
    let project = project_dir(task);
    let below = Path::new(&project).strip_prefix(&task.fs_dir).ok().and_then(|p| Inside::read(&p.to_string_lossy()).ok());
    match below {
        Some(inside) => inside.make_below(&task.fs_dir).map_err(Failure::io("cannot make the project's folder", project)),
        None => Ok(task.fs_dir.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::backend::process::tests::task;
    use serde_json::json;

    #[test]
    fn nothing_of_the_executor_reaches_the_job() {
        let folder = tempfile::tempdir().unwrap();
        let task = task(folder.path(), "true", &[], json!({ "A": "/cfs/x", "HOME": "/h" }));
        let own = ["PATH", "HOME", "LC_ALL", "AWS_S3_SECRETKEY", "COLONIES_PRVKEY", "LD_PRELOAD", "POLLINATOR_PROFILE"];
        let env = assemble(&task, own.iter().map(|n| (n.to_string(), format!("own {n}"))));
        let names: Vec<&str> = env.keys().map(String::as_str).collect();
        let want = [
            "A",
            "COLONIES_PROCESS_ID",
            "HOME",
            "LC_ALL",
            "PATH",
            "POLLINATOR_RANK",
            "POLLINATOR_SIZE",
            "PROJECT_DIR",
            "PYTHONUNBUFFERED",
        ];
        assert_eq!(names, want);
        assert_eq!(env["HOME"], "/h", "the specification's entry wins");
        assert_eq!(env["A"], format!("{}/x", task.fs_dir.display()));
    }
}
