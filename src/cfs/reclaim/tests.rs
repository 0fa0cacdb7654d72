//! What may go, tried on cases and on random surroundings.

use super::decide;
use super::decide::Rest;
use super::decide::Rules;
use super::decide::Seen;
use super::look::Processes;
use super::look::Row;
use crate::colonies::Snapshot;
use crate::colonies::time::Time;
use crate::store::Found;
use crate::store::Unfinished;
use jiff::SignedDuration;
use jiff::Timestamp;
use std::collections::BTreeSet;

const ROOT: &str = "/pollinator/p";
const PREFIX: &str = "pollinator/p/";
/// The time before which things are old, in seconds.
const CUT: i64 = 1000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn key(number: u64) -> String {
    format!("{PREFIX}{number:064x}")
}

fn rules(keep: usize, spared: &BTreeSet<String>) -> Rules<'_> {
    Rules { root: ROOT, cut: at(CUT), serves_until: at(CUT), keep, spared }
}

fn object(number: u64, modified: i64) -> Found {
    Found { key: key(number), size: 1, modified: at(modified) }
}

fn revision(number: u64, replaced: Option<i64>) -> Row {
    Row {
        id: Some(number.to_string()),
        label: format!("{ROOT}/src"),
        name: "f".into(),
        object: key(number),
        size: 1,
        added: Some(at(1)),
        replaced: replaced.map(at),
        latest: replaced.is_none(),
        ours: true,
    }
}

fn frozen(number: u64, added: i64) -> Row {
    Row { label: format!("{ROOT}/runs/d-1/src"), added: Some(at(added)), ..revision(number, None) }
}

fn decided(seen: Seen) -> (Vec<String>, Vec<String>, Vec<String>) {
    let spared = BTreeSet::from([key(77)]);
    let Rest { rows, objects, unfinished } = decide::rest(&rules(0, &spared), PREFIX, seen);
    let rows = rows.into_iter().filter_map(|row| row.id).collect();
    (rows, objects.into_iter().map(|o| o.key).collect(), unfinished.into_iter().map(|u| u.key).collect())
}

fn none() -> Vec<String> {
    Vec::new()
}

fn snapshot(id: &str, added: i64) -> Snapshot {
    Snapshot {
        snapshotid: id.into(),
        label: format!("{ROOT}/src"),
        name: format!("pollinator-{id}"),
        added: Time::at(at(added)),
        ..Snapshot::default()
    }
}

fn chosen(keep: usize, all: &[Snapshot], processes: &Processes) -> Vec<String> {
    let spared = BTreeSet::new();
    let mut ids: Vec<String> =
        decide::snapshots(&rules(keep, &spared), all, processes).into_iter().map(|s| s.snapshotid.clone()).collect();
    ids.sort();
    ids
}

#[test]
fn the_newest_the_young_and_the_used_snapshots_stay() {
    let mut all: Vec<Snapshot> =
        [("a", 10), ("b", 20), ("c", 30), ("young", CUT + 1)].map(|(id, added)| snapshot(id, added)).into();
    let nobody = Processes::default();
    assert_eq!(chosen(0, &all, &nobody), ["a", "b", "c"]);
    assert_eq!(chosen(2, &all, &nobody), ["a", "b"]);
    assert_eq!(chosen(9, &all, &nobody), none());
    let busy = Processes { snapshots: ["a".to_owned()].into(), ..Processes::default() };
    assert_eq!(chosen(1, &all, &busy), ["b", "c"]);
    assert_eq!(chosen(0, &all, &Processes { incomplete: true, ..Processes::default() }), none());
    // Those of others, of other projects, and without a time.
    all.truncate(1);
    all.push(Snapshot { name: "mine".into(), ..snapshot("d", 10) });
    all.push(Snapshot { label: "/pollinator/p2/src".into(), ..snapshot("e", 10) });
    all.push(Snapshot { label: "/pollinator".into(), ..snapshot("f", 10) });
    all.push(Snapshot { added: Time::never(), ..snapshot("g", 10) });
    assert_eq!(chosen(0, &all, &nobody), ["a"]);
}

