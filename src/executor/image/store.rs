//! The image folder: converted images, what they are, who uses them, and what is left of pulls that died.
//!
//! ```text
//! images/NAME.sif         a converted image; never changed, never replaced under those who have it open
//! entries/KEY.json        which file is the image KEY now
//! tags/HASH.json          which digest a tag meant when its registry was asked the last time
//! used/NAME               when it was used the last time (its modification time)
//! used/NAME.by/HASH       a job that uses it: the path of its folder
//! locks/KEY               held while KEY is pulled, marked as used, or removed
//! work/PROCESS/           an unfinished pull; its `lock` is held as long as somebody works in it
//! layers/                 APPTAINER_CACHEDIR, where the settings name no other
//! ```

use super::lock;
use super::lock::Tried;
use crate::executor::backend::Failure;
use serde::Deserialize;
use serde::Serialize;
use sha2::Digest as _;
use std::io::ErrorKind;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

/// Where the file system knows no locks, an unfinished pull of this age is taken to be dead.
const DEAD: Duration = Duration::from_secs(2 * 24 * 3600);
/// A job whose folders cannot be seen from here is taken to be over after so long.
const OVER: Duration = Duration::from_secs(90 * 24 * 3600);

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name in `images/`.
    pub file: String,
    /// The image as it was named, for people.
    pub source: String,
    /// Its digest, where it has one.
    pub digest: Option<String>,
}

/// What a tag meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The image's name, for people.
    pub name: String,
    /// What it meant.
    pub digest: String,
}

/// The folder.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// An unfinished pull: removed with all that is in it when it is dropped.
#[derive(Debug)]
pub struct Work {
    /// Where the image is made.
    pub folder: PathBuf,
    /// Where it is unpacked.
    pub temporary: PathBuf,
    _locks: Vec<Tried>,
}

impl Drop for Work {
    fn drop(&mut self) {
        for folder in [&self.temporary, &self.folder] {
            if let Err(error) = remove_tree(folder) {
                tracing::warn!(folder = %folder.display(), %error, "what an unfinished pull left cannot be removed");
            }
        }
    }
}

/// A text as a file name.
pub fn hash(text: impl AsRef<[u8]>) -> String {
    hex::encode(sha2::Sha256::digest(text.as_ref()))
}

impl Store {
    /// Opens the folder, and makes it where it is missing.
    ///
    /// # Errors
    /// The folder that cannot be made, and why.
    pub fn open(root: &Path) -> Result<Store, (PathBuf, std::io::Error)> {
        for name in ["images", "entries", "tags", "used", "locks", "work"] {
            let folder = root.join(name);
            crate::sqlite::private_folder(&folder).map_err(|e| (folder, e))?;
        }
        Ok(Store { root: root.to_path_buf() })
    }

    fn at(&self, folder: &str, name: &str) -> PathBuf {
        self.root.join(folder).join(name)
    }

    /// The lock of an image.
    pub fn lock_file(&self, key: &str) -> PathBuf {
        self.at("locks", key)
    }

    /// Where an image's file is.
    pub fn image(&self, file: &str) -> PathBuf {
        self.at("images", file)
    }

    /// The image of a key, where its file is there and whole.
    pub fn entry(&self, key: &str) -> Option<Entry> {
        let entry: Entry = read_json(&self.at("entries", &format!("{key}.json")))?;
        match super::sif::check(&self.image(&entry.file)) {
            Ok(_) => Some(entry),
            Err(reason) => {
                tracing::warn!(reason, "an image is made anew");
                None
            }
        }
    }

    /// When the file was made.
    pub fn made(&self, entry: &Entry) -> Option<SystemTime> {
        self.image(&entry.file).metadata().and_then(|m| m.modified()).ok()
    }

    /// What a tag meant at last.
    pub fn tag(&self, name: &str) -> Option<Known> {
        read_json(&self.at("tags", &format!("{}.json", hash(name))))
    }

