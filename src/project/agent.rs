//! The `agent` section of project.yaml: what happens by itself, and when.

use super::scalar;
use super::scalar::Check;
use super::yaml::Kind;
use super::yaml::Scalar;
use serde::Serialize;
use std::time::Duration;

/// Its keys.
pub(super) const KEYS: &[&str] = &["onSave", "quiet", "whenBusy", "onCommit", "onPush", "results", "notify", "gateTimeout"];

/// What a save starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnSave {
    /// Nothing.
    Off,
    /// The trees are brought over.
    Sync,
    /// A run.
    Run,
}

/// What becomes of a run that is to start while another one is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenBusy {
    /// It waits; of those that wait, the newest stays.
    Queue,
    /// The one under way is cancelled.
    Replace,
    /// It does not start.
    Skip,
}

/// What a commit starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnCommit {
    /// Nothing.
    Off,
    /// The trees are brought over, as they are on disk.
    Sync,
    /// A run of that commit.
    Run,
}

/// What a push starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnPush {
    /// Nothing.
    Off,
    /// The trees are brought over, as they are on disk.
    Sync,
    /// A run of the pushed commit.
    Run,
    /// A run of the pushed commit; the push waits for it, and is refused unless it succeeds.
    Gate,
}

/// How results come home when a process closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ResultsHome {
    /// By themselves.
    Auto,
    /// When somebody asks for them.
    Ask,
}

/// What the section says; defaults where it says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSettings {
    /// What a save starts.
    pub on_save: OnSave,
    /// How long a tree must be still.
    pub quiet: Duration,
    /// What becomes of a run while another one is under way.
    pub when_busy: WhenBusy,
    /// What a commit starts.
    pub on_commit: OnCommit,
    /// What a push starts.
    pub on_push: OnPush,
    /// How results come home.
    pub results: ResultsHome,
    /// Whether the desktop tells of the end of a run.
    pub notify: bool,
    /// How long a push waits for its process.
    pub gate_timeout: Duration,
}

impl Default for AgentSettings {
    fn default() -> AgentSettings {
        AgentSettings {
            on_save: OnSave::Sync,
            quiet: Duration::from_millis(300),
            when_busy: WhenBusy::Queue,
            on_commit: OnCommit::Off,
            on_push: OnPush::Sync,
            results: ResultsHome::Auto,
            notify: true,
            gate_timeout: Duration::from_secs(30 * 60),
        }
    }
}

/// `onSave`.
pub(super) const ON_SAVE: Check<OnSave> = Check {
    wanted: "off, sync or run",
    read: |s| choice(s, &[("off", OnSave::Off), ("sync", OnSave::Sync), ("run", OnSave::Run)]),
};
/// `whenBusy`.
pub(super) const WHEN_BUSY: Check<WhenBusy> = Check {
    wanted: "queue, replace or skip",
    read: |s| choice(s, &[("queue", WhenBusy::Queue), ("replace", WhenBusy::Replace), ("skip", WhenBusy::Skip)]),
};
/// `onCommit`.
pub(super) const ON_COMMIT: Check<OnCommit> = Check {
    wanted: "off, sync or run",
    read: |s| choice(s, &[("off", OnCommit::Off), ("sync", OnCommit::Sync), ("run", OnCommit::Run)]),
};
/// `onPush`.
pub(super) const ON_PUSH: Check<OnPush> = Check {
    wanted: "off, sync, run or gate",
    read: |s| choice(s, &[("off", OnPush::Off), ("sync", OnPush::Sync), ("run", OnPush::Run), ("gate", OnPush::Gate)]),
};
/// `results`.
pub(super) const RESULTS: Check<ResultsHome> =
    Check { wanted: "auto or ask", read: |s| choice(s, &[("auto", ResultsHome::Auto), ("ask", ResultsHome::Ask)]) };
/// `quiet`.
pub(super) const QUIET: Check<Duration> = Check {
    wanted: "a time up to an hour, such as 300ms, 2s or a number of seconds",
    read: |s| time(s).filter(|t| *t <= Duration::from_secs(3600)),
};
/// `gateTimeout`.
pub(super) const GATE_TIMEOUT: Check<Duration> = Check {
    wanted: "a time from 1s to 30d, such as 90s, 30m, 2h or a number of seconds",
    read: |s| time(s).filter(|t| (Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600)).contains(t)),
};

/// The word's value. Programs that write the earlier YAML make `false` of a bare `off`, since it means that there.
fn choice<T: Copy>(scalar: &Scalar, words: &[(&str, T)]) -> Option<T> {
    let word = scalar.text.trim();
    let off = || !word.is_empty() && (scalar::FLAG.read)(scalar) == Some(false);
    let is_meant = |known: &str| known.eq_ignore_ascii_case(word) || (known == "off" && off());
    words.iter().find(|(known, _)| is_meant(known)).map(|(_, value)| *value)
}

/// A duration with a unit, or a number of seconds.
fn time(scalar: &Scalar) -> Option<Duration> {
    match scalar.kind {
        Kind::Int(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
        Kind::Float(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Kind::Text => {
            let text = scalar.text.trim();
            let seconds = || text.parse().ok().map(Duration::from_secs);
            crate::config::duration(text).or_else(seconds)
        }
        Kind::Bool(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Scalar {
        Scalar { text: text.into(), kind: Kind::Text }
    }

    #[test]
    fn off_is_off_in_both_versions_of_yaml() {
        for word in ["off", "Off", "OFF", "no", "false"] {
            assert_eq!((ON_PUSH.read)(&text(word)), Some(OnPush::Off), "{word}");
        }
        let rewritten = Scalar { text: "false".into(), kind: Kind::Bool(false) };
        assert_eq!((ON_SAVE.read)(&rewritten), Some(OnSave::Off));
        // What has no `off` has no `false` either, and `on` says too little.
        assert_eq!((RESULTS.read)(&rewritten), None);
        for bad in ["", " ", "on", "true", "synch", "sync run"] {
            assert_eq!((ON_PUSH.read)(&text(bad)), None, "{bad:?}");
        }
        assert_eq!((ON_PUSH.read)(&text(" gate ")), Some(OnPush::Gate));
    }

    #[test]
    fn times_have_units_or_are_seconds() {
        let millis = |scalar: &Scalar| time(scalar).map(|t| t.as_millis());
        for (given, wanted) in [("300ms", 300), ("2s", 2000), ("5m", 300_000), ("1h", 3_600_000), ("7", 7000)] {
            assert_eq!(millis(&text(given)), Some(wanted), "{given}");
        }
        assert_eq!(millis(&Scalar { text: "2".into(), kind: Kind::Int(2) }), Some(2000));
        assert_eq!(millis(&Scalar { text: "0.25".into(), kind: Kind::Float(0.25) }), Some(250));
        for bad in [text("-1s"), text("1.5h"), text("soon"), text(""), Scalar { text: "-1".into(), kind: Kind::Int(-1) }] {
            assert_eq!(time(&bad), None, "{bad:?}");
        }
        assert_eq!((QUIET.read)(&text("2h")), None);
        assert_eq!((GATE_TIMEOUT.read)(&text("0")), None);
        assert_eq!((GATE_TIMEOUT.read)(&text("31d")), None);
    }
}
