//! Plans against an exhaustive search, and contents built from them byte by byte as S3 would.

use super::*;
use crate::content::Chunk;
use crate::content::Digest;
use crate::content::matching;
use proptest::prelude::*;

const SMALL: Limits = Limits { smallest: 4, largest: 1000, most: 1000, upload: 1000 };

/// The cheapest plan with any cut at any byte, by trying all of them.
fn exhaustive(size: u64, runs: &[Run], limits: Limits, price: Price) -> u64 {
    let small = limits.smallest;
    let mut best = vec![u64::MAX; size as usize + 1];
    best[0] = 0;
    for begin in 0..size {
        let so_far = best[begin as usize];
        if so_far == u64::MAX {
            continue;
        }
        for end in begin + 1..=size {
            let is_part = end - begin >= small || end == size;
            let copies = |from: u64, to: u64| runs.iter().any(|r| r.target <= from && to <= r.end());
            let mut offer = |cost: u64| best[end as usize] = best[end as usize].min(so_far + cost);
            if is_part {
                offer(end - begin + price.request);
            }
            if is_part && copies(begin, end) {
                offer(price.request);
            }
            for middle in begin + 1..end {
                if price.scratch && middle - begin >= small && copies(begin, middle) {
                    offer(end - middle + TAIL_REQUESTS * price.request);
                }
                if price.scratch && end - middle >= small && copies(middle, end) {
                    offer(middle - begin + HEAD_REQUESTS * price.request);
                }
            }
        }
    }
    best[size as usize]
}

fn without_inner(mut runs: Vec<Run>, size: u64) -> Vec<Run> {
    runs.retain(|r| r.end() <= size && (r.len >= SMALL.smallest || r.end() == size));
    runs.sort_by_key(|r| (r.target, u64::MAX - r.len));
    let mut reached = 0;
    runs.retain(|r| {
        let reaches_on = r.end() > reached;
        reached = reached.max(r.end());
        reaches_on
    });
    runs
}

fn is_legal(size: u64, parts: &[Part], runs: &[Run], limits: Limits) {
    let mut at = 0;
    for part in parts {
        assert_eq!(part.begin, at, "{parts:?}");
        at = part.end;
        let len = part.end - part.begin;
        assert!(len > 0 && len <= limits.largest);
        assert!(len >= limits.smallest || at == size, "{part:?} of {parts:?}");
        let copied = match part.kind {
            Kind::Upload => None,
            Kind::Copy { source, offset } => Some((source, offset, part.begin, len)),
            Kind::Tail { source, offset, copied } => Some((source, offset, part.begin, copied)),
            Kind::Head { uploaded, source, offset } => Some((source, offset, part.begin + uploaded, len - uploaded)),
        };
        if let Some((source, offset, target, len)) = copied {
            let holds = |r: &&Run| r.source == source && r.target <= target && target + len <= r.end() && r.at(target) == offset;
            assert!(runs.iter().any(|r| holds(&r)), "{part:?} is copied from elsewhere");
            assert!(len >= limits.smallest || at == size, "{part:?}");
        }
    }
    assert_eq!(at, size);
}

