//! How much memory the agent holds, and giving back what an operation left free.
//!
//! A look at a large tree needs a hundred megabytes for a moment. The allocator keeps them for the next time, and an agent that
//! is at rest for hours would hold them all the while.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Growth since the last time that is worth giving back, bytes. Less than that is about to be used again.
const WORTH_IT: u64 = 8 << 20;

/// What was held after memory was given back last, bytes.
static AT_REST: AtomicU64 = AtomicU64::new(0);

/// Resident memory of this process, bytes; none where the system does not tell.
pub fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: sysconf reads a number and touches nothing of ours.
    let size = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    Some(pages * size)
}

/// Gives free memory back to the system where there is much of it. Takes some milliseconds then: not for an event loop.
pub fn give_back() {
    let Some(now) = resident() else { return };
    if now < AT_REST.load(Ordering::Relaxed) + WORTH_IT {
        return;
    }
    trim();
    AT_REST.store(resident().unwrap_or(now), Ordering::Relaxed);
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn trim() {
    // SAFETY: malloc_trim takes a number and touches only what is free.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators give back by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_goes_back() {
        // Small pieces: large ones are given back by the allocator itself.
        let pieces: Vec<Box<[u8; 1000]>> = (0..100_000).map(|n| Box::new([n as u8; 1000])).collect();
        let with_pieces = resident().unwrap();
        // One stays in the middle of each run, as in life: the heap cannot simply shrink.
        let left: Vec<_> = pieces.into_iter().enumerate().filter(|(n, _)| n % 1000 == 0).collect();
        give_back();
        let after = resident().unwrap();
        assert!(after + (50 << 20) < with_pieces, "{after} of {with_pieces} bytes are still held, for {} pieces", left.len());
    }
}
