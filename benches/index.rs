//! Looking at a tree: how far it is from the least that it could cost. Ratios are printed after criterion's own lines.
//!
//! `POLLINATOR_BENCH_SCALE=0.01 cargo bench --bench index` is a smoke run. What is private to the index (its rows in batches)
//! is measured through `scan`, with nothing known of a tree (read and learn) and with all known (known).

#![allow(clippy::unwrap_used, clippy::expect_used)] // What cannot be set up ends the measurement.
#![allow(clippy::print_stdout)] // It is a program that talks to a person.

use criterion::Criterion;
use criterion::SamplingMode;
use pollinator::index;
use pollinator::index::Index;
use pollinator::index::ignore::Rules;
use sha2::Digest;
use std::cell::RefCell;
use std::fs;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

/// Threads that read, as the program takes on the machine of docs/benchmarks.md.
const JOBS: usize = 2;
/// A file's stat is trusted when the file was read so long after its last change.
const GRAIN: Duration = Duration::from_millis(2100);

fn main() {
    // Without this word it is `cargo test`, where criterion would run everything once.
    if !std::env::args().any(|word| word == "--bench") {
        println!("nothing is measured: this is for `cargo bench`");
        return;
    }
    let scale: f64 = std::env::var("POLLINATOR_BENCH_SCALE").map_or(1.0, |text| text.parse().unwrap());
    let mut criterion = Criterion::default().configure_from_args();
    hashing(&mut criterion, ((1u64 << 30) as f64 * scale) as u64);
    trees(&mut criterion, (100_000.0 * scale) as u64);
    rows(&mut criterion, (1_000_000.0 * scale) as u64);
    criterion.final_summary();
}

/// A million files in the index: written in batches as a scan does, and read again, beside the same rows in one transaction of
/// a bare table.
fn rows(criterion: &mut Criterion, count: u64) {
    let root = Path::new("/tree");
    let known = |n: u64| {
        let stat = index::Stat { size: n, mtime: 1, ctime: 1, inode: n, device: 1 };
        let digest = pollinator::content::Digest::of(&n.to_le_bytes());
        (
            format!("folder-{:04}/file-{n:07}", n / 1000),
            index::Known { stat, hashed: 1, sha256: hex::encode(digest.0), blake3: digest },
        )
    };
    let files: Vec<_> = (0..count).map(known).collect();
    let mut group = group(criterion, "a million rows");
    let fresh = || tempfile::tempdir().unwrap();
    let written = measure(&mut group, "learned in batches of 1,000", fresh, |folder| {
        let index = Index::open(folder.path()).unwrap();
        for batch in files.chunks(1000) {
            index.learn(root, &index::Learned { files: batch.to_vec(), ..index::Learned::default() });
        }
    });
    let bare = measure(&mut group, "a bare table, one transaction", fresh, |folder| {
        let mut db = rusqlite::Connection::open(folder.path().join("bare.db")).unwrap();
        db.pragma_update(None, "journal_mode", "WAL").unwrap();
        db.execute_batch("CREATE TABLE f (path TEXT PRIMARY KEY, a, b, c, d, e, g, h, i) WITHOUT ROWID").unwrap();
        let change = db.transaction().unwrap();
        {
            let mut put = change.prepare("INSERT INTO f VALUES (?1, ?2, 1, 1, ?2, 1, 1, ?3, ?3)").unwrap();
            for (path, known) in &files {
                put.execute(rusqlite::params![path, known.stat.size as i64, known.blake3.0]).unwrap();
            }
        }
        change.commit().unwrap();
    });
    ratio("a million rows written, batches / one transaction", written, bare);
    let full = tempfile::tempdir().unwrap();
    let index = Index::open(full.path()).unwrap();
    files
        .chunks(1000)
        .for_each(|batch| index.learn(root, &index::Learned { files: batch.to_vec(), ..index::Learned::default() }));
    let read = measure(&mut group, "all of them read", || (), |()| assert_eq!(index.known(root).len() as u64, count));
    ratio("a million rows read / written", read, written);
    group.finish();
}

