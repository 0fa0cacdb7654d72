//! From the name of an image to what has to be there: its digest, and how it comes.

use super::Images;
use super::archive;
use super::credentials;
use super::credentials::Found;
use super::credentials::Login;
use super::reference::Image;
use super::reference::Kind;
use super::reference::Local;
use super::reference::Remote;
use super::reference::Transport;
use super::resolve;
use super::resolve::Trouble;
use super::store;
use super::store::Known;
use super::unsupported;
use crate::executor::backend::Failure;
use crate::executor::backend::Task;
use crate::executor::backend::say;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// Pauses before a registry is asked again, or an image is pulled again.
pub(super) const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(8)];

/// An image that is to be there.
pub(super) struct Wanted {
    /// What it is kept under.
    pub(super) key: String,
    /// As it was named.
    pub(super) name: String,
    /// Its digest, where it has one.
    pub(super) digest: Option<String>,
    /// How it comes.
    pub(super) origin: Origin,
    /// Lines for the reader of the process log.
    pub(super) lines: Vec<String>,
}

/// Where an image comes from.
pub(super) enum Origin {
    /// From a registry or library, by this word.
    Pulled {
        /// `docker://…@sha256:…`.
        word: String,
        /// Whether it comes in layers, which other images may have, too.
        layered: bool,
        /// By plain HTTP.
        plain: bool,
        /// Credentials.
        login: Option<Login>,
    },
    /// From a file or folder.
    Converted {
        /// `oci-archive`.
        scheme: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// For a folder that may hold others, too: an index of this one alone.
        index: Option<String>,
    },
    /// The registry does not answer; the image may be here from an earlier time.
    Remembered,
}

impl Images {
    pub(super) async fn wanted(&self, image: &Image, task: &Task) -> Result<Wanted, Failure> {
        match image {
            Image::Registry(remote) => self.wanted_of_registry(remote, task).await,
            Image::Library(name) => Ok(Wanted {
                key: key("library", name),
                name: name.clone(),
                digest: None,
                origin: Origin::Pulled { word: name.clone(), layered: false, plain: false, login: None },
                lines: vec!["an image of a library is pulled once; `rebuild-image` pulls it again".into()],
            }),
            Image::Local(local) => self.wanted_of_file(local, task),
        }
    }

    fn wanted_of_file(&self, local: &Local, task: &Task) -> Result<Wanted, Failure> {
        let path = self.locate(&local.place, &task.fs_dir)?;
        let chosen = archive::choose(local.kind, &path, local.reference.as_deref()).map_err(unsupported)?;
        let scheme = match local.kind {
            Kind::DockerArchive => "docker-archive",
            Kind::OciArchive => "oci-archive",
            Kind::OciLayout | Kind::Sif => "oci",
        };
        // What a file says about itself counts for that file only: no other image can be passed off by it.
        let text = [scheme.as_bytes(), chosen.identity.as_bytes(), path.as_os_str().as_bytes()].join(&0);
        Ok(Wanted {
            key: key("local", text),
            name: task.job.image.clone(),
            digest: None,
            origin: Origin::Converted { scheme, path, index: chosen.index },
            lines: Vec::new(),
        })
    }

    async fn wanted_of_registry(&self, remote: &Remote, task: &Task) -> Result<Wanted, Failure> {
        let name = remote.name();
        let what = || format!("the image {name} cannot be pulled");
        let found = credentials::find(remote, self.settings.auth_file.as_deref())
            .map_err(|reason| Failure::Refused { what: what(), reason })?;
        let known = self.store.tag(&name).filter(|_| !task.job.rebuild_image);
        let (digest, remembered) = match &remote.digest {
            Some(digest) => (digest.clone(), None),
            None => match self.digest(remote, &found, known.is_some(), task).await? {
                Ok(digest) => {
                    self.store.set_tag(&Known { name: name.clone(), digest: digest.clone() })?;
                    (digest, None)
                }
                Err(trouble) => match (trouble, known) {
                    (Trouble::Unreachable(reason), Some(known)) => (known.digest, Some(reason)),
                    (Trouble::Unreachable(reason), None) => return Err(Failure::Unanswered { what: what(), reason }),
                    (trouble, _) => return Err(Failure::Refused { what: what(), reason: with_credentials(&trouble, &found) }),
                },
            },
        };
        let key = key("digest", format!("{:?} {digest}", remote.transport));
        let (origin, lines) = match remembered {
            Some(reason) => {
                let line = format!("the registry of {name} does not answer ({reason}): the image of an earlier time is taken");
                (Origin::Remembered, vec![line])
            }
            None => {
                let layered = remote.transport == Transport::Docker;
                (
                    Origin::Pulled { word: remote.pinned(&digest), layered, plain: self.plain(remote), login: found.login },
                    Vec::new(),
                )
            }
        };
        Ok(Wanted { key, name, digest: Some(digest), origin, lines })
    }

    fn plain(&self, remote: &Remote) -> bool {
        self.settings.insecure_registries.contains(&remote.registry)
    }

    /// Asks the registry; more than once where nothing else can help.
    async fn digest(&self, remote: &Remote, found: &Found, known: bool, task: &Task) -> Result<Result<String, Trouble>, Failure> {
        let mut pauses = if known { [].iter() } else { PAUSES.iter() };
        loop {
            let asked = resolve::digest(&self.http, remote, self.plain(remote), found.login.as_ref()).await;
            match (&asked, pauses.next()) {
                (Err(Trouble::Unreachable(reason)), Some(pause)) => {
                    say(&task.log(), &format!("the registry of {remote} does not answer ({reason}); asking again"))?;
                    tokio::time::sleep(*pause).await;
                }
                _ => return Ok(asked),
            }
        }
    }
}

fn with_credentials(trouble: &Trouble, found: &Found) -> String {
    match (trouble, &found.login) {
        (Trouble::Missing, Some(_)) => trouble.to_string(),
        _ => format!(
            "{trouble}; looked for credentials in {} (`auth-file` of the image settings names another file)",
            found.looked
        ),
    }
}

/// A file name for an image: machines of several architectures may share the folder.
fn key(kind: &str, text: impl AsRef<[u8]>) -> String {
    format!("{kind}-{}.{}", store::hash(text), std::env::consts::ARCH)
}
