//! Apptainer or Singularity: which one is here, and what it knows.

use super::settings::Settings;
use crate::executor::backend::Failure;
use std::path::Path;
use std::path::PathBuf;

/// The program.
#[derive(Clone, Debug)]
pub struct Program {
    /// As it is started here.
    pub path: PathBuf,
    /// As it is started on the nodes: the same, or only its name where it was found in PATH, since theirs may differ.
    pub word: PathBuf,
    /// Which one it is.
    pub version: Version,
}

/// Which of the descendants of Singularity, and how old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    apptainer: bool,
    number: (u32, u32),
    /// As it says it.
    pub text: String,
}

/// What a version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knows {
    /// `--mount`, which takes any path; else `--bind`.
    pub mount: bool,
    /// `--no-eval`.
    pub no_eval: bool,
    /// `--no-mount`.
    pub no_mount: bool,
    /// The option for plain HTTP.
    pub plain_http: &'static str,
}

impl Version {
    /// Reads what `--version` prints; none where it is none of them. Pure.
    pub fn read(text: &str) -> Option<Version> {
        let text = text.lines().next()?.trim();
        let (name, number) = text.split_once(" version ")?;
        let name = name.to_ascii_lowercase();
        if !name.starts_with("apptainer") && !name.starts_with("singularity") {
            return None;
        }
        let mut parts = number.split(['.', '-', '+', '~']).map_while(|part| part.parse().ok());
        let number = (parts.next()?, parts.next()?);
        Some(Version { apptainer: name.starts_with("apptainer"), number, text: text.to_owned() })
    }

    /// What it knows. Pure.
    pub fn knows(&self) -> Knows {
        let since = |apptainer, singularity| self.number >= if self.apptainer { apptainer } else { singularity };
        Knows {
            mount: since((1, 0), (3, 9)),
            no_eval: since((1, 1), (3, 10)),
            no_mount: since((1, 0), (3, 7)),
            plain_http: if since((1, 0), (3, 9)) { "--no-https" } else { "--nohttps" },
        }
    }
}

/// Looks for the program, and asks it for its version.
///
/// # Errors
/// What to install or to set.
pub async fn find(settings: &Settings) -> Result<Program, Failure> {
    let (path, word) = match &settings.program {
        Some(path) => (path.clone(), path.clone()),
        None => in_path(std::env::var_os("PATH").unwrap_or_default().as_os_str()).ok_or_else(|| Failure::Refused {
            what: "images cannot be used here".into(),
            reason: "neither `apptainer` nor `singularity` is in PATH: install Apptainer, or name the program in the settings \
                     (`program`), or load its module before the executor starts"
                .into(),
        })?,
    };
    let refused = |reason: String| Failure::Refused { what: format!("{} cannot be used", path.display()), reason };
    let asked = tokio::process::Command::new(&path).arg("--version").stdin(std::process::Stdio::null()).output().await;
    let said = asked.map_err(|e| refused(format!("it cannot be started: {e}")))?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = Version::read(&text).ok_or_else(|| {
        let heard: String = text.lines().next().unwrap_or("nothing").chars().filter(|c| !c.is_control()).take(80).collect();
        refused(format!("to --version it says {heard:?}, and so it is neither Apptainer nor Singularity"))
    })?;
    Ok(Program { path, word, version })
}

fn in_path(path: &std::ffi::OsStr) -> Option<(PathBuf, PathBuf)> {
    let runs = |file: &Path| {
        use std::os::unix::fs::PermissionsExt;
        file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    ["apptainer", "singularity"].iter().find_map(|name| {
        let found = std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| file.is_absolute() && runs(file))?;
        Some((found, PathBuf::from(name)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knows(text: &str) -> Knows {
        Version::read(text).unwrap().knows()
    }

    #[test]
    fn old_ones_know_less() {
        let all = Knows { mount: true, no_eval: true, no_mount: true, plain_http: "--no-https" };
        assert_eq!(knows("apptainer version 1.4.5"), all);
        assert_eq!(knows("apptainer version 1.1.0-rc.1\n"), all);
        assert_eq!(knows("apptainer version 1.0.3-1.el8"), Knows { no_eval: false, ..all });
        assert_eq!(knows("singularity-ce version 3.11.4-jammy"), all);
        assert_eq!(knows("singularity-ce version 4.1.1"), all);
        assert_eq!(knows("singularity-ce version 3.9.5"), Knows { no_eval: false, ..all });
        let old = Knows { mount: false, no_eval: false, no_mount: true, plain_http: "--nohttps" };
        assert_eq!(knows("singularity version 3.8.7-1.el8"), old);
        assert_eq!(knows("SingularityPRO version 3.7-4.el7"), old);
        assert_eq!(knows("singularity version 3.5.2"), Knows { no_mount: false, ..old });
        for text in ["", "apptainer", "apptainer version x", "podman version 4.3.1", "2.6.1-dist"] {
            assert_eq!(Version::read(text), None, "{text}");
        }
    }

    #[test]
    fn apptainer_goes_before_singularity() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let put = |dir: &str, name: &str, mode: u32| {
            let path = folder.path().join(dir).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let path = std::env::join_paths([folder.path().join("a"), folder.path().join("b")]).unwrap();
        assert_eq!(in_path(&path), None);
        let old = put("a", "singularity", 0o755);
        assert_eq!(in_path(&path), Some((old.clone(), "singularity".into())));
        put("a", "apptainer", 0o644);
        assert_eq!(in_path(&path), Some((old, "singularity".into())));
        let new = put("b", "apptainer", 0o755);
        assert_eq!(in_path(&path), Some((new, "apptainer".into())));
    }
}
