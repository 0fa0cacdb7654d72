//! How fast bytes leave this machine: held to a limit where one is set, and measured, because the planner of delta uploads
//! weighs bytes against requests.

use governor::DefaultDirectRateLimiter;
use governor::Quota;
use governor::RateLimiter;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

/// Bodies in memory are handed to the connection in pieces of at most this size, so that progress can be seen.
const PIECE: usize = 64 * 1024;

/// Fewer bytes than this say nothing about a link: they fit into the system's buffers.
const MEASURED_FROM: u64 = 4 * 1024 * 1024;

/// What was measured of the way to a store.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Bytes a second that left us, over all connections together.
    pub uplink: Option<f64>,
    /// Seconds that a small request takes.
    pub round_trip: Option<f64>,
}

/// Limits and measures one store's requests.
#[derive(Debug, Default)]
pub(super) struct Pace {
    limiter: Option<Arc<DefaultDirectRateLimiter>>,
    piece: Option<usize>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Bodies under way, and since when there is any.
    active: u32,
    since: Option<Instant>,
    busy: Duration,
    sent: u64,
    round_trip: Option<f64>,
}

/// A wait for leave to send.
pub(super) type Leave = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl Pace {
    /// At most so many bytes a second; none: as fast as it goes.
    pub(super) fn new(limit: Option<u64>) -> Pace {
        let Some(limit) = limit else { return Pace::default() };
        let rate = NonZeroU32::new(u32::try_from(limit).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        // Four pieces a second at least, so that nothing stands still for long.
        let piece = (rate.get() as usize / 4).clamp(1, PIECE);
        let burst = NonZeroU32::new(piece as u32).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(rate).allow_burst(burst);
        Pace { limiter: Some(Arc::new(RateLimiter::direct(quota))), piece: Some(piece), seen: Mutex::default() }
    }

    /// Most bytes that are sent at once.
    pub(super) fn piece(&self) -> usize {
        self.piece.unwrap_or(PIECE)
    }

    /// Leave to send so many bytes, [`Pace::piece`] at most; none where no limit is set.
    pub(super) fn leave(&self, bytes: usize) -> Option<Leave> {
        let limiter = self.limiter.clone()?;
        let bytes = NonZeroU32::new(u32::try_from(bytes).unwrap_or(u32::MAX))?;
        Some(Box::pin(async move {
            // An error says that it is more than a burst, which a piece never is.
            let _ = limiter.until_n_ready(bytes).await;
        }))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Numbers that are whole at any time.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A body is about to be sent.
    pub(super) fn begin(&self) {
        let mut seen = self.seen();
        seen.active += 1;
        seen.since.get_or_insert_with(Instant::now);
    }

    /// It was sent, or given up, after so many bytes.
    pub(super) fn end(&self, bytes: u64) {
        let mut seen = self.seen();
        seen.sent += bytes;
        seen.active = seen.active.saturating_sub(1);
        if seen.active == 0
            && let Some(since) = seen.since.take()
        {
            seen.busy += since.elapsed();
        }
    }

    /// A small request took so long.
    pub(super) fn note_round_trip(&self, took: Duration) {
        let mut seen = self.seen();
        let took = took.as_secs_f64();
        seen.round_trip = Some(seen.round_trip.map_or(took, |before| before * 0.8 + took * 0.2));
    }

    pub(super) fn measured(&self) -> Measured {
        let seen = self.seen();
        let busy = (seen.busy + seen.since.map_or(Duration::ZERO, |s| s.elapsed())).as_secs_f64();
        let uplink = (seen.sent >= MEASURED_FROM && busy > 0.0).then(|| seen.sent as f64 / busy);
        Measured { uplink, round_trip: seen.round_trip }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_limit_holds_over_all_bodies_together() {
        let pace = Arc::new(Pace::new(Some(400_000)));
        let begun = Instant::now();
        let send = |pace: Arc<Pace>| async move {
            let mut left = 200_000usize;
            while left > 0 {
                let piece = pace.piece().min(left);
                pace.leave(piece).unwrap().await;
                left -= piece;
            }
        };
        tokio::join!(send(pace.clone()), send(pace.clone()));
        // The first burst is free; slower is always possible.
        assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
        assert!(Pace::new(None).leave(10).is_none());
    }

    #[test]
    fn little_says_nothing_and_much_is_measured() {
        let pace = Pace::new(None);
        assert_eq!(pace.measured(), Measured::default());
        pace.begin();
        pace.end(MEASURED_FROM - 1);
        assert_eq!(pace.measured().uplink, None);
        pace.begin();
        pace.end(1);
        assert!(pace.measured().uplink.unwrap() > 0.0);
        pace.note_round_trip(Duration::from_millis(10));
        assert_eq!(pace.measured().round_trip, Some(0.01));
    }
}
