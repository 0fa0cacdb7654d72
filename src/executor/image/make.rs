//! Getting an image that is not there: one at a time for each image, whole or not at all.

use super::Images;
use super::Ready;
use super::credentials::Login;
use super::lock;
use super::lock::Held;
use super::lock::Tried;
use super::pull;
use super::pull::Run;
use super::sif;
use super::store;
use super::store::Entry;
use super::store::Work;
use super::wanted::Origin;
use super::wanted::PAUSES;
use super::wanted::Wanted;
use crate::blocking;
use crate::executor::backend::Failure;
use crate::executor::backend::Task;
use crate::executor::backend::say;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use tokio::sync::OwnedMutexGuard;

/// How often a lock is looked at that another process holds: no event tells of it, least of all from another machine.
const LOOK: Duration = Duration::from_millis(300);
/// The image's name in the folder where it is made; archives are linked there, so that their paths may hold
/// anything.
const MADE: &str = "made.sif";
const LINK: &str = "source";
/// The lock of a folder of layers: two pulls at once would break it.
const LAYERS_LOCK: &str = ".pollinator-lock";

/// Jobs of this executor that want the same thing wait here for each other.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    async fn take(&self, key: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody else has one that only this map holds.
            all.retain(|_, turn| Arc::strong_count(turn) > 1);
            all.entry(key.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

impl Images {
    /// Has the image, and marks it as used by the job.
    pub(super) async fn have(&self, wanted: Wanted, task: &Task) -> Result<Ready, Failure> {
        let asked = SystemTime::now();
        let turn = self.turns.take(&wanted.key).await;
        let held = self.lock(&self.store.lock_file(&wanted.key), &wanted.name, &task.log()).await?;
        let there = self.store.entry(&wanted.key);
        // One that was made while we waited for our turn is as new as a rebuilt one.
        let new = |entry: &Entry| self.store.made(entry).is_some_and(|made| made > asked);
        let mut lines = wanted.lines.clone();
        let entry = match there {
            Some(entry) if !task.job.rebuild_image || new(&entry) => {
                lines.push(describe(&wanted, "is here already"));
                entry
            }
            _ => {
                let began = Instant::now();
                let entry = self.make(&wanted, task).await?;
                let size = self.store.image(&entry.file).metadata().map_or(0, |m| m.len());
                let how = format!("was made ready in {:.1} s, {} MiB", began.elapsed().as_secs_f32(), size.div_ceil(1 << 20));
                lines.push(describe(&wanted, &how));
                entry
            }
        };
        self.store.use_by(&entry.file, &task.folder)?;
        drop((held, turn));
        self.reclaim();
        Ok(Ready { sif: self.store.image(&entry.file), digest: wanted.digest, lines })
    }

    /// Removes images that are too many or too old. A failure of that is none of the job.
    fn reclaim(&self) {
        let keep = (self.settings.keep_days > 0).then(|| Duration::from_secs(self.settings.keep_days.saturating_mul(24 * 3600)));
        match self.store.reclaim(self.settings.max_bytes, keep) {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => tracing::info!(?gone, "images were removed: replaced, too many or not used for long"),
            Err(error) => tracing::warn!(%error, "images that are not needed any more cannot be removed"),
        }
    }

    /// Waits for a lock; none where the file system knows none: then an image may be pulled twice, and is no worse for it.
    async fn lock(&self, path: &Path, name: &str, log: &Path) -> Result<Option<Held>, Failure> {
        let mut told = String::new();
        loop {
            match lock::attempt(path).map_err(Failure::io("cannot lock the image folder", path))? {
                Tried::Held(held) => return Ok(Some(held)),
                Tried::Unknown => return Ok(None),
                Tried::Busy(holder) if holder != told => {
                    say(log, &format!("waiting for {holder}, which pulls {name} or shares its folder of layers"))?;
                    told = holder;
                }
                Tried::Busy(_) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn make(&self, wanted: &Wanted, task: &Task) -> Result<Entry, Failure> {
        let mut pauses = PAUSES.iter();
        loop {
            let work = self.store.work(self.settings.temporary.as_deref())?;
            let failure = match self.make_in(&work, wanted, task).await {
                Ok(entry) => return Ok(entry),
                Err(failure) => failure,
            };
            drop(work);
            match pauses.next() {
                Some(pause) if failure.is_temporary() => {
                    say(&task.log(), &format!("{failure}; trying again"))?;
                    tokio::time::sleep(*pause).await;
                }
                _ => return Err(failure),
            }
        }
    }

    async fn make_in(&self, work: &Work, wanted: &Wanted, task: &Task) -> Result<Entry, Failure> {
        let what = || format!("the image {} cannot be made ready", wanted.name);
        if let Origin::Remembered = wanted.origin {
            let reason = "its registry does not answer, and the image is not here any more".into();
            return Err(Failure::Unanswered { what: what(), reason });
        }
        say(&task.log(), &describe(wanted, "is being made ready"))?;
        let layers = self.layers_for(wanted, &task.log()).await?;
        let run = self.run(work, wanted, layers.is_some(), task).await?;
        let program = run.program.clone();
        let ended = pull::run(run).await.map_err(Failure::io("cannot run", program))?;
        if !ended.status.success() {
            let cause = pull::cause(&ended.tail, &ended.status.to_string());
            return Err(match cause.temporary {
                true => Failure::Unanswered { what: what(), reason: cause.reason },
                false => Failure::Refused { what: what(), reason: cause.reason },
            });
        }
        if let Some(layers) = layers {
            self.trim_layers(&layers);
        }
        let made = work.folder.join(MADE);
        self.verify(&made, work, task).await.map_err(|reason| Failure::Refused { what: what(), reason })?;
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros());
        let file = store::file_of(&wanted.key, time);
        let entry = Entry { file, source: wanted.name.clone(), digest: wanted.digest.clone() };
        let (store, key, kept) = (self.store.clone(), wanted.key.clone(), entry.clone());
        blocking::run(move || store.take_in(&key, &made, &kept)).await?;
        Ok(entry)
    }

    /// The lock of the folder of layers, where layers are kept for this image.
    async fn layers_for(&self, wanted: &Wanted, log: &Path) -> Result<Option<Layers>, Failure> {
        let layered = matches!(wanted.origin, Origin::Pulled { layered: true, .. });
        if !layered || self.settings.max_layer_bytes == 0 {
            return Ok(None);
        }
        let made = crate::sqlite::private_folder(&self.layers);
        made.map_err(Failure::io("cannot make the folder of layers", &self.layers))?;
        let turn = self.turns.take("layers").await;
        let held = self.lock(&self.layers.join(LAYERS_LOCK), &wanted.name, log).await?;
        Ok(Some(Layers { _turn: turn, _held: held }))
    }

    /// Removes all layers where they are too many: which of them belong together, only Apptainer knows.
    fn trim_layers(&self, _locked: &Layers) {
        let size = store::size(&self.layers);
        if size <= self.settings.max_layer_bytes {
            return;
        }
        tracing::info!(size, limit = self.settings.max_layer_bytes, "the kept layers are too many: they go");
        for entry in std::fs::read_dir(&self.layers).into_iter().flatten().flatten() {
            if entry.file_name() != LAYERS_LOCK
                && let Err(error) = store::remove_tree(&entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "layers cannot be removed");
            }
        }
    }

    async fn run(&self, work: &Work, wanted: &Wanted, layers: bool, task: &Task) -> Result<Run, Failure> {
        let program = self.program().await?;
        let mut args: Vec<OsString> = Vec::new();
        let mut env: Vec<(&'static str, OsString)> = Vec::new();
        let words = |args: &mut Vec<OsString>, words: &[&str]| args.extend(words.iter().map(OsString::from));
        // `build` keeps layers; `pull` would keep a second copy of the whole image beside them.
        let build = !matches!(&wanted.origin, Origin::Pulled { layered: false, .. });
        words(&mut args, &[if build { "build" } else { "pull" }]);
        if !layers {
            words(&mut args, &["--disable-cache"]);
        }
        let source = match &wanted.origin {
            Origin::Pulled { word, plain, login, .. } => {
                if *plain {
                    words(&mut args, &[program.version.knows().plain_http]);
                }
                env.extend(login.iter().flat_map(show));
                word.clone()
            }
            Origin::Converted { scheme, path, index } => {
                let link = work.folder.join(LINK);
                link_to(path, index.as_deref(), &link).map_err(Failure::io("cannot link the image", &link))?;
                format!("{scheme}:{LINK}")
            }
            Origin::Remembered => String::new(),
        };
        words(&mut args, &[MADE, &source]);
        env.extend(self.folders(work));
        Ok(Run { program: program.path.clone(), args, folder: work.folder.clone(), env, log: task.log() })
    }

    /// Nothing of it goes to the home folder or to `/tmp`.
    fn folders(&self, work: &Work) -> Vec<(&'static str, OsString)> {
        let temporary: PathBuf = work.temporary.clone();
        let pairs = [
            ("APPTAINER_CACHEDIR", &self.layers),
            ("SINGULARITY_CACHEDIR", &self.layers),
            ("APPTAINER_TMPDIR", &temporary),
            ("SINGULARITY_TMPDIR", &temporary),
            ("TMPDIR", &temporary),
        ];
        pairs.map(|(name, path)| (name, path.clone().into_os_string())).into()
    }

    /// Whether what was made is an image, in Apptainer's eyes, too.
    async fn verify(&self, made: &Path, work: &Work, task: &Task) -> Result<(), String> {
        sif::check(made)?;
        let program = self.program().await.map_err(|e| e.to_string())?;
        let run = Run {
            program: program.path.clone(),
            args: ["sif", "list", MADE].map(OsString::from).into(),
            folder: work.folder.clone(),
            env: self.folders(work),
            log: work.folder.join("listed"),
        };
        let ended = pull::run(run).await.map_err(|e| e.to_string())?;
        if ended.status.success() {
            return Ok(());
        }
        tracing::warn!(process = task.job.process_id, ?ended, "a new image cannot be listed");
        Err(format!("what was made is no image ({})", pull::cause(&ended.tail, &ended.status.to_string()).reason))
    }
}

/// The folder of layers is ours as long as this is.
struct Layers {
    _turn: OwnedMutexGuard<()>,
    _held: Option<Held>,
}

/// Makes an archive or folder known under a plain name. A folder of several images is shown as one of a single image.
fn link_to(path: &Path, index: Option<&str>, link: &Path) -> std::io::Result<()> {
    let Some(index) = index else {
        return std::os::unix::fs::symlink(path, link);
    };
    std::fs::create_dir(link)?;
    std::fs::write(link.join("index.json"), index)?;
    std::fs::write(link.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    std::os::unix::fs::symlink(path.join("blobs"), link.join("blobs"))
}

/// Credentials for Apptainer: in its environment, which only its own user can read.
fn show(login: &Login) -> [(&'static str, OsString); 4] {
    let (user, password) = (OsString::from(&login.user), OsString::from(login.password.expose()));
    [
        ("APPTAINER_DOCKER_USERNAME", user.clone()),
        ("APPTAINER_DOCKER_PASSWORD", password.clone()),
        ("SINGULARITY_DOCKER_USERNAME", user),
        ("SINGULARITY_DOCKER_PASSWORD", password),
    ]
}

fn describe(wanted: &Wanted, how: &str) -> String {
    let digest = wanted.digest.as_ref().map(|d| format!(" ({d})")).unwrap_or_default();
    format!("the image {}{digest} {how}", wanted.name)
}