#[test]
fn a_revision_goes_when_it_was_replaced_long_ago_and_nothing_lists_it() {
    let rows = || vec![revision(1, Some(5)), revision(2, Some(CUT + 1)), revision(3, None)];
    let objects = || vec![object(1, 1), object(2, 2), object(3, 3), object(4, 4), object(5, CUT + 1), object(77, 1)];
    let seen = || Seen { rows: rows(), objects: objects(), alone: true, ..Seen::default() };
    assert_eq!(decided(seen()), (vec!["1".into()], vec![key(1), key(4)], none()));
    // A snapshot lists it.
    let needed = Seen { needed: ["1".to_owned()].into(), ..seen() };
    assert_eq!(decided(needed), (none(), vec![key(4)], none()));
    // There are processes that we do not know.
    assert_eq!(decided(Seen { keep_rows: true, ..seen() }), (none(), vec![key(4)], none()));
    // Another colony keeps objects here, too: only what certainly was ours goes.
    assert_eq!(decided(Seen { alone: false, ..seen() }), (vec!["1".into()], vec![key(1)], none()));
    // Somebody else's way of writing rows.
    let theirs = Seen { rows: vec![Row { ours: false, ..revision(1, Some(5)) }, revision(3, None)], ..seen() };
    assert_eq!(decided(theirs), (none(), vec![key(2), key(4)], none()));
    // Its bytes are new, or an upload works on them.
    let again = Seen { rows: vec![revision(5, Some(5)), revision(77, Some(5))], objects: objects(), ..Seen::default() };
    assert_eq!(decided(again), (none(), none(), none()));
}

#[test]
fn a_frozen_tree_goes_as_a_whole() {
    let objects = || vec![object(1, 1), object(2, 2)];
    let seen = |rows: Vec<Row>| Seen { rows, objects: objects(), alone: true, ..Seen::default() };
    assert_eq!(decided(seen(vec![frozen(1, 5), frozen(2, 6)])), (vec!["1".into(), "2".into()], vec![key(1), key(2)], none()));
    assert_eq!(decided(seen(vec![frozen(1, 5), frozen(2, CUT + 1)])), (none(), none(), none()));
    let held = Seen { held: [format!("{ROOT}/runs/d-1")].into(), ..seen(vec![frozen(1, 5), frozen(2, 6)]) };
    assert_eq!(decided(held), (none(), none(), none()));
    let listed = Seen { needed: ["2".to_owned()].into(), ..seen(vec![frozen(1, 5), frozen(2, 6)]) };
    assert_eq!(decided(listed), (none(), none(), none()));
    assert_eq!(decide::frozen_of(ROOT, "/pollinator/p/runs/x/src/y").as_deref(), Some("/pollinator/p/runs/x"));
    for label in ["/pollinator/p/runs", "/pollinator/p/runs/", "/pollinator/p2/runs/x", "/pollinator/p/src/runs/x"] {
        assert_eq!(decide::frozen_of(ROOT, label), None, "{label}");
    }
}

#[test]
fn keys_and_uploads_of_others_stay() {
    for odd in ["pollinator/p/notes.txt", "pollinator/p2/x", "pollinator/p/.x", "pollinator/p/sub/", "p/x"] {
        assert!(!decide::is_our_key(PREFIX, odd), "{odd}");
        assert!(!decide::is_our_key(PREFIX, &format!("{}{}", odd, &key(1)[PREFIX.len()..])), "{odd}");
    }
    assert!(decide::is_our_key(PREFIX, &key(1)) && !decide::is_our_key(PREFIX, &key(0xabc).to_uppercase()));
    let upload = |key: String, begun| Unfinished { key, id: "u".into(), begun: at(begun) };
    let unfinished = || {
        let odd = upload(format!("{PREFIX}notes"), 1);
        vec![upload(key(1), 5), upload(key(2), CUT + 1), upload(key(77), 5), odd]
    };
    let seen = Seen { unfinished: unfinished(), alone: true, ..Seen::default() };
    assert_eq!(decided(seen), (none(), none(), vec![key(1)]));
    assert_eq!(decided(Seen { unfinished: unfinished(), ..Seen::default() }), (none(), none(), none()));
}