    /// Remembers what a tag means.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn set_tag(&self, known: &Known) -> Result<(), Failure> {
        if self.tag(&known.name).as_ref() == Some(known) {
            return Ok(());
        }
        self.write_json(&self.at("tags", &format!("{}.json", hash(&known.name))), known)
    }

    /// Takes a finished image in: its bytes are on the disk before its name is.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn take_in(&self, key: &str, made: &Path, entry: &Entry) -> Result<PathBuf, Failure> {
        let path = self.image(&entry.file);
        let moved = || -> std::io::Result<()> {
            let file = std::fs::File::open(made)?;
            file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
            file.set_modified(SystemTime::now())?;
            file.sync_all()?;
            std::fs::rename(made, &path)?;
            std::fs::File::open(self.root.join("images"))?.sync_all()
        };
        moved().map_err(Failure::io("the image cannot be put into its place", &path))?;
        self.write_json(&self.at("entries", &format!("{key}.json")), entry)?;
        Ok(path)
    }

    fn write_json<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), Failure> {
        let written = || -> std::io::Result<()> {
            let mut file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(self.root.join("work"))?;
            file.write_all(serde_json::to_string_pretty(value).map_err(std::io::Error::other)?.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|e| e.error)?;
            Ok(())
        };
        written().map_err(Failure::io("cannot write in the image folder", path))
    }

    /// Says that a job uses an image, until its folder is gone.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn use_by(&self, file: &str, job_folder: &Path) -> Result<(), Failure> {
        let by = self.at("used", &format!("{file}.by"));
        let marked = || -> std::io::Result<()> {
            crate::sqlite::private_folder(&by)?;
            std::fs::write(by.join(hash(job_folder.as_os_str().as_bytes())), job_folder.as_os_str().as_bytes())?;
            std::fs::write(self.at("used", file), b"")
        };
        marked().map_err(Failure::io("cannot write in the image folder", &by))
    }

    /// Whether a job that is not over uses an image. Marks of those that are over go.
    fn is_used(&self, file: &str) -> std::io::Result<bool> {
        let by = self.at("used", &format!("{file}.by"));
        let marks = match std::fs::read_dir(&by) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            marks => marks?,
        };
        let mut used = false;
        for mark in marks {
            let mark = mark?;
            let folder = PathBuf::from(std::ffi::OsStr::from_bytes(&std::fs::read(mark.path())?));
            let visible = folder.parent().is_some_and(Path::is_dir);
            let old = mark.metadata()?.modified()?.elapsed().is_ok_and(|age| age > OVER);
            if !folder.is_dir() && (visible || old) {
                std::fs::remove_file(mark.path())?;
            } else {
                used = true;
            }
        }
        Ok(used)
    }

    /// A folder for a pull, with one for unpacking: in it, or below `temporary`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn work(&self, temporary: Option<&Path>) -> Result<Work, Failure> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let host = hash(crate::executor::backend::process::session::host_name());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros());
        let name = format!("{PREFIX}{}-{}-{now}-{count}", &host[..8], std::process::id());
        let folder = self.at("work", &name);
        let temporary = temporary.map_or_else(|| folder.join("tmp"), |outside| outside.join(&name));
        let mut locks = Vec::new();
        for folder in [&folder, &temporary] {
            let made = crate::sqlite::private_folder(folder).and_then(|()| lock::attempt(&folder.join(LOCK)));
            locks.push(made.map_err(Failure::io("cannot make a folder to pull an image into", folder))?);
        }
        Ok(Work { folder, temporary, _locks: locks })
    }

    /// Removes what pulls left that were killed.
    ///
    /// # Errors
    /// The folder that cannot be read, and why.
    pub fn sweep(&self, temporary: Option<&Path>) -> Result<(), (PathBuf, std::io::Error)> {
        for folder in [Some(self.root.join("work").as_path()), temporary].into_iter().flatten() {
            let all = match std::fs::read_dir(folder) {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                all => all.map_err(|e| (folder.to_path_buf(), e))?,
            };
            for one in all.flatten() {
                if !one.file_name().as_bytes().starts_with(PREFIX.as_bytes()) || !is_dead(&one.path()) {
                    continue;
                }
                if let Err(error) = remove_tree(&one.path()) {
                    tracing::warn!(folder = %one.path().display(), %error, "what a killed pull left cannot be removed");
                }
            }
        }
        Ok(())
    }

    /// Removes images that nobody uses: replaced ones, those not used for `keep`, and the longest unused above `max_bytes`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn reclaim(&self, max_bytes: u64, keep: Option<Duration>) -> std::io::Result<Vec<String>> {
        let mut current = std::collections::HashSet::new();
        for entry in std::fs::read_dir(self.root.join("entries"))?.flatten() {
            current.extend(read_json::<Entry>(&entry.path()).map(|e| e.file));
        }
        let mut all = Vec::new();
        for found in std::fs::read_dir(self.root.join("images"))? {
            let (found, meta) = match found.and_then(|f| f.metadata().map(|m| (f, m))) {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                pair => pair?,
            };
            let Ok(file) = found.file_name().into_string() else { continue };
            let last = self.at("used", &file).metadata().and_then(|m| m.modified()).or_else(|_| meta.modified())?;
            let idle = last.elapsed().unwrap_or_default();
            all.push(Held { used: self.is_used(&file)?, current: current.contains(&file), file, bytes: meta.len(), idle });
        }
        let mut gone = Vec::new();
        for file in superfluous(all, max_bytes, keep) {
            if self.remove(&file)? {
                gone.push(file);
            }
        }
        Ok(gone)
    }

    /// Removes an image, where nobody came to use it meanwhile.
    fn remove(&self, file: &str) -> std::io::Result<bool> {
        let Some(key) = key_of(file) else { return Ok(false) };
        let held = match lock::attempt(&self.lock_file(key))? {
            Tried::Busy(_) => return Ok(false),
            held => held,
        };
        if self.is_used(file)? {
            return Ok(false);
        }
        let entry = self.at("entries", &format!("{key}.json"));
        if read_json::<Entry>(&entry).is_some_and(|e| e.file == file) {
            std::fs::remove_file(&entry)?;
        }
        for path in [self.image(file), self.at("used", file)] {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        let by = self.at("used", &format!("{file}.by"));
        match std::fs::remove_dir(&by) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        drop(held);
        Ok(true)
    }
}

