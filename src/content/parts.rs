//! The part planner: the cheapest legal multipart upload of a new content, given what stands in objects already.
//!
//! S3 joins parts of 5 MiB to 5 GiB, the last of any size, 10,000 at most; a part is uploaded, or copied from a range of an
//! object above 5 MiB. What lies between two copied runs has to be uploaded, and is often far less than 5 MiB. There are two
//! remedies: uploading some of the neighbourhood, too; or making a *scratch object*, whose last part may be of any size:
//!
//! - a [`Kind::Tail`] is such an object, of the end of a run and the new bytes after it, copied as one part;
//! - a [`Kind::Head`] puts new bytes before a run. A first scratch object gets them as its last part behind bytes that nobody
//!   wants, a second one is the first one and the run behind it, and the part is copied from where the wanted bytes begin.
//!
//! The plan is a shortest path over cut points, with what a part costs as its length: bytes sent, and requests at their price.
//! It is the cheapest of all plans with these kinds of parts, cut at any byte, for this reason: take a cheapest plan whose cuts
//! lie as far left as possible. A cut that can move left without cost would have; one that can move right and save bytes
//! would have, too. What is left is a cut at the beginning or end of a run, one that lies the smallest part size from one of
//! those, and one that lies the smallest part size behind another cut, close to the beginning or the end of a run. Only those
//! are looked at. (In chains of the last sort the number of cuts is bounded by `MOST_CUTS`; beyond it the plan is legal and
//! may cost a little more.)

use std::collections::BTreeSet;

const MIB: u64 = 1024 * 1024;

/// Cuts that are looked at, at most.
const MOST_CUTS: usize = 200_000;

/// Requests of a part that is copied from a scratch object: begin, copy, upload, complete, copy the part, delete.
const TAIL_REQUESTS: u64 = 6;
/// Begin, copy, upload, complete; begin, copy, copy, complete; copy the part; delete both.
const HEAD_REQUESTS: u64 = 11;

/// What a store allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Smallest part but the last one, bytes; an object whose ranges are copied must be larger than this.
    pub smallest: u64,
    /// Largest part, bytes.
    pub largest: u64,
    /// Number of parts.
    pub most: usize,
    /// Parts that are uploaded are cut to about this size, bytes: they have to fit into memory.
    pub upload: u64,
}

impl Limits {
    /// Those of S3 (Amazon S3 User Guide, "multipart upload limits").
    pub const S3: Limits = Limits { smallest: 5 * MIB, largest: 5 * 1024 * MIB, most: 10_000, upload: 16 * MIB };
}

/// What requests are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Bytes that could be sent in the time that one request takes.
    pub request: u64,
    /// Whether scratch objects may be made.
    pub scratch: bool,
}

/// Bytes of the new content that stand in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where they begin in the new content.
    pub target: u64,
    /// How many they are.
    pub len: u64,
    /// Which object.
    pub source: usize,
    /// Where they begin in it.
    pub offset: u64,
}

impl Run {
    /// Where they end in the new content.
    pub fn end(&self) -> u64 {
        self.target + self.len
    }

    /// Where a byte of the new content stands in the object.
    fn at(&self, target: u64) -> u64 {
        self.offset + (target - self.target)
    }
}

/// Where the bytes of a part come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// All from an object.
    Copy {
        /// Which.
        source: usize,
        /// From which byte on.
        offset: u64,
    },
    /// All from here.
    Upload,
    /// The first `copied` bytes from an object, the rest from here.
    Tail {
        /// Which.
        source: usize,
        /// From which byte on.
        offset: u64,
        /// How many bytes.
        copied: u64,
    },
    /// The first `uploaded` bytes from here, the rest from an object.
    Head {
        /// How many bytes.
        uploaded: u64,
        /// Which.
        source: usize,
        /// From which byte on.
        offset: u64,
    },
}

/// A part of the new object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Part {
    /// First byte of the new content.
    pub begin: u64,
    /// Behind its last byte.
    pub end: u64,
    /// Where it comes from.
    pub kind: Kind,
}

