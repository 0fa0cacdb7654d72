//! What may have changed since it was last brought over, and when it is still enough to be taken up. Pure.

use super::Millis;
use crate::event::Tree;
use std::collections::BTreeMap;

/// So many paths are kept apart; beyond, the whole project is looked at instead.
pub const MOST_PATHS: usize = 4096;
/// A file that somebody holds open for writing is taken up after so long without a write, all the same.
pub const OPEN_QUIET: Millis = 60_000;
/// A change that never gets still keeps others waiting no longer than so many quiet times, and at least [`LEAST_CAP`].
const CAP: Millis = 10;
/// See [`CAP`].
const LEAST_CAP: Millis = 3_000;

/// A path of a tree.
pub type Place = (Tree, String);

/// When a path was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// First event since it was last taken up.
    pub first: Millis,
    /// Last event.
    pub last: Millis,
    /// Somebody holds it open for writing, as far as is known.
    pub open: bool,
}

/// What is to be taken up at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All trees, by a look at every file.
    Whole,
    /// These paths: files, or folders with all that is below them.
    Paths(Vec<Place>),
}

/// Everything that may differ from what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirt {
    paths: BTreeMap<Place, Touch>,
    /// Anything may have changed: since when, and when that was last said.
    whole: Option<Touch>,
}

impl Dirt {
    /// An event about a path.
    pub fn touch(&mut self, now: Millis, place: Place, open: bool) {
        if let Some(whole) = &mut self.whole {
            // What is looked at as a whole waits until it is still as a whole.
            whole.last = whole.last.max(now);
            if !open {
                self.paths.remove(&place);
                return;
            }
        }
        let touch = self.paths.entry(place).or_insert(Touch { first: now, last: now, open });
        (touch.last, touch.open) = (now, open);
        if self.paths.len() > MOST_PATHS {
            let first = self.paths.values().map(|t| t.first).min().unwrap_or(now);
            self.paths.retain(|_, touch| touch.open);
            self.everything(first);
            if let Some(whole) = &mut self.whole {
                whole.last = now;
            }
        }
    }

    /// Anything may have changed.
    pub fn everything(&mut self, now: Millis) {
        let whole = self.whole.get_or_insert(Touch { first: now, last: now, open: false });
        whole.first = whole.first.min(now);
    }

    /// Whether nothing may have changed.
    pub fn is_clean(&self) -> bool {
        self.whole.is_none() && self.paths.is_empty()
    }

    /// When something was touched last.
    pub fn last(&self) -> Option<Millis> {
        self.paths.values().chain(&self.whole).map(|touch| touch.last).max()
    }

    /// Whether a look at everything is due.
    pub fn is_whole(&self) -> bool {
        self.whole.is_some()
    }

    /// Number of paths that wait.
    pub fn paths(&self) -> usize {
        self.paths.len()
    }

    /// Paths that wait, at most `most`.
    pub fn some(&self, most: usize) -> Vec<Place> {
        self.paths.keys().take(most).cloned().collect()
    }

    /// Paths that wait for their writer.
    pub fn held_open(&self) -> Vec<String> {
        self.paths.iter().filter(|(_, t)| t.open).map(|((tree, path), _)| format!("{tree}/{path}")).collect()
    }

    /// What is still enough, taken out; none: nothing yet.
    pub fn take(&mut self, now: Millis, quiet: Millis) -> Option<Taken> {
        if !self.is_due(now, quiet) {
            return None;
        }
        if let Some(whole) = self.whole.take() {
            let mut taken = Dirt { whole: Some(whole), ..Dirt::default() };
            // A look at everything sees all paths but those that wait for their writer.
            let (ripe, waiting) = std::mem::take(&mut self.paths).into_iter().partition(|(_, t)| is_ripe(t, now, quiet));
            (taken.paths, self.paths) = (ripe, waiting);
            return Some(Taken { scope: Scope::Whole, dirt: taken });
        }
        let (ripe, waiting) = std::mem::take(&mut self.paths).into_iter().partition(|(_, t)| is_ripe(t, now, quiet));
        self.paths = waiting;
        let taken = Dirt { paths: ripe, whole: None };
        Some(Taken { scope: Scope::Paths(taken.paths.keys().cloned().collect()), dirt: taken })
    }

    /// All of it, whether it is still or not: somebody asked.
    pub fn take_all(&mut self) -> Taken {
        let dirt = std::mem::take(self);
        let scope = if dirt.whole.is_some() { Scope::Whole } else { Scope::Paths(dirt.paths.keys().cloned().collect()) };
        Taken { scope, dirt }
    }

    fn is_due(&self, now: Millis, quiet: Millis) -> bool {
        self.due_at(quiet).is_some_and(|at| at <= now)
    }