/// How names of unfinished pulls begin, so that nothing else in a folder of others is taken for one.
const PREFIX: &str = "pollinator-pull-";
/// Held in such a folder.
const LOCK: &str = "lock";

/// The file of a key; `made` tells those of one key apart.
pub fn file_of(key: &str, made: u128) -> String {
    format!("{key}.{made}.sif")
}

fn key_of(file: &str) -> Option<&str> {
    Some(file.strip_suffix(".sif")?.rsplit_once('.')?.0)
}

/// An image in the folder.
#[derive(Clone, Debug)]
struct Held {
    file: String,
    bytes: u64,
    idle: Duration,
    used: bool,
    current: bool,
}

/// Which images go. Pure.
fn superfluous(mut all: Vec<Held>, max_bytes: u64, keep: Option<Duration>) -> Vec<String> {
    all.sort_by_key(|held| std::cmp::Reverse(held.idle));
    let mut total: u64 = all.iter().map(|held| held.bytes).sum();
    let mut gone = Vec::new();
    for held in all.into_iter().filter(|held| !held.used) {
        let too_much = max_bytes > 0 && total > max_bytes;
        if !held.current || too_much || keep.is_some_and(|keep| held.idle > keep) {
            total -= held.bytes;
            gone.push(held.file);
        }
    }
    gone
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let text = match std::fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return None,
        text => text,
    };
    let read = text.map_err(|e| e.to_string()).and_then(|text| serde_json::from_slice(&text).map_err(|e| e.to_string()));
    read.inspect_err(|error| tracing::warn!(path = %path.display(), error, "unreadable; taken as missing")).ok()
}