impl Part {
    /// Bytes that are sent for it.
    pub fn uploaded(&self) -> u64 {
        match self.kind {
            Kind::Copy { .. } => 0,
            Kind::Upload => self.end - self.begin,
            Kind::Tail { copied, .. } => self.end - self.begin - copied,
            Kind::Head { uploaded, .. } => uploaded,
        }
    }
}

/// Bytes that a plan sends.
pub fn uploaded(parts: &[Part]) -> u64 {
    parts.iter().map(Part::uploaded).sum()
}

/// What a plan costs: bytes sent, and its requests at their price. Beginning and completing are the same for all.
pub fn cost(parts: &[Part], price: Price) -> u64 {
    let requests: u64 = parts
        .iter()
        .map(|part| match part.kind {
            Kind::Copy { .. } | Kind::Upload => 1,
            Kind::Tail { .. } => TAIL_REQUESTS,
            Kind::Head { .. } => HEAD_REQUESTS,
        })
        .sum();
    uploaded(parts) + requests * price.request
}

/// The parts of a new content of `size` bytes. `runs` are ordered by their beginnings and none lies within another, as
/// [`super::matching::runs`] gives them; their objects are larger than the smallest part.
pub fn plan(size: u64, runs: &[Run], limits: Limits, price: Price) -> Vec<Part> {
    let parts = split(&shortest_path(size, runs, limits, price), limits);
    if parts.len() <= limits.most { parts } else { whole(size, limits) }
}

/// All of it uploaded.
pub fn whole(size: u64, limits: Limits) -> Vec<Part> {
    let mut upload = limits.upload;
    while size.div_ceil(upload) > limits.most as u64 {
        upload *= 2;
    }
    split(&[Part { begin: 0, end: size, kind: Kind::Upload }], Limits { upload, ..limits })
}

/// Parts as the limits want them. Copies next to a scratch object take over what it need not hold, so that the server copies
/// less; large parts are cut evenly, so that no piece falls below the smallest size.
fn split(parts: &[Part], limits: Limits) -> Vec<Part> {
    let small = limits.smallest;
    let mut fine = Vec::with_capacity(parts.len());
    let mut even = |begin: u64, end: u64, largest: u64, kind: Kind| {
        let pieces = (end - begin).div_ceil(largest).max(1);
        let cut = |n: u64| begin + ((end - begin) as u128 * n as u128 / pieces as u128) as u64;
        for n in 0..pieces {
            let (first, last) = (cut(n), cut(n + 1));
            let kind = match kind {
                Kind::Copy { source, offset } => Kind::Copy { source, offset: offset + (first - begin) },
                other => other,
            };
            fine.push(Part { begin: first, end: last, kind });
        }
    };
    for &Part { begin, end, kind } in parts {
        match kind {
            Kind::Copy { .. } => even(begin, end, limits.largest, kind),
            Kind::Upload => even(begin, end, limits.upload, kind),
            Kind::Tail { source, offset, copied } if copied >= 2 * small => {
                let cut = begin + copied - small;
                even(begin, cut, limits.largest, Kind::Copy { source, offset });
                let kind = Kind::Tail { source, offset: offset + (cut - begin), copied: small };
                even(cut, end, u64::MAX, kind);
            }
            Kind::Head { uploaded, source, offset } if end - begin - uploaded >= 2 * small => {
                let cut = begin + uploaded + small;
                even(begin, cut, u64::MAX, kind);
                even(cut, end, limits.largest, Kind::Copy { source, offset: offset + small });
            }
            _ => even(begin, end, u64::MAX, kind),
        }
    }
    fine
}

/// A cut that a legal beginning of a plan leads to.
struct Cut {
    at: u64,
    cost: u64,
    /// The cut before and what lies between.
    from: Option<(usize, Kind)>,
}

/// What is known of a run while cuts are gone through.
#[derive(Clone, Copy, Default)]
struct Known {
    /// Cuts before this one were looked at.
    looked: usize,
    /// Cheapest cut from which a copy of the smallest size or more reaches the cut at hand.
    best: Option<usize>,
    /// Cheapest cut before the run, counting the bytes up to it.
    before: Option<usize>,
}

