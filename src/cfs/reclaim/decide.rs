//! What may go. Pure: from what was seen to what is no longer needed, with no clock and no server.

use super::look::Processes;
use super::look::Row;
use crate::cfs::labels;
use crate::cfs::snapshot::FROZEN;
use crate::colonies::Snapshot;
use crate::store::Found;
use crate::store::Unfinished;
use jiff::SignedDuration;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// What the names of our snapshots begin with.
const SNAPSHOT_NAME: &str = "pollinator-";
/// Digits of the last part of our keys: those of now, and those of earlier versions.
const KEY_DIGITS: [usize; 2] = [32, 64];
/// By how much the clocks of the Colonies server and of the store may differ: S3 refuses more.
const SLACK: SignedDuration = SignedDuration::from_mins(15);
/// What is older does not concern a running process: it had all the time to name what it stored.
const LONG: SignedDuration = SignedDuration::from_hours(24);

/// What is decided about.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    /// Root of all labels of the project: `/pollinator/<project>`.
    pub(super) root: &'a str,
    /// What came later than this stays.
    pub(super) cut: Timestamp,
    /// Snapshots and frozen trees that came later than this stay: they may serve other machines again.
    pub(super) serves_until: Timestamp,
    /// So many snapshots stay in any case, the newest.
    pub(super) keep: usize,
    /// Keys that uploads of this machine still work on.
    pub(super) spared: &'a BTreeSet<String>,
}

/// Everything that lies in the project besides snapshots.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) objects: Vec<Found>,
    pub(super) unfinished: Vec<Unfinished>,
    pub(super) rows: Vec<Row>,
    /// Ids of rows that a snapshot which stays lists, or one of a process that has not ended.
    pub(super) needed: BTreeSet<String>,
    /// Labels of trees frozen for runs ([`frozen_of`]) whose snapshots stay.
    pub(super) held: BTreeSet<String>,
    /// Rows must stay: there are processes that we do not know.
    pub(super) keep_rows: bool,
    /// An object that no row names is rubbish: all rows are known, and no other colony keeps objects here.
    pub(super) alone: bool,
}

/// What goes.
#[derive(Debug, Default)]
pub(super) struct Rest {
    pub(super) rows: Vec<Row>,
    pub(super) objects: Vec<Found>,
    pub(super) unfinished: Vec<Unfinished>,
}

/// The time before which things are old. A process of the project that runs may have stored what it has not yet named, or
/// still read what was replaced since it began.
pub(super) fn cut(now: Timestamp, older_than: SignedDuration, running_since: Option<Timestamp>) -> Timestamp {
    let before = |time: Timestamp, by: SignedDuration| time.checked_sub(by).unwrap_or(Timestamp::MIN);
    let asked = before(now, older_than);
    match running_since {
        Some(since) => asked.min(before(since, SLACK).max(before(now, LONG))),
        None => asked,
    }
}

/// The time before which snapshots and frozen trees are old. They serve again for a week, so they stay for two; who asks for less
/// than a day says that nobody else works on the project.
pub(super) fn serves_until(now: Timestamp, older_than: SignedDuration, cut: Timestamp) -> Timestamp {
    if older_than < LONG {
        return cut;
    }
    let twice = SignedDuration::from_secs(2 * crate::cfs::snapshot::SERVES);
    cut.min(now.checked_sub(twice).unwrap_or(Timestamp::MIN))
}

/// Whether a snapshot is one that Pollinator made of this project.
pub(super) fn is_our_snapshot(root: &str, snapshot: &Snapshot) -> bool {
    snapshot.name.starts_with(SNAPSHOT_NAME) && labels::is_below(root, &snapshot.label)
}

/// Whether a key is one that Pollinator gave to a file's object below `prefix`, which ends with a slash.
pub(super) fn is_our_key(prefix: &str, key: &str) -> bool {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    key.strip_prefix(prefix).is_some_and(|rest| KEY_DIGITS.contains(&rest.len()) && rest.bytes().all(is_digit))
}

