//! The words that run a job's command in its image. Pure.

use super::program::Version;
use super::settings::Settings;
use crate::executor::backend::Failure;
use crate::executor::backend::Task;
use crate::executor::backend::binds;
use crate::executor::backend::binds::Bind;
use crate::executor::backend::payload;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

/// The home folder that a job sees: empty, its own, gone with the job (of several processes each has one in it). Apptainer keeps `HOME` for itself, so that it has to
/// be set by the job's own variables.
pub const HOME: &str = "/.home";

/// What of the machine a container does not see though Apptainer shows it by default.
const HIDDEN: &str = "home,tmp,cwd,hostfs";

/// The folders of a job that hold its `/tmp` and its home where nothing better is given.
pub(super) fn private_folders(task: &Task) -> [PathBuf; 2] {
    [task.folder.join("tmp"), task.folder.join("home")]
}

/// Makes a home folder of its own for each of several processes, in the home folder of the job: what they install there at
/// once does not collide. The script that runs a process takes it where it is there.
///
/// # Errors
/// Those of the file system.
pub fn make_homes(task: &Task) -> Result<(), Failure> {
    let [_, home] = private_folders(task);
    for rank in 0..task.job.processes() {
        let own = home.join(rank.to_string());
        if task.job.processes() > 1 {
            crate::sqlite::private_folder(&own).map_err(Failure::io("cannot make a folder of the job", &own))?;
        }
    }
    Ok(())
}

/// The words: program, options, image, command. After them come the process's rank, its rank on its node, and the node's.
///
/// `tmp` is the folder of the node that becomes `/tmp` and `/var/tmp`; none: one in the job's folder, which all its nodes
/// share. The program sees the devices of the machine, `/dev/shm` among them, and all variables that it is started with:
/// what must not come in has to be taken out by whoever starts it.
///
/// # Errors
/// A path that the program is too old for.
pub fn words(
    settings: &Settings,
    program: &Path,
    version: &Version,
    task: &Task,
    sif: &Path,
    tmp: Option<&Path>,
) -> Result<Vec<OsString>, Failure> {
    let knows = version.knows();
    let mut words: Vec<OsString> = vec![program.into(), "exec".into(), "--no-home".into()];
    if knows.no_mount {
        words.extend(["--no-mount".into(), HIDDEN.into()]);
    }
    if knows.no_eval {
        words.push("--no-eval".into());
    }
    if task.job.gpu_count > 0 {
        words.push(if settings.rocm { "--rocm" } else { "--nv" }.into());
    }
    let [own_tmp, home] = private_folders(task);
    let tmp = tmp.unwrap_or(&own_tmp);
    let write = |host: &Path, inside: &str| Bind { host: host.to_path_buf(), inside: inside.into(), read_only: false };
    let mut all = vec![write(tmp, "/tmp"), write(tmp, "/var/tmp"), write(&home, HOME)];
    all.extend(binds::of(task, settings.sees));
    all.push(write(&payload::folder(&task.folder), payload::INSIDE));
    for bind in &all {
        words.extend(if knows.mount { mount(bind) } else { old_bind(bind, version)? });
    }
    words.extend(["--pwd".into(), binds::work_folder(task).into()]);
    words.extend(settings.exec_options.iter().map(OsString::from));
    words.push(sif.into());
    let script = format!("{}/{}", payload::INSIDE, payload::SCRIPT);
    words.extend(["/bin/sh".into(), script.into(), payload::INSIDE.into()]);
    Ok(words)
}

/// As one line of CSV, each field quoted: a path may hold anything.
fn mount(bind: &Bind) -> [OsString; 2] {
    let field = |name: &str, value: &[u8]| {
        let mut text = format!("\"{name}").into_bytes();
        for byte in value {
            text.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
        }
        text.push(b'"');
        text
    };
    let mut fields =
        vec![field("type=bind", b""), field("src=", bind.host.as_os_str().as_bytes()), field("dst=", bind.inside.as_bytes())];
    if bind.read_only {
        fields.push(field("ro", b""));
    }
    ["--mount".into(), OsString::from_vec(fields.join(&b','))]
}

