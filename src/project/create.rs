//! A new project: its folders and files, all of them or none.

use super::Error;
use super::FILE_NAME;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

/// What was made, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// A folder, below the project's.
    Folder(PathBuf),
    /// A file, below the project's.
    File(PathBuf),
}

const FOLDERS: [&str; 3] = ["cfs/src", "cfs/data", "cfs/result"];

const MAIN: &str = r#"import os
import socket

# The name of the machine that this runs on.
print("hostname:", socket.gethostname())

# The folder on the executor that holds this project's data and result.
projdir = os.environ["PROJECT_DIR"]
print("projdir:", projdir)

# The id of the process that this run is.
print("processid:", os.environ["COLONIES_PROCESS_ID"])

# What lies in cfs/data was brought along.
with open(os.path.join(projdir, "data", "hello.txt")) as file:
    print(file.read())

# What is written to this folder comes home to cfs/result.
result_dir = os.environ.get("RESULT_DIR", os.path.join(projdir, "result"))
os.makedirs(result_dir, exist_ok=True)
with open(os.path.join(result_dir, "result.txt"), "w") as file:
    file.write("Hello, World!")
"#;

/// Makes a project in `folder` (made too where missing) for an executor. `random_name` is its name in the colony.
///
/// Refuses before anything is made where one of its own files or folders stands; takes back what it made where a later
/// step fails. Gives what was made, with paths below `folder`.
pub fn create(folder: &Path, executor: &str, random_name: &str) -> Result<Vec<Created>, Error> {
    let files = [
        (FILE_NAME, settings(executor, random_name)),
        ("cfs/data/hello.txt", "Hello world!\n".to_owned()),
        ("cfs/src/main.py", MAIN.to_owned()),
    ];
    for path in FOLDERS.iter().chain(files.iter().map(|(path, _)| path)) {
        let path = folder.join(path);
        // A dangling link stands there, too.
        if path.symlink_metadata().is_ok() {
            return Err(Error::Exists { path });
        }
    }
    let mut made = Vec::new();
    let outcome = make(folder, &files, &mut made);
    if outcome.is_err() {
        take_back(&made);
    }
    outcome
}

fn make(folder: &Path, files: &[(&str, String)], made: &mut Vec<PathBuf>) -> Result<Vec<Created>, Error> {
    let mut created = Vec::new();
    for below in FOLDERS {
        make_folders(&folder.join(below), made)?;
        created.push(Created::Folder(below.into()));
    }
    for (below, text) in files {
        let path = folder.join(below);
        let failed = |source| Error::Unmakeable { path: path.clone(), source };
        let mut file = fs::File::options().write(true).create_new(true).open(&path).map_err(failed)?;
        made.push(path.clone());
        file.write_all(text.as_bytes()).map_err(failed)?;
        created.push(Created::File((*below).into()));
    }
    Ok(created)
}

/// Makes a folder and what is missing above it, and notes each that it made.
fn make_folders(path: &Path, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
    for folder in missing.into_iter().rev() {
        fs::create_dir(folder).map_err(|source| Error::Unmakeable { path: folder.into(), source })?;
        made.push(folder.to_owned());
    }
    Ok(())
}

/// Newest first; what others put into a folder meanwhile keeps it.
fn take_back(made: &[PathBuf]) {
    for path in made.iter().rev() {
        let removed = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "what was made could not be taken back");
        }
    }
}

fn settings(executor: &str, random_name: &str) -> String {
    // A name may hold what YAML would read otherwise; its JSON text is YAML, too.
    let executor = serde_json::Value::from(executor).to_string();
    format!(
        r#"projectname: {random_name}
conditions:
  executorNames:
  - {executor}
  nodes: 1
  processesPerNode: 1
  cpu: 1000m
  mem: 1000Mi
  walltime: 600
  gpu:
    count: 0
    name: ""
environment:
  docker: python:3.12-rc-bookworm
  rebuildImage: false
  init-cmd: ""
  cmd: python3
  source: main.py
# What happens by itself (`pollinator hook install` for commits and pushes):
# agent:
#   onCommit: off      # off | sync | run
#   onPush: sync       # off | sync | run | gate
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_read_without_a_warning() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("a/b");
        let created = create(&folder, "lumi-std: \"x\"", "abc").unwrap();
        assert_eq!(created.len(), 6);
        let (project, warnings) = super::super::load(&folder).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(project.settings.executor_names, ["lumi-std: \"x\""]);
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_left_half_made() {
        for stands in ["project.yaml", "cfs/src", "cfs/data/hello.txt"] {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join(stands);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "mine").unwrap();
            let refused = create(home.path(), "local", "abc").unwrap_err();
            assert!(matches!(&refused, Error::Exists { .. }), "{refused}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
            assert!(!home.path().join("cfs/result").exists());
        }
        // Something else called cfs makes the folders fail half-way.
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("cfs"), "a file").unwrap();
        assert!(create(home.path(), "local", "abc").is_err());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
