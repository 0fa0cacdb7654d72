//! Files that change, vanish, lead elsewhere or do not fit; rows that others registered in bad faith.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod chaos;
mod lab;
#[path = "common/small_disk.rs"]
mod small_disk;

use chaos::Colony;
use chaos::sha256;
use chaos::wait_for;
use lab::Lab;
use lab::finish;
use pollinator::colonies::File;
use pollinator::colonies::FileRef;
use pollinator::colonies::S3Object;
use small_disk::SmallDisk;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Everything below a folder, hidden files too.
fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(all_below(&entry.path()));
        }
    }
    found.sort();
    found
}

fn names_below(folder: &Path) -> Vec<String> {
    all_below(folder).iter().map(|p| p.strip_prefix(folder).unwrap().display().to_string()).collect()
}

#[test]
fn a_file_that_changes_while_it_is_sent_is_never_registered_torn_and_blocks_no_other() {
    let lab = Lab::new();
    let folder = lab.project("p", "");
    let data = folder.join("cfs/data");
    std::fs::write(data.join("growing.bin"), vec![b'g'; 40 << 20]).unwrap();
    for n in 0..20 {
        std::fs::write(data.join(format!("still{n}.txt")), format!("still {n}")).unwrap();
    }
    let colony = Colony::of(&lab);
    let over = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut growing = std::fs::File::options().append(true).open(data.join("growing.bin")).unwrap();
            while !over.load(Ordering::SeqCst) {
                growing.write_all(b"more").unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        scope.spawn(|| {
            let flicker = data.join("flicker.txt");
            while !over.load(Ordering::SeqCst) {
                std::fs::write(&flicker, "here").unwrap();
                std::thread::sleep(Duration::from_millis(3));
                std::fs::remove_file(&flicker).unwrap();
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let ended = lab.run_in(&folder, ["sync", "data"]);
        over.store(true, Ordering::SeqCst);
        ended
    });
    let arrived = colony.expect_sound("/pollinator/p/data");
    for n in 0..20 {
        assert!(arrived.contains(&format!("still{n}.txt")), "{arrived:?}\n{}", ended.all());
    }
    let ended = ended.expect_code(1);
    assert!(ended.stderr.contains("growing.bin") && ended.stderr.contains("changes"), "{}", ended.stderr);
    assert!(!arrived.contains(&"growing.bin".to_owned()));
    // When it is still, it comes.
    lab.run_in(&folder, ["sync", "data"]).expect_code(0);
    let arrived = colony.expect_sound("/pollinator/p/data");
    assert!(arrived.contains(&"growing.bin".to_owned()));
}

#[test]
fn a_link_out_of_the_tree_is_listed_and_not_followed() {
    let lab = Lab::new();
    let folder = lab.project("p", "print('ran')");
    let secret = lab.home().join("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("key"), "of the neighbour").unwrap();
    std::os::unix::fs::symlink(secret.join("key"), folder.join("cfs/src/key")).unwrap();
    std::os::unix::fs::symlink(&secret, folder.join("cfs/src/secret")).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", folder.join("cfs/src/dangling")).unwrap();
    let ended = lab.run_in(&folder, ["sync", "src"]);
    for name in ["src/key", "src/secret", "src/dangling"] {
        assert!(ended.all().contains(name), "{name} is not listed: {}", ended.all());
    }
    let colony = Colony::of(&lab);
    assert_eq!(colony.expect_sound("/pollinator/p/src"), ["main.py"]);
    let stored = colony.stored("/pollinator/p/src");
    assert!(stored.values().all(|(bytes, _)| !bytes.windows(9).any(|w| w == b"neighbour")));
}

/// Registers a file with good bytes under any label and name, as a stranger's client could.
fn plant(colony: &Colony, label: &str, name: &str, bytes: &[u8]) -> Result<File, pollinator::colonies::Error> {
    let cfs = colony.cfs();
    wait_for(async {
        let object = format!("planted/{}", sha256(format!("{label}\n{name}").as_bytes()));
        cfs.store.ensure_bucket().await.unwrap();
        cfs.store
            .put(&object, std::io::Cursor::new(bytes.to_vec()), bytes.len() as u64, &Default::default(), &|_| {})
            .await
            .unwrap();
        let s3object = S3Object { object, bucket: "pollinator".into(), ..S3Object::default() };
        let row = File {
            colonyname: cfs.client.colony().to_owned(),
            label: label.into(),
            name: name.into(),
            size: bytes.len() as i64,
            checksum: sha256(bytes),
            checksumalg: "SHA256".into(),
            reference: FileRef { protocol: "s3".into(), s3object },
            ..File::default()
        };
        cfs.client.add_file(&row).await
    })
}

#[test]
fn rows_in_bad_faith_are_never_written_outside_the_tree() {
    let lab = Lab::new();
    let folder = lab.project("p", "");
    let (result, outside) = (folder.join("cfs/result"), lab.home().join("outside"));
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, result.join("link")).unwrap();
    let colony = Colony::of(&lab);
    let root = "/pollinator/p/result";
    let bad = [
        (format!("{root}/../../.."), "climbed".to_owned()),
        (format!("{root}/sub/../../x"), "climbed".into()),
        (format!("{root}//double"), "climbed".into()),
        (root.to_owned(), "..".into()),
        (root.to_owned(), ".".into()),
        (root.to_owned(), "../climbed".into()),
        (root.to_owned(), outside.join("absolute").display().to_string()),
        (root.to_owned(), "a/climbed".into()),
        (format!("{root}/link"), "climbed".into()),
        (format!("{root}/link/deeper"), "climbed".into()),
    ];
    let mut planted = Vec::new();
    for (label, name) in &bad {
        match plant(&colony, label, name, b"bad") {
            Ok(_) => planted.push((label, name)),
            Err(error) => assert!(error.status().is_some(), "{label} {name}: {error}"),
        }
    }
    assert!(planted.len() >= 5, "the server takes only {planted:?}");
    plant(&colony, root, "good.txt", b"good").unwrap();
    plant(&colony, &format!("{root}/sub"), "good.txt", b"good too").unwrap();
    // No digest of these bytes: never visible.
    let row = plant(&colony, root, "forged.txt", b"forged").unwrap();
    wait_for(colony.client().add_file(&File { checksum: sha256(b"other"), fileid: String::new(), ..row })).unwrap();

    let ended = lab.run_in(&folder, ["sync", "result"]).expect_code(1);
    let names = names_below(&result);
    assert_eq!(names, ["good.txt", "link", "sub", "sub/good.txt"], "{}", ended.all());
    assert!(names_below(&outside).is_empty());
    let everywhere = all_below(lab.home());
    let state = lab.state();
    let strays: Vec<_> = everywhere
        .iter()
        .filter(|p| !p.starts_with(&state) && ["climbed", "absolute", "a"].iter().any(|n| p.ends_with(n)))
        .collect();
    assert!(strays.is_empty(), "{strays:?}");
    for (label, name) in planted {
        let last = label.rsplit('/').next().unwrap();
        let listed = ended.stderr.lines().any(|line| line.contains(name.as_str()) && line.contains(last));
        assert!(listed || ended.stderr.contains("link"), "{label} {name} is not listed:\n{}", ended.stderr);
    }
    assert!(ended.stderr.contains("forged.txt"), "{}", ended.stderr);
    assert_eq!(std::fs::read(result.join("sub/good.txt")).unwrap(), b"good too");
}

const LARGE: &str = "\
import os
result = os.path.join(os.environ['PROJECT_DIR'], 'result')
for n in range(12):
    with open(os.path.join(result, f'large{n}.bin'), 'wb') as out:
        out.write(bytes([n]) * (3 << 20))
";

#[track_caller]
fn expect_large(result: &Path) {
    assert_eq!(names_below(result).len(), 12, "{:?}", names_below(result));
    for n in 0..12u8 {
        assert!(std::fs::read(result.join(format!("large{n}.bin"))).unwrap() == vec![n; 3 << 20], "large{n}.bin");
    }
}

#[test]
fn a_full_disk_leaves_nothing_half_and_the_results_come_when_there_is_room() {
    let lab = Lab::new();
    let folder = lab.project("p", LARGE);
    let result = folder.join("cfs/result");
    let disk = SmallDisk::new(&result);
    let ended = lab.run_in(&folder, ["run", "--follow"]).expect_code(1);
    assert!(ended.stderr.contains("no space left"), "{}", ended.stderr);
    let left = names_below(&result);
    assert!(left.len() < 12 && left.iter().all(|name| name.starts_with("large")), "{left:?}");
    for name in left {
        assert_eq!(std::fs::metadata(result.join(&name)).unwrap().len(), 3 << 20, "{name} is visible and not whole");
    }
    disk.enlarge();
    lab.run_in(&folder, ["results", "last"]).expect_code(0);
    expect_large(&result);
}

#[test]
fn a_file_that_may_not_become_so_large_leaves_nothing_half() {
    let lab = Lab::new();
    let folder = lab.project("p", LARGE);
    let result = folder.join("cfs/result");
    lab.run_in(&folder, ["run"]).expect_code(0);
    lab.run_in(&folder, ["logs", "-f", "last"]).expect_code(0);
    let mut command = lab.command(["results", "last"]);
    command.current_dir(&folder);
    let limited = || {
        let limit = libc::rlimit { rlim_cur: 2 << 20, rlim_max: 2 << 20 };
        // SAFETY: both are async-signal-safe.
        let refused = unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN) == libc::SIG_ERR || libc::setrlimit(libc::RLIMIT_FSIZE, &limit) != 0
        };
        if refused { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure calls nothing that is not async-signal-safe.
    unsafe { command.pre_exec(limited) };
    let ended = finish(command).expect_code(1);
    // Which of the two depends on where the limit is met first.
    let told = ["no space left", "File too large"].iter().any(|words| ended.stderr.contains(words));
    assert!(told, "{}", ended.stderr);
    assert_eq!(names_below(&result), Vec::<String>::new(), "something is left behind");
    lab.run_in(&folder, ["results", "last"]).expect_code(0);
    expect_large(&result);
}