#[test]
fn what_is_younger_than_a_running_process_is_not_old() {
    let (now, hour) = (at(100_000_000), SignedDuration::from_hours(1));
    let day = SignedDuration::from_hours(24);
    assert_eq!(decide::cut(now, hour, None), now - hour);
    assert_eq!(decide::cut(now, SignedDuration::ZERO, Some(now - hour)), now - hour - SignedDuration::from_mins(15));
    assert_eq!(decide::cut(now, SignedDuration::ZERO, Some(now - day * 3)), now - day);
    assert_eq!(decide::cut(now, day * 2, Some(now - hour)), now - day * 2);
    assert_eq!(decide::cut(at(0), SignedDuration::MAX, Some(Timestamp::MIN)), Timestamp::MIN);
}

/// Random numbers that a seed repeats.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn random(dice: &mut Dice) -> Seen {
    let time = |dice: &mut Dice| (CUT - 3) + i64::try_from(dice.roll(6)).unwrap();
    let rows = (0..dice.roll(12)).map(|_| {
        let latest = dice.roll(2) == 0;
        let label = ["src", "src/sub", "data", "runs/a-1/src", "runs/a-1/src/sub", "runs/b-2/src"][dice.roll(6) as usize];
        Row {
            id: (dice.roll(8) > 0).then(|| dice.roll(20).to_string()),
            label: format!("{ROOT}/{label}"),
            name: "f".into(),
            object: if dice.roll(8) == 0 { String::new() } else { key(dice.roll(12)) },
            size: 1,
            added: (dice.roll(9) > 0).then(|| at(time(dice))),
            replaced: (!latest).then(|| at(time(dice))),
            latest,
            ours: dice.roll(6) > 0,
        }
    });
    Seen {
        rows: rows.collect(),
        objects: (0..12).filter(|_| dice.roll(4) > 0).collect::<Vec<_>>().into_iter().map(|n| object(n, time(dice))).collect(),
        unfinished: Vec::new(),
        needed: (0..20).filter(|_| dice.roll(6) == 0).map(|n| n.to_string()).collect(),
        held: if dice.roll(3) == 0 { [format!("{ROOT}/runs/a-1")].into() } else { BTreeSet::new() },
        keep_rows: dice.roll(8) == 0,
        alone: dice.roll(4) > 0,
    }
}

#[test]
fn nothing_needed_ever_goes() {
    let spared: BTreeSet<String> = [key(0)].into();
    let mut went = 0;
    for seed in 0..30_000 {
        let seen = random(&mut Dice(seed));
        let copy = random(&mut Dice(seed));
        let rest = decide::rest(&rules(0, &spared), PREFIX, seen);
        let goes = |row: &Row| rest.rows.contains(row);
        for row in &copy.rows {
            let is_frozen = decide::frozen_of(ROOT, &row.label);
            let stays = !row.ours
                || copy.keep_rows
                || row.id.as_ref().is_none_or(|id| copy.needed.contains(id))
                || (row.latest && is_frozen.is_none())
                || is_frozen.is_some_and(|label| row.latest && copy.held.contains(&label));
            assert!(!(stays && goes(row)), "seed {seed}: {row:?}");
            if !goes(row) {
                assert!(rest.objects.iter().all(|o| o.key != row.object), "seed {seed}: the object of {row:?} goes");
            }
        }
        for gone in &rest.objects {
            let released = rest.rows.iter().any(|row| row.object == gone.key);
            assert!(gone.modified <= at(CUT) && gone.key != key(0) && (copy.alone || released), "seed {seed}: {gone:?}");
        }
        went += rest.rows.len() + rest.objects.len();
    }
    assert!(went > 10_000, "hardly anything goes: {went}");
}