struct Path<'a> {
    runs: &'a [Run],
    limits: Limits,
    price: Price,
    cuts: Vec<Cut>,
    known: Vec<Known>,
}

fn shortest_path(size: u64, runs: &[Run], limits: Limits, price: Price) -> Vec<Part> {
    if size == 0 {
        return Vec::new();
    }
    let small = limits.smallest;
    let mut ahead = BTreeSet::new();
    for run in runs {
        let (begin, end) = (run.target, run.end());
        ahead.extend([begin, end, begin.saturating_sub(small), begin + small]);
    }
    let start = Cut { at: 0, cost: 0, from: None };
    let mut path = Path { runs, limits, price, cuts: vec![start], known: vec![Known::default(); runs.len()] };
    path.note_before(0);
    path.chain(0, size, &mut ahead);
    let (mut uploads, mut looked) = (None, 0);
    while let Some(at) = ahead.pop_first() {
        if at == 0 || at >= size {
            continue;
        }
        while path.cuts.get(looked).is_some_and(|cut| cut.at + small <= at) {
            uploads = path.cheaper_with_bytes(uploads, looked);
            looked += 1;
        }
        let reached = path.reach(at, uploads);
        path.note_before(at);
        if let Some(cut) = reached {
            path.cuts.push(cut);
            path.chain(at, size, &mut ahead);
        }
    }
    let last = path.reach_end(size);
    path.parts(last)
}