/// The least that can be measured: ten samples of one iteration each, where an iteration takes long.
fn group<'a>(criterion: &'a mut Criterion, name: &str) -> criterion::BenchmarkGroup<'a, criterion::measurement::WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(5));
    group
}

/// Everything `run` took, one time each; `prepare` does not count.
fn measure<T>(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    name: &str,
    mut prepare: impl FnMut() -> T,
    mut run: impl FnMut(T),
) -> Option<Duration> {
    let samples = RefCell::new(Vec::new());
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let times = (0..iterations).map(|_| {
                let prepared = prepare();
                let began = Instant::now();
                run(prepared);
                began.elapsed()
            });
            let times: Vec<_> = times.collect();
            samples.borrow_mut().extend_from_slice(&times);
            times.iter().sum()
        });
    });
    // Empty where the command line has left it out.
    let mut samples = samples.into_inner();
    samples.sort();
    samples.get(samples.len() / 2).copied()
}

fn ratio(what: &str, ours: Option<Duration>, least: Option<Duration>) {
    if let (Some(ours), Some(least)) = (ours, least) {
        println!("{what}: {ours:.2?} / {least:.2?} = {:.2}\n", ours.as_secs_f64() / least.as_secs_f64());
    }
}

/// An index that knows nothing, and the folder that it goes with.
fn empty_index() -> (tempfile::TempDir, Index) {
    let state = tempfile::tempdir().unwrap();
    let index = Index::open(state.path()).unwrap();
    (state, index)
}

/// Looks at a tree; how many files it has.
fn scan(root: &Path, index: &Index) -> usize {
    let mut rules = Rules::new(root, None).unwrap();
    let tree = index::scan(root, &mut rules, index, JOBS).unwrap();
    assert!(tree.problems.is_empty());
    tree.files.len()
}

fn hashing(criterion: &mut Criterion, size: u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.bin");
    noise(&path, size);
    let mut group = group(criterion, "one large file");
    let scanned = measure(&mut group, "scan", empty_index, |(_state, index)| assert_eq!(scan(folder.path(), &index), 1));
    let plain = measure(
        &mut group,
        "sha2",
        || File::open(&path).unwrap(),
        |mut file| {
            let (mut hasher, mut buffer) = (sha2::Sha256::new(), vec![0; 256 << 10]);
            loop {
                let count = file.read(&mut buffer).unwrap();
                if count == 0 {
                    break;
                }
                hasher.update(&buffer[..count]);
            }
            black_box(hasher.finalize());
        },
    );
    group.finish();
    ratio("scanning a large file / plain SHA-256", scanned, plain);
}

fn trees(criterion: &mut Criterion, count: u64) {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..count {
        let below = folder.path().join(format!("folder-{}", number / 100));
        if number % 100 == 0 {
            fs::create_dir(&below).unwrap();
        }
        fs::write(below.join(format!("file-{number}")), number.to_le_bytes()).unwrap();
    }
    std::thread::sleep(GRAIN);
    let mut group = group(criterion, "many small files");
    let cold = measure(&mut group, "scan, nothing known", empty_index, |(_state, index)| {
        assert_eq!(scan(folder.path(), &index) as u64, count);
    });
    let (_state, index) = empty_index();
    scan(folder.path(), &index);
    let warm = measure(&mut group, "scan, all known", || (), |()| assert_eq!(scan(folder.path(), &index) as u64, count));
    let walked = measure(&mut group, "walk and stat", || (), |()| assert_eq!(walk(folder.path()), count));
    group.finish();
    ratio("scanning with all known / walking", warm, walked);
    ratio("scanning with nothing known / walking", cold, walked);
}

/// How many files there are, each looked at.
fn walk(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let count = |entry: fs::DirEntry| {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() { walk(&entry.path()) } else { u64::from(black_box(metadata.len()) < u64::MAX) }
    };
    entries.map(count).sum()
}

/// Writes bytes that do not repeat.
fn noise(path: &Path, size: u64) {
    let mut file = std::io::BufWriter::new(File::create(path).unwrap());
    let mut state = size | 1;
    for _ in 0..size.div_ceil(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.write_all(&state.rotate_right(29).to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
}
