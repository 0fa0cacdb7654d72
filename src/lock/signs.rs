//! The file of a lock as other machines see it: whose name stands there, and whether it is touched.

use super::holder::Holder;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

/// How a lock is shown and watched where other machines may see its file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How often its holder shows that it lives.
    pub beat: Duration,
    /// How long the name of another machine is watched before it is taken for dead.
    pub watch: Duration,
    /// How often it is looked at meanwhile.
    pub glance: Duration,
}

/// Three signs of life, and a file server that is slow once.
pub(super) const PACE: Pace =
    Pace { beat: Duration::from_secs(10), watch: Duration::from_secs(35), glance: Duration::from_secs(1) };
/// A name fills so many bytes, with blanks behind it: of two that are written at once one stands there whole.
const NAME_LENGTH: usize = 512;

/// What a file shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// The name in it; none where there is none that can be understood.
    pub name: Option<Holder>,
    /// When it was touched last, as its server says.
    pub touched: SystemTime,
}

/// Looks at a file, opened anew each time: only then do network file systems ask their server.
pub(super) fn look(path: &Path) -> std::io::Result<Shown> {
    let mut file = File::open(path)?;
    let touched = file.metadata()?.modified()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(Shown { name: serde_json::from_slice(&text).ok(), touched })
}

/// The name in a file.
pub(super) fn name_in(path: &Path) -> Option<Holder> {
    look(path).ok()?.name
}

/// Puts a name over whatever stands there, at once.
pub(super) fn write_name(file: &File, holder: &Holder) -> std::io::Result<()> {
    let mut text = serde_json::to_string(holder)?.into_bytes();
    text.resize(text.len().max(NAME_LENGTH), b' ');
    file.write_all_at(&text, 0)?;
    file.set_len(text.len() as u64)
}

/// What a look at a watched file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It was touched since the last look, or the name is another.
    Of(Holder),
    /// The same as before.
    None,
    /// No name stands there.
    Nobody,
    /// It could not be seen, or not in time.
    Unseen,
}

/// Watches whether a holder on another machine shows that it lives. Counted are looks, each for no more than the time between two:
/// while a file server does not answer, or this machine sleeps, nobody can show anything.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    pace: Pace,
    last: Option<Shown>,
    looked: Instant,
    silent: Duration,
}

impl Watch {
    /// Of a lock; none where holders show nothing, since no other machine can see it.
    pub fn of(path: &Path) -> Option<Watch> {
        crate::sqlite::on_shared_file_system(path).then(|| Watch::at(path, PACE))
    }

    pub(super) fn at(path: &Path, pace: Pace) -> Watch {
        Watch { path: path.into(), pace, last: look(path).ok(), looked: Instant::now(), silent: Duration::ZERO }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whose name stood there at the last look.
    pub(super) fn name(&self) -> Option<&Holder> {
        self.last.as_ref()?.name.as_ref()
    }

    /// Looks again.
    pub(super) fn look(&mut self) -> Sign {
        let begun = Instant::now();
        let passed = (begun - self.looked).min(self.pace.glance);
        let seen = look(&self.path);
        self.looked = Instant::now();
        if self.looked - begun > self.pace.beat {
            self.silent = Duration::ZERO;
            return Sign::Unseen;
        }
        let Ok(shown) = seen else { return Sign::Unseen };
        let is_other = self.last.as_ref().is_some_and(|last| *last != shown);
        self.silent = if is_other { Duration::ZERO } else { self.silent + passed };
        self.last = Some(shown.clone());
        match shown.name {
            Some(name) if is_other => Sign::Of(name),
            Some(_) => Sign::None,
            None => Sign::Nobody,
        }
    }

    /// Whether nothing was seen for longer than a living one is silent.
    pub(super) fn is_silent(&self) -> bool {
        self.silent >= self.pace.watch
    }

    /// Looks again; whether what was seen of late may be of a living one.
    pub fn beats(&mut self) -> bool {
        self.look();
        !self.is_silent()
    }
}
