//! Images: there before the job begins, and told by their digest.

use super::cli;
use super::cli::Cli;
use super::name;
use super::name::Trouble;
use super::settings::Flavour;
use super::settings::Pull;
use super::settings::Settings;
use crate::executor::backend::Failure;
use crate::executor::backend::Task;
use crate::executor::backend::payload;
use crate::executor::backend::say;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncRead;
use tokio::io::BufReader;

/// How long the engine may take to look at an image of its own.
const LOOK: Duration = Duration::from_secs(60);
/// How long a pull may take: one that stands still would keep every job of the image waiting.
const PULL: Duration = Duration::from_secs(2 * 3600);
/// How often a registry that does not answer is asked, and the pause between.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);
/// Most lines of a pull that go to the process log.
const MOST_LINES: usize = 200;
/// The file of a job's folder that holds the id of its image.
const ID_FILE: &str = "image";

/// The engine's images.
#[derive(Debug)]
pub(super) struct Images {
    cli: Cli,
    settings: Arc<Settings>,
    /// A folder for a copy of docker's kind of configuration, made when it is needed.
    config: PathBuf,
    /// One at a time for each name.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// An image that is here.
#[derive(Debug)]
struct Found {
    id: String,
    digest: Option<String>,
}

impl Images {
    pub(super) fn new(cli: Cli, settings: Arc<Settings>, state_dir: &Path) -> Images {
        Images { cli, settings, config: state_dir.join("registry-credentials"), locks: Mutex::default() }
    }

    /// Makes sure that a job's image is here, and writes down which one it is.
    ///
    /// # Errors
    /// It cannot be had; the reason says what to do.
    pub(super) async fn prepare(&self, task: &Task) -> Result<Vec<String>, Failure> {
        let name = name::qualified(&task.job.image)
            .map_err(|reason| Failure::Unsupported { field: "kwargs.docker-image".into(), reason })?;
        let lock = self.lock_of(&name);
        let _alone = lock.lock().await;
        let (found, mut lines) = self.bring(&name, task).await?;
        let short = found.id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        lines.push(match &found.digest {
            Some(digest) => format!("the image is {name}, {digest} (id {short})"),
            None => format!("the image is {name}, made on this machine (id {short})"),
        });
        payload::private_file(&task.folder.join(ID_FILE), found.id.as_bytes())?;
        Ok(lines)
    }

    /// The id that [`Images::prepare`] wrote down.
    pub(super) fn id(task: &Task) -> Result<String, Failure> {
        let path = task.folder.join(ID_FILE);
        std::fs::read_to_string(&path).map_err(Failure::io("cannot read which image the job has", path))
    }

    fn lock_of(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(name.to_owned()).or_default().clone()
    }

    async fn bring(&self, name: &str, task: &Task) -> Result<(Found, Vec<String>), Failure> {
        let here = self.find(name).await?;
        let anew = task.job.rebuild_image;
        let may = self.settings.pull != Pull::Never && !name::is_local(name);
        let mut lines = Vec::new();
        let enough = match self.settings.pull {
            Pull::Newer => name::is_pinned(name),
            Pull::Missing | Pull::Never => true,
        };
        let here = match here {
            Some(found) if !may || (enough && !anew) => {
                if anew {
                    lines.push("rebuild-image: this image is not fetched here, so the one that is here is used".into());
                }
                return Ok((found, lines));
            }
            here => here,
        };
        if !may {
            return Err(refused(name, "it is not on this machine, and images are not fetched here: have it brought".into()));
        }
        match (self.pull_patiently(name, task, here.is_some()).await, here) {
            (Ok(()), _) => {}
            (Err((Trouble::Away, reason)), Some(found)) if !anew => {
                lines.push(format!("{reason}; the image that is here already is used"));
                return Ok((found, lines));
            }
            (Err((Trouble::Away, reason)), _) => return Err(Failure::Unanswered { what: cannot_be_had(name), reason }),
            (Err((Trouble::Refusal, reason)), _) => return Err(refused(name, reason)),
        }
        match self.find(name).await? {
            Some(found) => Ok((found, lines)),
            None => Err(refused(name, "it was fetched, and is not there (removed by somebody?)".into())),
        }
    }