    /// When something is to be taken up; none: nothing waits.
    ///
    /// That is when all of it is still, so that one save of many files is one change set; or, where something never gets
    /// still, when the first of what is still has waited long enough.
    pub fn due_at(&self, quiet: Millis) -> Option<Millis> {
        let cap = (quiet * CAP).max(LEAST_CAP);
        if let Some(whole) = &self.whole {
            return Some((whole.last + quiet).min(whole.first + cap));
        }
        let all_still = self.paths.values().map(|t| ripe_at(t, quiet)).max()?;
        let first_still = self.paths.values().map(|t| ripe_at(t, quiet).max(t.first + cap)).min()?;
        Some(all_still.min(first_still))
    }

    /// Puts back what was taken and not brought over. What was touched since stays touched since.
    pub fn put_back(&mut self, dirt: Dirt) {
        if let Some(whole) = dirt.whole {
            self.everything(whole.first);
        }
        for (place, touch) in dirt.paths {
            let entry = self.paths.entry(place).or_insert(touch);
            entry.first = entry.first.min(touch.first);
        }
        if self.paths.len() > MOST_PATHS {
            let first = self.paths.values().map(|t| t.first).min().unwrap_or_default();
            self.paths.retain(|_, touch| touch.open);
            self.everything(first);
        }
    }
}

fn ripe_at(touch: &Touch, quiet: Millis) -> Millis {
    touch.last + if touch.open { OPEN_QUIET.max(quiet) } else { quiet }
}

fn is_ripe(touch: &Touch, now: Millis, quiet: Millis) -> bool {
    ripe_at(touch, quiet) <= now
}

/// What was taken out of the dirt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What to look at.
    pub scope: Scope,
    /// What to put back if that fails.
    pub dirt: Dirt,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Place {
        (Tree::Src, path.to_owned())
    }

    fn taken(dirt: &mut Dirt, now: Millis) -> Vec<String> {
        match dirt.take(now, 300).map(|taken| taken.scope) {
            Some(Scope::Paths(paths)) => paths.into_iter().map(|(_, path)| path).collect(),
            Some(Scope::Whole) => vec!["everything".into()],
            None => Vec::new(),
        }
    }

    #[test]
    fn changes_that_follow_each_other_are_one_set() {
        let mut dirt = Dirt::default();
        dirt.touch(0, place("a"), false);
        dirt.touch(200, place("b"), false);
        assert_eq!(dirt.due_at(300), Some(500));
        assert!(taken(&mut dirt, 499).is_empty());
        assert_eq!(taken(&mut dirt, 500), ["a", "b"]);
        assert!(dirt.is_clean() && dirt.due_at(300).is_none());
    }

    #[test]
    fn a_file_that_never_gets_still_waits_alone() {
        let mut dirt = Dirt::default();
        dirt.touch(0, place("calm"), false);
        let mut seen = Vec::new();
        for now in (0..10_000).step_by(100) {
            dirt.touch(now, place("hot"), false);
            seen.extend(taken(&mut dirt, now + 50).into_iter().map(|path| (now, path)));
        }
        assert_eq!(seen, [(3000, "calm".to_owned())]);
        assert_eq!(taken(&mut dirt, 10_300), ["hot"]);
    }

    #[test]
    fn what_is_being_written_waits_for_its_writer() {
        let mut dirt = Dirt::default();
        dirt.touch(0, place("copy"), true);
        dirt.touch(10, place("other"), false);
        assert_eq!(taken(&mut dirt, 3010), ["other"]);
        assert_eq!(dirt.held_open(), ["src/copy"]);
        dirt.touch(20_000, place("copy"), false);
        assert_eq!(taken(&mut dirt, 20_300), ["copy"]);
        dirt.touch(30_000, place("log"), true);
        assert_eq!(dirt.due_at(300), Some(90_000));
    }

    #[test]
    fn too_many_paths_are_one_look_at_everything() {
        let mut dirt = Dirt::default();
        for number in 0..=MOST_PATHS as u64 {
            dirt.touch(number / 100, place(&number.to_string()), false);
        }
        assert!(dirt.is_whole() && dirt.paths() == 0);
        assert_eq!(taken(&mut dirt, 339), Vec::<String>::new());
        assert_eq!(taken(&mut dirt, 340), ["everything"]);
    }

    #[test]
    fn what_failed_comes_back_beside_what_came_meanwhile() {
        let mut dirt = Dirt::default();
        dirt.touch(0, place("a"), false);
        let taken = dirt.take(300, 300).unwrap();
        dirt.touch(400, place("a"), false);
        dirt.touch(400, place("b"), false);
        dirt.put_back(taken.dirt);
        assert_eq!((dirt.paths(), dirt.due_at(300)), (2, Some(700)));
    }
}