impl Path<'_> {
    /// Adds the cuts that lie the smallest part size behind this one, where they can be of use.
    fn chain(&self, from: u64, size: u64, ahead: &mut BTreeSet<u64>) {
        let small = self.limits.smallest;
        let at = from + small;
        if at >= size || self.cuts.len() + ahead.len() > MOST_CUTS {
            return;
        }
        // Both beginnings and ends of runs grow.
        let begun = self.runs.partition_point(|run| run.target < at);
        let shortly_begun = begun.checked_sub(1).map(|n| self.runs[n]).is_some_and(|r| at < r.target + small && at < r.end());
        let open = self.runs.partition_point(|run| run.end() <= at);
        let soon_over = self.runs.get(open).is_some_and(|r| r.target < at && r.end() < at + small);
        if shortly_begun || soon_over {
            ahead.insert(at);
        }
    }

    fn cost_less_place(&self, cut: usize) -> i128 {
        i128::from(self.cuts[cut].cost) - i128::from(self.cuts[cut].at)
    }

    /// The better one to upload from.
    fn cheaper_with_bytes(&self, best: Option<usize>, cut: usize) -> Option<usize> {
        match best {
            Some(best) if self.cost_less_place(best) <= self.cost_less_place(cut) => Some(best),
            _ => Some(cut),
        }
    }

    /// Where a run begins: remembers from where new bytes may be put before it.
    fn note_before(&mut self, at: u64) {
        if !self.price.scratch {
            return;
        }
        let first = self.runs.partition_point(|run| run.target < at);
        if self.runs.get(first).is_none_or(|run| run.target != at) {
            return;
        }
        let near = self.cuts.iter().rposition(|cut| cut.at + self.limits.smallest < at).map_or(0, |n| n + 1);
        let before = (near..self.cuts.len()).filter(|&n| self.cuts[n].at < at).fold(None, |b, n| self.cheaper_with_bytes(b, n));
        self.known[first].before = before;
    }

    /// The cheapest legal way to this cut, which is not the end.
    fn reach(&mut self, at: u64, uploads: Option<usize>) -> Option<Cut> {
        let (small, request) = (self.limits.smallest, self.price.request);
        let mut best: Option<Cut> = None;
        let mut offer = |cost: u64, from: usize, kind: Kind| {
            if best.as_ref().is_none_or(|b| cost < b.cost) {
                best = Some(Cut { at, cost, from: Some((from, kind)) });
            }
        };
        if let Some(from) = uploads {
            offer(self.cuts[from].cost + (at - self.cuts[from].at) + request, from, Kind::Upload);
        }
        let open = self.runs.partition_point(|run| run.end() < at);
        for n in open..self.runs.len() {
            let run = self.runs[n];
            if run.target + small > at {
                break;
            }
            self.look(n, at - small);
            if let Some(from) = self.known[n].best {
                let offset = run.at(self.cuts[from].at);
                offer(self.cuts[from].cost + request, from, Kind::Copy { source: run.source, offset });
            }
            if let Some(from) = self.known[n].before {
                let uploaded = run.target - self.cuts[from].at;
                let kind = Kind::Head { uploaded, source: run.source, offset: run.offset };
                offer(self.cuts[from].cost + uploaded + HEAD_REQUESTS * request, from, kind);
            }
        }
        let begins = self.runs.binary_search_by_key(&at, |run| run.target).is_ok();
        if self.price.scratch && begins {
            // Runs that ended less than the smallest size before this one begins.
            for n in (0..open).rev() {
                let (run, end) = (self.runs[n], self.runs[n].end());
                if end + small < at {
                    break;
                }
                if let Some(from) = self.known[n].best {
                    let begin = self.cuts[from].at;
                    let kind = Kind::Tail { source: run.source, offset: run.at(begin), copied: end - begin };
                    offer(self.cuts[from].cost + (at - end) + TAIL_REQUESTS * request, from, kind);
                }
            }
        }
        best
    }

    /// Brings what is known of a run up to the cuts at or before `limit`.
    fn look(&mut self, n: usize, limit: u64) {
        let begin = self.runs[n].target;
        let mut known = self.known[n];
        if known.looked == 0 {
            known.looked = self.cuts.partition_point(|cut| cut.at < begin);
        }
        while let Some(cut) = self.cuts.get(known.looked).filter(|cut| cut.at <= limit) {
            if known.best.is_none_or(|best| cut.cost < self.cuts[best].cost) {
                known.best = Some(known.looked);
            }
            known.looked += 1;
        }
        self.known[n] = known;
    }

    /// The end is reached by a part of any size.
    fn reach_end(&mut self, size: u64) -> Cut {
        let request = self.price.request;
        // The beginning is always there.
        let from =
            (1..self.cuts.len()).fold(0, |best, n| if self.cost_less_place(n) < self.cost_less_place(best) { n } else { best });
        let cost = self.cuts[from].cost + (size - self.cuts[from].at) + request;
        let mut end = Cut { at: size, cost, from: Some((from, Kind::Upload)) };
        if let Some(n) = self.runs.len().checked_sub(1)
            && self.runs[n].end() == size
        {
            self.look(n, size - 1);
            if let Some(from) = self.known[n].best
                && self.cuts[from].cost + request < end.cost
            {
                let run = self.runs[n];
                let kind = Kind::Copy { source: run.source, offset: run.at(self.cuts[from].at) };
                end = Cut { at: size, cost: self.cuts[from].cost + request, from: Some((from, kind)) };
            }
            if let Some(from) = self.known[n].before.filter(|_| self.runs[n].len >= self.limits.smallest) {
                let run = self.runs[n];
                let uploaded = run.target - self.cuts[from].at;
                let cost = self.cuts[from].cost + uploaded + HEAD_REQUESTS * request;
                if cost < end.cost {
                    let kind = Kind::Head { uploaded, source: run.source, offset: run.offset };
                    end = Cut { at: size, cost, from: Some((from, kind)) };
                }
            }
        }
        end
    }

    fn parts(&self, last: Cut) -> Vec<Part> {
        let mut parts = Vec::new();
        let (mut end, mut from) = (last.at, last.from);
        while let Some((cut, kind)) = from {
            let cut = &self.cuts[cut];
            parts.push(Part { begin: cut.at, end, kind });
            (end, from) = (cut.at, cut.from);
        }
        parts.reverse();
        parts
    }
}

#[cfg(test)]
mod tests;