    async fn pull_patiently(&self, name: &str, task: &Task, here: bool) -> Result<(), (Trouble, String)> {
        let mut tries = 1;
        loop {
            match self.pull(name, task).await {
                Err((Trouble::Away, reason)) if tries < TRIES && !here => {
                    tracing::warn!(image = name, reason, "an image is tried again");
                    tokio::time::sleep(PAUSE * tries).await;
                    tries += 1;
                }
                done => return done,
            }
        }
    }

    /// Looks at an image that is here.
    async fn find(&self, name: &str) -> Result<Option<Found>, Failure> {
        let what = format!("cannot look for the image {name}");
        let format = "{{.Id}}\t{{json .RepoDigests}}";
        let words = cli::words(&["image", "inspect", "--format", format, name]);
        let answer = self.cli.call(&what, &words, LOOK, true).await?;
        if answer.success {
            return Ok(Some(read(&answer.stdout, name)));
        }
        let complaint = answer.complaint();
        let missing = ["no such image", "image not known", "no such object"];
        match missing.iter().any(|words| complaint.to_lowercase().contains(words)) {
            true => Ok(None),
            false => Err(Failure::Refused { what, reason: complaint }),
        }
    }

    /// Fetches an image; what the engine says goes to the process log.
    async fn pull(&self, name: &str, task: &Task) -> Result<(), (Trouble, String)> {
        let broken = |reason: String| (Trouble::Refusal, reason);
        let words = self.pull_words(name).map_err(|e| broken(e.to_string()))?;
        let mut command = self.cli.command(words);
        command.kill_on_drop(true);
        let mut child = command.spawn().map_err(|e| broken(format!("{} cannot be run: {e}", self.cli.name())))?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let log = task.log();
        let whole = async {
            let (_, said) = tokio::join!(tell(out, &log), tell(err, &log));
            (said, child.wait().await)
        };
        let (said, status) = tokio::time::timeout(PULL, whole).await.map_err(|_| {
            (Trouble::Away, format!("{} was not done with it after {} minutes", self.cli.name(), PULL.as_secs() / 60))
        })?;
        let status = status.map_err(|e| broken(e.to_string()))?;
        if status.success() {
            return Ok(());
        }
        let complaint = cli::complaint(&said);
        if cli::is_away(&said) {
            return Err((Trouble::Away, complaint));
        }
        let (trouble, advice) = name::advice(&said, name, self.cli.flavour);
        Err((trouble, if advice.is_empty() { complaint } else { format!("{advice} ({complaint})") }))
    }

    fn pull_words(&self, name: &str) -> Result<Vec<OsString>, Failure> {
        let mut words: Vec<OsString> = Vec::new();
        let auth = self.settings.auth_file.as_deref();
        match self.cli.flavour {
            Flavour::Podman => {
                words.push("pull".into());
                if let Some(file) = auth {
                    words.extend(["--authfile".into(), file.into()]);
                }
                if self.settings.insecure_registries.iter().any(|r| r == name::registry(name)) {
                    words.push("--tls-verify=false".into());
                }
            }
            Flavour::Docker => {
                if let Some(file) = auth {
                    words.extend(["--config".into(), self.docker_config(file)?.into()]);
                }
                words.push("pull".into());
            }
        }
        words.push(name.into());
        Ok(words)
    }

