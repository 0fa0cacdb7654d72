//! The volume that the executor shares with the pods of its jobs: which folder of it is which.

use super::settings::Settings;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

/// The volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its claim.
    pub claim: String,
    /// Where the executor sees it, a canonical path.
    root: PathBuf,
    /// What of it the executor sees there; empty: the whole.
    sub_path: String,
}

impl Volume {
    /// The volume of an executor's file area.
    ///
    /// # Errors
    /// What is wrong with the settings, for a person.
    pub fn find(settings: &Settings, fs_dir: &Path, jobs_dir: &Path) -> Result<Volume, String> {
        if settings.volume_claim.is_empty() {
            return Err("`volume-claim` is not set: it names the persistent volume claim that the file area lies on".into());
        }
        let root = match &settings.volume_mount {
            Some(mount) => mount.canonicalize().map_err(|e| format!("`volume-mount` {}: {e}", mount.display()))?,
            None => mount_point(fs_dir).map_err(|e| format!("the mount point of {}: {e}", fs_dir.display()))?,
        };
        let sub_path = settings.volume_sub_path.trim_matches('/').to_owned();
        let volume = Volume { claim: settings.volume_claim.clone(), root, sub_path };
        for (what, folder) in [("the file area", fs_dir), ("the folder of jobs", jobs_dir)] {
            if volume.sub_path(folder).is_none() {
                let root = volume.root.display();
                let folder = folder.display();
                return Err(format!("{what} ({folder}) does not lie on the volume (mounted at {root}): pods would not see it"));
            }
        }
        Ok(volume)
    }

    /// A folder as the volume has it; empty: the volume's root.
    pub fn sub_path(&self, folder: &Path) -> Option<String> {
        let below = folder.strip_prefix(&self.root).ok()?.to_str()?;
        Some(Path::new(&self.sub_path).join(below).to_str()?.trim_end_matches('/').to_owned())
    }
}

/// The mount point that a folder lies on.
fn mount_point(folder: &Path) -> std::io::Result<PathBuf> {
    let mut root = folder.canonicalize()?;
    let device = root.metadata()?.dev();
    while let Some(above) = root.parent() {
        if above.metadata()?.dev() != device {
            break;
        }
        root = above.to_path_buf();
    }
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_volume() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path().canonicalize().unwrap();
        let mut settings = Settings {
            volume_claim: "c".into(),
            volume_mount: Some(at.clone()),
            volume_sub_path: "/x/y/".into(),
            ..Settings::default()
        };
        let volume = Volume::find(&settings, &at.join("fs"), &at).unwrap();
        assert_eq!(volume.sub_path(&at.join("fs/p/src")).unwrap(), "x/y/fs/p/src");
        assert_eq!(volume.sub_path(&at).unwrap(), "x/y");
        assert_eq!(volume.sub_path(Path::new("/elsewhere")), None);
        settings.volume_sub_path.clear();
        assert_eq!(Volume::find(&settings, &at, &at).unwrap().sub_path(&at).unwrap(), "");
        assert!(Volume::find(&settings, &at, Path::new("/elsewhere")).unwrap_err().contains("the folder of jobs (/elsewhere)"));
        settings.volume_claim.clear();
        assert!(Volume::find(&settings, &at, &at).unwrap_err().contains("volume-claim"));
    }

    #[test]
    fn mount_points_are_found() {
        assert_eq!(mount_point(Path::new("/proc/self")).unwrap(), Path::new("/proc"));
    }
}