/// How many plans are tried; `POLLINATOR_CASES=n` tries so many.
fn cases() -> u32 {
    std::env::var("POLLINATOR_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(50_000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]
    #[test]
    fn no_plan_is_cheaper(
        size in 1u64..48,
        runs in prop::collection::vec((0u64..48, 1u64..30, 0usize..3, 0u64..50), 0..7),
        request in 0u64..3,
        scratch: bool,
    ) {
        let runs = runs.into_iter().map(|(target, len, source, offset)| Run { target, len, source, offset }).collect();
        let runs = without_inner(runs, size);
        let price = Price { request, scratch };
        let path = shortest_path(size, &runs, SMALL, price);
        is_legal(size, &path, &runs, SMALL);
        prop_assert_eq!(cost(&path, price), exhaustive(size, &runs, SMALL, price), "{:?} {:?}", path, runs);
        let parts = plan(size, &runs, Limits { largest: 9, upload: 9, ..SMALL }, price);
        is_legal(size, &parts, &runs, Limits { largest: u64::MAX, ..SMALL });
        prop_assert_eq!(uploaded(&parts), uploaded(&path));
    }
}

/// A small generator: the test wants millions of edits, and their seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// Chunks of a content: cut behind every byte below 40, eight bytes at most.
fn chunked(bytes: &[u8]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut begin = 0;
    for at in 0..bytes.len() {
        let end = at + 1;
        if bytes[at] < 40 || end - begin == 8 || end == bytes.len() {
            // Bytes stand for their digest: hashing would be most of this test's time.
            let mut digest = [0; 32];
            digest[..end - begin].copy_from_slice(&bytes[begin..end]);
            digest[31] = (end - begin) as u8;
            chunks.push(Chunk { digest: Digest(digest), len: (end - begin) as u32 });
            begin = end;
        }
    }
    chunks
}

fn edited(old: &[u8], random: &mut Random, edits: &mut u64) -> Vec<u8> {
    let mut new = old.to_vec();
    for _ in 0..1 + random.below(12) {
        *edits += 1;
        let at = random.below(new.len() + 1);
        let len = random.below(20).min(new.len() - at);
        match random.below(5) {
            0 => drop(new.drain(at..at + len)),
            1 => new[at..at + len].reverse(),
            2 => {
                let moved: Vec<u8> = new[at..at + len].to_vec();
                let to = random.below(new.len());
                new.splice(to..to, moved);
            }
            _ => {
                let inserted: Vec<u8> = (0..1 + random.below(6)).map(|_| random.below(256) as u8).collect();
                let replaced = random.below(2) * inserted.len().min(new.len() - at);
                new.splice(at..at + replaced, inserted);
            }
        }
    }
    new
}

/// What a store would make of the parts; panics at what it would refuse.
fn built(new: &[u8], parts: &[Part], bases: &[&[u8]], limits: Limits) -> Vec<u8> {
    let small = limits.smallest as usize;
    let range = |object: &[u8], offset: u64, len: usize| {
        assert!(object.len() > small, "ranges of small objects are not copied");
        object[offset as usize..offset as usize + len].to_vec()
    };
    let mut object = Vec::new();
    for (n, part) in parts.iter().enumerate() {
        let bytes = &new[part.begin as usize..part.end as usize];
        let part_bytes = match part.kind {
            Kind::Upload => bytes.to_vec(),
            Kind::Copy { source, offset } => range(bases[source], offset, bytes.len()),
            Kind::Tail { source, offset, copied } => {
                let mut scratch = range(bases[source], offset, copied as usize);
                assert!(scratch.len() >= small);
                scratch.extend(&bytes[copied as usize..]);
                range(&scratch, 0, bytes.len())
            }
            Kind::Head { uploaded, source, offset } => {
                let mut scratch = range(bases[source], offset, small);
                scratch.extend(&bytes[..uploaded as usize]);
                let mut second = range(&scratch, 0, scratch.len());
                second.extend(range(bases[source], offset, bytes.len() - uploaded as usize));
                range(&second, limits.smallest, bytes.len())
            }
        };
        assert!(part_bytes.len() >= small || n + 1 == parts.len());
        object.extend(part_bytes);
    }
    object
}

#[test]
fn contents_are_built_from_plans_byte_by_byte() {
    let (mut edits, mut saved, seed) = (0u64, 0, 0x9e37_79b9_7f4a_7c15);
    let mut random = Random(seed);
    let rounds = 160_000;
    for round in 0..rounds {
        let size = 1 + random.below(400);
        let old: Vec<u8> = (0..size).map(|_| random.below(256) as u8).collect();
        let (new, other) = (edited(&old, &mut random, &mut edits), edited(&old, &mut random, &mut edits));
        let contents: Vec<&[u8]> = [&old[..], &other[..]].into_iter().filter(|c| c.len() > 4).collect();
        let lists: Vec<Vec<Chunk>> = contents.iter().map(|c| chunked(c)).collect();
        let lists: Vec<&[Chunk]> = lists.iter().map(Vec::as_slice).collect();
        let runs = matching::runs(&chunked(&new), &lists, SMALL.smallest);
        let price = Price { request: random.below(3) as u64, scratch: random.below(2) == 0 };
        let limits = Limits { largest: 60, upload: 30, ..SMALL };
        let parts = plan(new.len() as u64, &runs, limits, price);
        assert_eq!(built(&new, &parts, &contents, limits), new, "round {round} of seed {seed}: {parts:?}");
        saved += new.len() as u64 - uploaded(&parts);
    }
    assert!(edits > 2_000_000);
    assert!(saved * 2 > rounds * 100, "{edits} edits, {saved} bytes not sent: nearly nothing is found");
}

const SCRATCH: Price = Price { request: 100_000, scratch: true };
const COPIES: Price = Price { request: 100_000, scratch: false };

fn run(target: u64, end: u64, offset: u64) -> Run {
    Run { target, len: end - target, source: 0, offset }
}

#[test]
fn one_edit_in_the_middle_of_a_gigabyte() {
    let (size, at, chunk) = (1024 * MIB, 512 * MIB, MIB / 8);
    let runs = [run(0, at, 0), run(at + chunk, size, at + chunk)];
    let copies = plan(size, &runs, Limits::S3, COPIES);
    assert_eq!(uploaded(&copies), 5 * MIB, "{copies:?}");
    let scratch = plan(size, &runs, Limits::S3, SCRATCH);
    assert_eq!(uploaded(&scratch), chunk, "{scratch:?}");
    // The server copies the head once, not twice.
    assert!(scratch.iter().any(|p| matches!(p.kind, Kind::Tail { copied, .. } if copied == 5 * MIB)), "{scratch:?}");
    // Where a request costs more than what it saves, the neighbourhood is uploaded.
    let dear = plan(size, &runs, Limits::S3, Price { request: 2 * MIB, scratch: true });
    assert_eq!(dear, copies);
}

#[test]
fn bytes_inserted_at_the_front() {
    let (size, new) = (1024 * MIB, MIB / 8);
    let runs = [run(new, size, new - 100)];
    assert_eq!(uploaded(&plan(size, &runs, Limits::S3, COPIES)), 5 * MIB);
    let scratch = plan(size, &runs, Limits::S3, SCRATCH);
    assert_eq!(uploaded(&scratch), new, "{scratch:?}");
}

#[test]
fn too_many_parts_become_larger_ones_or_a_whole_upload() {
    let size = 400 * 1024 * MIB;
    let parts = whole(size, Limits::S3);
    assert!(parts.len() <= 10_000 && parts.iter().all(|p| p.end - p.begin <= 64 * MIB));
    let runs: Vec<Run> = (0..12_000).map(|n| run(n * 10 * MIB, (n * 10 + 6) * MIB, n * 20 * MIB)).collect();
    let parts = plan(12_000 * 10 * MIB, &runs, Limits::S3, COPIES);
    assert!(parts.len() <= 10_000);
    is_legal(12_000 * 10 * MIB, &parts, &runs, Limits::S3);
}
