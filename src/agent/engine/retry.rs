//! When something that failed is tried again. Pure.

use super::Millis;
use serde::Deserialize;
use serde::Serialize;

/// Pause after the first failure.
const FIRST: Millis = 1_000;
/// Longest pause where nobody answers: a network comes back at any time.
const LONGEST_OFFLINE: Millis = 60_000;
/// Longest pause where a person has to do something.
const LONGEST: Millis = 300_000;
/// What a change may bring forward a try to: it may be what was missing.
const AFTER_CHANGE: Millis = 5_000;

/// Why something was not done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What failed, on what, why.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Nobody answered.
    pub offline: bool,
    /// It may go away by itself.
    pub temporary: bool,
    /// Exit code of a command that fails for it.
    pub code: u8,
}

/// Failures in a row, and the next try.
#[derive(Clone, Debug)]
pub(super) struct Retry {
    failures: u32,
    last: Option<(Failure, Millis, Millis)>,
    seed: u64,
}

impl Retry {
    pub(super) fn new(seed: u64) -> Retry {
        Retry { failures: 0, last: None, seed }
    }

    /// It failed: the next try waits twice as long as the last one, spread so that many do not come at once.
    pub(super) fn failed(&mut self, now: Millis, failure: Failure) {
        let longest = if failure.offline { LONGEST_OFFLINE } else { LONGEST };
        let pause = FIRST.saturating_mul(1 << self.failures.min(20)).min(longest);
        self.failures = self.failures.saturating_add(1);
        let spread = self.random() % (pause / 2 + 1);
        self.last = Some((failure, now, now + pause - spread));
    }

    pub(super) fn succeeded(&mut self) {
        (self.failures, self.last) = (0, None);
    }

    /// The next try is now.
    pub(super) fn now(&mut self, now: Millis) {
        if let Some((_, _, next)) = &mut self.last {
            *next = now;
        }
    }

    /// Something changed here. It may be what was missing, unless nobody answered.
    pub(super) fn something_changed(&mut self, now: Millis, quiet: Millis) {
        if let Some((failure, failed, next)) = &mut self.last
            && !failure.offline
            && !failure.temporary
        {
            *next = (*next).min((now + quiet).max(*failed + AFTER_CHANGE));
        }
    }

    /// Nothing is tried before.
    pub(super) fn not_before(&self) -> Option<Millis> {
        self.last.as_ref().map(|(_, _, next)| *next)
    }

    /// The last failure, and the next try.
    pub(super) fn failure(&self) -> Option<(&Failure, Millis)> {
        self.last.as_ref().map(|(failure, _, next)| (failure, *next))
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_spread() {
        let failure = Failure { offline: true, temporary: true, ..Failure::default() };
        let mut pauses = Vec::new();
        let mut retry = Retry::new(7);
        for _ in 0..12 {
            retry.failed(1000, failure.clone());
            pauses.push(retry.not_before().unwrap() - 1000);
        }
        for (number, pause) in pauses.iter().enumerate() {
            let whole = (FIRST << number).min(LONGEST_OFFLINE);
            assert!((whole / 2..=whole).contains(pause), "{number}: {pause}");
        }
        let mut other = Retry::new(8);
        other.failed(1000, failure);
        assert_ne!(other.not_before(), Some(1000 + pauses[0]));
        retry.succeeded();
        assert_eq!(retry.not_before(), None);
    }

    #[test]
    fn a_change_brings_a_try_forward_where_it_may_help() {
        let mut retry = Retry::new(1);
        for _ in 0..10 {
            retry.failed(0, Failure::default());
        }
        retry.something_changed(1_000, 300);
        assert_eq!(retry.not_before(), Some(AFTER_CHANGE));
        retry.something_changed(100_000, 300);
        assert_eq!(retry.not_before(), Some(AFTER_CHANGE));
        retry.failed(0, Failure { offline: true, ..Failure::default() });
        let before = retry.not_before();
        retry.something_changed(1_000, 300);
        assert_eq!(retry.not_before(), before);
    }
}
