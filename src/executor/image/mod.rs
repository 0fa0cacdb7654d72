//! Images for Apptainer or Singularity: named as specifications name them, pulled once, converted, kept.
//!
//! A tag is resolved to a digest by its registry each time a job asks for it (one small request), and the converted image
//! is kept under that digest: a tag that moved is pulled again, one that did not costs nothing. What is pulled is pinned to
//! the digest, made in a folder of its own, checked, and only then put into its place; a lock for each image, which
//! executors on several machines share, lets one pull and the others wait. A killed pull leaves a folder that the next
//! start removes.
//!
//! [`Images`] is what a backend uses: [`Images::prepare`] before a job, [`exec::words`] to run it.

mod archive;
mod credentials;
pub mod exec;
mod lock;
mod make;
pub mod program;
mod pull;
pub mod reference;
mod resolve;
mod settings;
mod sif;
mod store;
mod wanted;

pub use settings::Settings;

use super::backend::Failure;
use super::backend::Task;
use super::backend::payload::private_file;
use super::error::Error;
use program::Program;
use reference::Image;
use reference::Kind;
use reference::Local;
use reference::Place;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;
use store::Store;
use tokio::sync::OnceCell;

/// The field that all refusals are about.
const FIELD: &str = "kwargs.docker-image";
/// In a job's folder: the path of the image that was made ready for it.
const CHOSEN: &str = "image";
/// An image, ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The file.
    pub sif: PathBuf,
    /// Its digest, where it has one.
    pub digest: Option<String>,
    /// Lines for the reader of the process log.
    pub lines: Vec<String>,
}

/// The images of an executor.
#[derive(Debug)]
pub struct Images {
    settings: Settings,
    store: Store,
    layers: PathBuf,
    http: reqwest::Client,
    program: OnceCell<Program>,
    turns: make::Turns,
}

impl Images {
    /// Opens the image folder (of the settings, or `images` in `state_dir`) and removes what killed pulls left there.
    ///
    /// # Errors
    /// A folder that cannot be used.
    pub fn new(settings: Settings, state_dir: &Path) -> Result<Images, Error> {
        let folder = settings.folder.clone().unwrap_or_else(|| state_dir.join("images"));
        let bad = |(path, source)| Error::Folder { path, source };
        let store = Store::open(&folder).map_err(bad)?;
        store.sweep(settings.temporary.as_deref()).map_err(bad)?;
        let layers = settings.cache.clone().unwrap_or_else(|| folder.join("layers"));
        let http = crate::net::http_client(false).map_err(|reason| Error::Internal { reason })?;
        Ok(Images { settings, store, layers, http, program: OnceCell::new(), turns: make::Turns::default() })
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Apptainer or Singularity; looked for once.
    ///
    /// # Errors
    /// What to install or to set.
    pub async fn program(&self) -> Result<&Program, Failure> {
        self.program.get_or_try_init(|| program::find(&self.settings)).await
    }

    /// Makes the image of a job ready, and writes down in the job's folder which file it is. May take long, and says in the
    /// job's log what it does; may be repeated, and dropped.
    ///
    /// # Errors
    /// What is wrong with the image, its registry, or this machine, and what to do.
    pub async fn prepare(&self, task: &Task) -> Result<Ready, Failure> {
        let image = reference::read(&task.job.image, &task.job.mount).map_err(unsupported)?;
        let ready = match &image {
            Image::Local(Local { kind: Kind::Sif, place, .. }) => {
                let sif = self.locate(place, &task.fs_dir)?;
                sif::check(&sif).map_err(unsupported)?;
                let lines = vec![format!("image {}", task.job.image)];
                Ready { sif, digest: None, lines }
            }
            _ => {
                let wanted = self.wanted(&image, task).await?;
                self.have(wanted, task).await?
            }
        };
        for folder in exec::private_folders(task) {
            let made = crate::sqlite::private_folder(&folder);
            made.map_err(Failure::io("cannot make a folder of the job", &folder))?;
        }
        private_file(&task.folder.join(CHOSEN), ready.sif.as_os_str().as_bytes())?;
        Ok(ready)
    }

    /// The file that [`Images::prepare`] made ready for a job.
    ///
    /// # Errors
    /// Where it did not.
    pub fn chosen(task: &Task) -> Result<PathBuf, Failure> {
        let path = task.folder.join(CHOSEN);
        let bytes = std::fs::read(&path).map_err(Failure::io("it is not known which image the job has", &path))?;
        Ok(PathBuf::from(OsString::from_vec(bytes)))
    }

    /// Where a local image really is: links may not lead out of the folders that are allowed.
    fn locate(&self, place: &Place, fs_dir: &Path) -> Result<PathBuf, Failure> {
        let (path, roots): (PathBuf, Vec<&Path>) = match place {
            Place::Below(inside) => (fs_dir.join(inside.as_str()), vec![fs_dir]),
            Place::Absolute(path) => (path.clone(), self.settings.local_folders.iter().map(PathBuf::as_path).collect()),
        };
        let shown = match place {
            Place::Below(inside) => inside.to_string(),
            Place::Absolute(path) => path.display().to_string(),
        };
        let elsewhere = || {
            let allowed = roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", ");
            match place {
                Place::Below(_) => unsupported(format!("{shown} is a link that leads out of the file area")),
                Place::Absolute(_) if allowed.is_empty() => unsupported(format!(
                    "{shown} lies outside the file area, and the executor's image settings allow no such folder (`local-folders`)"
                )),
                Place::Absolute(_) => unsupported(format!("{shown} does not lie below {allowed}")),
            }
        };
        let within = |path: &Path| roots.iter().any(|root| root.canonicalize().is_ok_and(|root| path.starts_with(root)));
        if matches!(place, Place::Absolute(_)) && !roots.iter().any(|root| path.starts_with(root)) {
            // Nothing is told about files elsewhere, not even whether they are there.
            return Err(elsewhere());
        }
        let real = path.canonicalize().map_err(|e| unsupported(format!("{shown} cannot be read: {e}")))?;
        if within(&real) { Ok(real) } else { Err(elsewhere()) }
    }
}

fn unsupported(reason: String) -> Failure {
    Failure::Unsupported { field: FIELD.into(), reason }
}