/// Whether nobody works in a folder of a pull.
fn is_dead(folder: &Path) -> bool {
    match lock::attempt(&folder.join(LOCK)) {
        Ok(Tried::Held(_)) => true,
        Ok(Tried::Busy(_)) => false,
        Ok(Tried::Unknown) | Err(_) => {
            folder.metadata().and_then(|m| m.modified()).is_ok_and(|at| at.elapsed().is_ok_and(|age| age > DEAD))
        }
    }
}

/// Removes a folder whatever the modes of those within; a missing one is fine.
pub fn remove_tree(folder: &Path) -> std::io::Result<()> {
    let mut last = Ok(());
    // Somebody who was killed a moment ago may still write in it.
    for _ in 0..5 {
        let removed = if folder.is_file() { std::fs::remove_file(folder) } else { std::fs::remove_dir_all(folder) };
        match removed {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound && !folder.exists() => return Ok(()),
            Err(e) => {
                last = Err(e);
                open_up(folder);
            }
        }
    }
    last
}

/// Layers hold folders that even their owner may not write.
fn open_up(folder: &Path) {
    if std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).is_err() {
        return;
    }
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// Bytes below a folder; what cannot be read counts nothing.
pub fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(file: &str, days: u64, used: bool, current: bool) -> Held {
        Held { file: file.into(), bytes: 10, idle: Duration::from_secs(days * 24 * 3600), used, current }
    }

    #[test]
    fn the_longest_unused_go_first_and_never_one_in_use() {
        let all = vec![held("a", 1, false, true), held("b", 5, true, true), held("c", 4, false, true), held("d", 3, false, true)];
        assert_eq!(superfluous(all.clone(), 0, None), Vec::<String>::new());
        assert_eq!(superfluous(all.clone(), 40, None), Vec::<String>::new());
        assert_eq!(superfluous(all.clone(), 39, None), ["c"]);
        assert_eq!(superfluous(all.clone(), 20, None), ["c", "d"]);
        assert_eq!(superfluous(all.clone(), 1, None), ["c", "d", "a"]);
        assert_eq!(superfluous(all, 0, Some(Duration::from_secs(3 * 24 * 3600))), ["c"]);
        let replaced = vec![held("a", 0, false, false), held("b", 0, true, false)];
        assert_eq!(superfluous(replaced, 0, None), ["a"]);
    }

    #[test]
    fn keys_are_found_in_file_names() {
        assert_eq!(key_of(&file_of("sha256-ab.x86_64", 17)), Some("sha256-ab.x86_64"));
        assert_eq!(key_of("x"), None);
    }

    #[test]
    fn an_image_is_used_as_long_as_the_folder_of_its_job_is_there() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("images")).unwrap();
        let job = root.path().join("jobs/a");
        std::fs::create_dir_all(&job).unwrap();
        store.use_by("x.1.sif", &job).unwrap();
        assert!(store.is_used("x.1.sif").unwrap());
        std::fs::remove_dir(&job).unwrap();
        assert!(!store.is_used("x.1.sif").unwrap());
        // One whose neighbours cannot be seen either may live on another machine.
        store.use_by("x.1.sif", Path::new("/nowhere/jobs/b")).unwrap();
        assert!(store.is_used("x.1.sif").unwrap());
    }

    #[test]
    fn dead_pulls_are_swept_and_living_ones_are_not() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let living = store.work(Some(outside.path())).unwrap();
        let dead = root.path().join("work").join(format!("{PREFIX}dead"));
        std::fs::create_dir_all(dead.join("tmp/a")).unwrap();
        std::fs::set_permissions(dead.join("tmp"), std::fs::Permissions::from_mode(0o500)).unwrap();
        std::fs::write(outside.path().join("of others"), "x").unwrap();
        std::fs::create_dir(outside.path().join(format!("{PREFIX}dead"))).unwrap();
        store.sweep(Some(outside.path())).unwrap();
        assert!(!dead.exists() && !outside.path().join(format!("{PREFIX}dead")).exists());
        assert!(living.folder.exists() && living.temporary.exists() && outside.path().join("of others").exists());
        let (folder, temporary) = (living.folder.clone(), living.temporary.clone());
        drop(living);
        assert!(!folder.exists() && !temporary.exists());
    }
}
