//! What a new content has in common with those of base objects: runs of bytes that stand in both.

use super::Chunk;
use super::Digest;
use super::parts::Run;
use std::collections::HashMap;

/// So many places of one chunk in a base are looked at. Content that repeats itself (zeros) has any number of them, and a run
/// that began at one of the first goes on through the others by itself.
const PLACES: usize = 4;

/// So many runs are followed at once in one base.
const FOLLOWED: usize = 8;

/// A run that still grows.
struct Growing {
    run: Run,
    next: usize,
}

/// All longest runs of at least `shortest` bytes, and those that reach the end of the new content whatever their length.
/// Runs within longer ones are left out. Runs are ordered by where they begin.
pub fn runs(new: &[Chunk], bases: &[&[Chunk]], shortest: u64) -> Vec<Run> {
    let size: u64 = new.iter().map(|c| u64::from(c.len)).sum();
    let mut found = Vec::new();
    for (source, base) in bases.iter().enumerate() {
        runs_of_one(new, base, source, &mut found);
    }
    found.retain(|run| run.len >= shortest || run.end() == size);
    without_inner(found)
}

fn runs_of_one(new: &[Chunk], base: &[Chunk], source: usize, found: &mut Vec<Run>) {
    let mut places: HashMap<Digest, Vec<usize>> = HashMap::new();
    let mut offsets = Vec::with_capacity(base.len());
    let mut end = 0;
    for (at, chunk) in base.iter().enumerate() {
        offsets.push(end);
        end += u64::from(chunk.len);
        let known = places.entry(chunk.digest).or_default();
        if known.len() < PLACES {
            known.push(at);
        }
    }
    let mut growing: Vec<Growing> = Vec::new();
    let mut target = 0;
    for chunk in new {
        growing.retain_mut(|g| {
            let goes_on = base.get(g.next) == Some(chunk);
            if goes_on {
                g.run.len += u64::from(chunk.len);
                g.next += 1;
            } else {
                found.push(g.run);
            }
            goes_on
        });
        for &place in places.get(&chunk.digest).into_iter().flatten() {
            let followed = growing.iter().any(|g| g.next == place + 1);
            if base[place] == *chunk && !followed && growing.len() < FOLLOWED {
                let run = Run { target, len: u64::from(chunk.len), source, offset: offsets[place] };
                growing.push(Growing { run, next: place + 1 });
            }
        }
        target += u64::from(chunk.len);
    }
    found.extend(growing.into_iter().map(|g| g.run));
}

/// Drops runs that lie within others: what can be copied from them can be copied from the longer one.
fn without_inner(mut runs: Vec<Run>) -> Vec<Run> {
    runs.sort_by(|a, b| a.target.cmp(&b.target).then(b.len.cmp(&a.len)).then(a.source.cmp(&b.source)));
    let mut reached = 0;
    runs.retain(|run| {
        let reaches_on = run.end() > reached;
        reached = reached.max(run.end());
        reaches_on
    });
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<Chunk> {
        text.bytes().map(|b| Chunk { digest: Digest::of(&[b]), len: 10 }).collect()
    }

    fn found(new: &str, bases: &[&str], shortest: u64) -> Vec<(u64, u64, usize, u64)> {
        let bases: Vec<_> = bases.iter().map(|b| list(b)).collect();
        let bases: Vec<&[Chunk]> = bases.iter().map(Vec::as_slice).collect();
        runs(&list(new), &bases, shortest).iter().map(|r| (r.target, r.len, r.source, r.offset)).collect()
    }

    #[test]
    fn the_longest_runs_of_any_base() {
        assert_eq!(found("abcdef", &["abcdef"], 20), [(0, 60, 0, 0)]);
        assert_eq!(found("abcXdef", &["abcdef"], 20), [(0, 30, 0, 0), (40, 30, 0, 30)]);
        assert_eq!(found("abcXdef", &["abcdef", "bcXd"], 20), [(0, 30, 0, 0), (10, 40, 1, 0), (40, 30, 0, 30)]);
        assert_eq!(found("fedcba", &["abcdef"], 20), [(50, 10, 0, 0)]);
        assert_eq!(found("abXf", &["abcdef"], 30), [(30, 10, 0, 50)]);
        assert_eq!(found("xyz", &["abc"], 10), []);
        assert_eq!(found("", &["abc"], 10), []);
    }

    #[test]
    fn repeated_content_is_one_run() {
        let zeros = "0".repeat(1000);
        assert_eq!(found(&zeros, &[&zeros], 20), [(0, 10_000, 0, 0)]);
        assert_eq!(found(&format!("a{zeros}b"), &[&format!("c{zeros}d")], 20), [(10, 10_000, 0, 10)]);
    }
}