    /// Docker takes a folder with a `config.json`, not a file.
    fn docker_config(&self, file: &Path) -> Result<PathBuf, Failure> {
        let bytes = std::fs::read(file).map_err(Failure::io("cannot read the credentials of registries", file))?;
        crate::sqlite::private_folder(&self.config).map_err(Failure::io("cannot make a folder", &self.config))?;
        let wanted = self.config.join("config.json");
        let temporary = self.config.join(format!("config.json.{}", std::process::id()));
        payload::private_file(&temporary, &bytes)?;
        std::fs::rename(&temporary, &wanted).map_err(Failure::io("cannot write the credentials of registries", wanted))?;
        Ok(self.config.clone())
    }
}

fn refused(name: &str, reason: String) -> Failure {
    Failure::Refused { what: cannot_be_had(name), reason }
}

fn cannot_be_had(name: &str) -> String {
    format!("the image {name} cannot be had")
}

/// `ID<tab>["NAME@DIGEST", …]`
fn read(text: &str, name: &str) -> Found {
    let (id, digests) = text.trim().split_once('\t').unwrap_or((text.trim(), ""));
    let digests: Vec<String> = serde_json::from_str(digests).unwrap_or_default();
    let repository = |d: &str| d.split_once('@').map(|(r, _)| r.to_owned()).unwrap_or_default();
    // Docker leaves out what every short name has.
    let short = name.strip_prefix("docker.io/").map(|n| n.strip_prefix("library/").unwrap_or(n));
    let ours = digests.iter().find(|d| {
        let repository = repository(d);
        [Some(name), short]
            .iter()
            .flatten()
            .any(|n| n.strip_prefix(&repository).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@'])))
    });
    let digest = if name::is_local(name) { None } else { ours.or(digests.first()) };
    let digest = digest.and_then(|d| d.split_once('@')).map(|(_, digest)| digest.to_owned());
    Found { id: id.to_owned(), digest }
}

/// Passes lines on as they come; gives them all.
async fn tell(stream: Option<impl AsyncRead + Unpin>, log: &Path) -> String {
    let Some(stream) = stream else { return String::new() };
    let mut lines = BufReader::new(stream).split(b'\n');
    let (mut all, mut told) = (String::new(), 0);
    // A stream that breaks ends as one that is over: the exit status decides.
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        let line = line.rsplit('\r').next().unwrap_or_default().trim_end();
        if all.len() < 64 << 10 {
            all.push_str(line);
            all.push('\n');
        }
        if told < MOST_LINES && is_worth_telling(line) {
            told += 1;
            if let Err(error) = say(log, line) {
                tracing::warn!(%error, "a line of a pull is lost");
            }
        }
    }
    all
}

/// Not a layer's progress (`0123456789ab: Waiting`), nor a bare id.
fn is_worth_telling(line: &str) -> bool {
    let is_id = |text: &str| text.len() >= 12 && text.bytes().all(|b| b.is_ascii_hexdigit());
    !line.trim().is_empty() && !is_id(line) && !line.split_once(": ").is_some_and(|(first, _)| is_id(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_registrys_digest() {
        let found = read("sha256:ab\t[\"reg:1/a@sha256:11\",\"reg:1/b@sha256:22\"]\n", "reg:1/b:tag");
        assert_eq!((found.id.as_str(), found.digest.as_deref()), ("sha256:ab", Some("sha256:22")));
        let found = read("ab\t[\"python@sha256:33\"]", "docker.io/library/python:3");
        assert_eq!(found.digest.as_deref(), Some("sha256:33"));
        assert_eq!(read("ab\t[]", "localhost/x").digest, None);
        assert_eq!(read("ab\tnull", "docker.io/library/x").digest, None);
    }

    #[test]
    fn progress_is_not_told() {
        assert!(!is_worth_telling("0123456789ab: Pulling fs layer"));
        assert!(!is_worth_telling("3183601e1208bb137c5c8280927ff8dae7b5ae1ee3d91e5c7bd67116325918df"));
        assert!(!is_worth_telling("  "));
        assert!(is_worth_telling("Digest: sha256:12"));
        assert!(is_worth_telling("Trying to pull 127.0.0.1:5000/x:1..."));
    }
}