/// The label of the tree frozen for runs that `label` belongs to: `/pollinator/<project>/runs/<name>`.
pub(super) fn frozen_of(root: &str, label: &str) -> Option<String> {
    let rest = label.strip_prefix(root)?.strip_prefix('/')?.strip_prefix(FROZEN)?.strip_prefix('/')?;
    let name = rest.split('/').next().filter(|name| !name.is_empty())?;
    Some(format!("{root}/{FROZEN}/{name}"))
}

/// Snapshots that nothing needs.
pub(super) fn snapshots<'a>(rules: &Rules<'_>, all: &'a [Snapshot], processes: &Processes) -> Vec<&'a Snapshot> {
    if processes.incomplete {
        return Vec::new();
    }
    let mut ours: Vec<&Snapshot> = all.iter().filter(|snapshot| is_our_snapshot(rules.root, snapshot)).collect();
    // The newest first. One without a time counts as new.
    ours.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.added.get().unwrap_or(Timestamp::MAX)));
    let is_old = |snapshot: &Snapshot| snapshot.added.get().is_some_and(|added| added <= rules.serves_until);
    let mut going: Vec<&Snapshot> = ours.into_iter().skip(rules.keep).collect();
    going.retain(|snapshot| is_old(snapshot) && !processes.snapshots.contains(&snapshot.snapshotid));
    going
}

/// Rows, objects and unfinished uploads that nothing needs. `prefix` is that of the project's keys, with a slash at its end.
pub(super) fn rest(rules: &Rules<'_>, prefix: &str, seen: Seen) -> Rest {
    let modified: BTreeMap<&str, Timestamp> = seen.objects.iter().map(|o| (o.key.as_str(), o.modified)).collect();
    let may_go = |row: &Row| {
        let has_old_object = modified.get(row.object.as_str()).is_none_or(|modified| *modified <= rules.cut);
        let is_needed = row.id.as_ref().is_none_or(|id| seen.needed.contains(id));
        !seen.keep_rows && row.ours && !is_needed && has_old_object && !rules.spared.contains(&row.object)
    };
    // A frozen tree goes as a whole: what is left of one would be taken for a whole by the next run of it.
    let mut frozen: BTreeMap<String, bool> = BTreeMap::new();
    for row in &seen.rows {
        if let Some(label) = frozen_of(rules.root, &row.label) {
            let is_old = row.added.is_some_and(|added| added <= rules.serves_until);
            let goes = may_go(row) && is_old && !seen.held.contains(&label);
            frozen.entry(label).and_modify(|all| *all &= goes).or_insert(goes);
        }
    }
    let goes = |row: &Row| match frozen_of(rules.root, &row.label) {
        Some(label) if frozen.get(&label) == Some(&true) => true,
        // What counts is not how old a revision is, but for how long nobody could come upon it: a snapshot that is being
        // made lists what was the latest when it began.
        _ => may_go(row) && !row.latest && is_old(rules, row.replaced),
    };
    let (rows, staying): (Vec<Row>, Vec<Row>) = seen.rows.into_iter().partition(goes);
    let named: BTreeSet<&str> = staying.iter().map(|row| row.object.as_str()).collect();
    let released: BTreeSet<&str> = rows.iter().map(|row| row.object.as_str()).collect();
    let is_rubbish = |key: &str| is_our_key(prefix, key) && !rules.spared.contains(key) && !named.contains(key);
    let goes = |o: &Found| o.modified <= rules.cut && is_rubbish(&o.key) && (seen.alone || released.contains(o.key.as_str()));
    let objects = seen.objects.into_iter().filter(goes).collect();
    let is_abandoned = |u: &Unfinished| seen.alone && u.begun <= rules.cut && is_rubbish(&u.key);
    let unfinished = seen.unfinished.into_iter().filter(is_abandoned).collect();
    Rest { rows, objects, unfinished }
}

fn is_old(rules: &Rules<'_>, time: Option<Timestamp>) -> bool {
    time.is_some_and(|time| time <= rules.cut)
}