/// For programs that know `--bind` only, whose signs cannot be quoted.
fn old_bind(bind: &Bind, version: &Version) -> Result<[OsString; 2], Failure> {
    for path in [bind.host.as_os_str().as_bytes(), bind.inside.as_bytes()] {
        if path.iter().any(|byte| b":,\\\"".contains(byte)) {
            let reason = format!(
                "{} cannot show {:?} to a job: such a path needs Apptainer 1.0 or SingularityCE 3.9",
                version.text,
                String::from_utf8_lossy(path)
            );
            return Err(Failure::Unsupported { field: "fs".into(), reason });
        }
    }
    let mut text = bind.host.as_os_str().to_os_string();
    text.push(format!(":{}{}", bind.inside, if bind.read_only { ":ro" } else { "" }));
    Ok(["--bind".into(), text])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::backend::process::tests::task;
    use serde_json::json;
    use std::sync::Arc;

    fn version(text: &str) -> Version {
        Version::read(text).unwrap()
    }

    fn of(settings: &Settings, version: &Version, task: &Task) -> Result<Vec<String>, Failure> {
        let words = words(settings, Path::new("apptainer"), version, task, Path::new("/i/x.sif"), None)?;
        let root = task.fs_dir.parent().unwrap().to_str().unwrap().to_owned();
        Ok(words.into_iter().map(|w| w.into_string().unwrap().replace(&root, "ROOT")).collect())
    }

    #[test]
    fn the_command_is_run_with_what_the_job_may_see() {
        let folder = tempfile::tempdir().unwrap();
        let mut task = task(folder.path(), "true", &[], json!({ "PROJECT_DIR": "/cfs/p \"q\", r:s" }));
        let mut job = (*task.job).clone();
        job.gpu_count = 1;
        job.snapshots = vec![crate::executor::spec::SnapshotIn {
            id: "s".into(),
            label: String::new(),
            dir: crate::executor::place::Inside::read("p \"q\", r:s/1/src").unwrap(),
            keep_files: true,
            keep_snapshot: true,
        }];
        task.job = Arc::new(job);
        let settings = Settings { exec_options: vec!["--no-privs".into()], ..Settings::default() };
        let new = of(&settings, &version("apptainer version 1.4.5"), &task).unwrap();
        let want = [
            "apptainer",
            "exec",
            "--no-home",
            "--no-mount",
            "home,tmp,cwd,hostfs",
            "--no-eval",
            "--nv",
            "--mount",
            r#""type=bind","src=ROOT/job/tmp","dst=/tmp""#,
            "--mount",
            r#""type=bind","src=ROOT/job/tmp","dst=/var/tmp""#,
            "--mount",
            r#""type=bind","src=ROOT/job/home","dst=/.home""#,
            "--mount",
            r#""type=bind","src=ROOT/fs/p ""q"", r:s","dst=/cfs/p ""q"", r:s""#,
            "--mount",
            r#""type=bind","src=ROOT/fs/p ""q"", r:s/1/src","dst=/cfs/p ""q"", r:s/1/src","ro""#,
            "--mount",
            r#""type=bind","src=ROOT/job/payload","dst=/.pollinator""#,
            "--pwd",
            "/cfs/p \"q\", r:s",
            "--no-privs",
            "/i/x.sif",
            "/bin/sh",
            "/.pollinator/run",
            "/.pollinator",
        ];
        assert_eq!(new, want);
        let old = of(&settings, &version("singularity version 3.8.7"), &task).unwrap_err();
        assert!(old.to_string().contains("3.8.7 cannot show"), "{old}");
    }

    #[test]
    fn old_programs_get_what_they_know() {
        let folder = tempfile::tempdir().unwrap();
        let mut task = task(folder.path(), "true", &[], json!({ "PROJECT_DIR": "/cfs/p" }));
        let mut job = (*task.job).clone();
        job.gpu_count = 1;
        task.job = Arc::new(job);
        let settings = Settings { rocm: true, ..Settings::default() };
        let want = [
            "apptainer",
            "exec",
            "--no-home",
            "--rocm",
            "--bind",
            "ROOT/job/tmp:/tmp",
            "--bind",
            "ROOT/job/tmp:/var/tmp",
            "--bind",
            "ROOT/job/home:/.home",
            "--bind",
            "ROOT/fs/p:/cfs/p",
            "--bind",
            "ROOT/job/payload:/.pollinator",
            "--pwd",
            "/cfs/p",
            "/i/x.sif",
            "/bin/sh",
            "/.pollinator/run",
            "/.pollinator",
        ];
        assert_eq!(of(&settings, &version("singularity version 3.5.2"), &task).unwrap(), want);
    }
}
