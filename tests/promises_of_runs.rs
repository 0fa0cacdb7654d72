//! The promises as a user has them: through the program, from a project to its result.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod chaos;
mod lab;

use chaos::Colony;
use lab::Lab;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A job that writes `result/<name>` with a text.
fn writes(name: &str, text: &str) -> String {
    format!(
        "import os\nwith open(os.path.join(os.environ['PROJECT_DIR'], 'result', '{name}'), 'w') as out:\n    out.write('{text}')\n"
    )
}

/// Names and texts of all files of a folder.
fn contents(folder: &Path) -> Vec<(String, String)> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|e| (e.file_name().to_string_lossy().into_owned(), std::fs::read_to_string(e.path()).unwrap()))
        .collect();
    found.sort();
    found
}

#[test]
fn promise_1_registered_bytes_have_the_registered_checksum() {
    let lab = Lab::new();
    let folder = lab.project("p", &writes("out.txt", "result"));
    let data = folder.join("cfs/data");
    for (name, size) in [("empty", 0), ("one", 1), ("small", 5_000), ("parts", 33 << 20)] {
        std::fs::write(data.join(name), vec![b'z'; size]).unwrap();
    }
    // Somebody saves all the time, in both ways in which programs save.
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0_u64.. {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                std::fs::write(data.join("in-place"), format!("{n} ").repeat(40_000)).unwrap();
                std::fs::write(data.join("new~"), format!("{n} ").repeat(40_000)).unwrap();
                std::fs::rename(data.join("new~"), data.join("renamed")).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        for _ in 0..4 {
            // What never stands still may be put off; nothing else may happen to it.
            let ended = lab.run_in(&folder, ["sync"]);
            assert!(matches!(ended.code, Some(0 | 1)), "{}", ended.all());
        }
        over.store(true, Ordering::SeqCst);
    });
    let colony = Colony::of(&lab);
    colony.expect_sound("/pollinator/p/data");
    lab.run_in(&folder, ["run", "--follow"]).expect_code(0);
    assert_eq!(colony.expect_sound("/pollinator/p/data"), ["empty", "in-place", "one", "parts", "renamed", "small"]);
    assert_eq!(colony.expect_sound("/pollinator/p/src"), ["main.py"]);
    assert_eq!(colony.expect_sound("/pollinator/p/result"), ["out.txt"]);
    for (path, (bytes, _)) in colony.stored("/pollinator/p/data") {
        assert!(bytes == std::fs::read(data.join(&path)).unwrap(), "{path} is not what is here");
    }
}

#[test]
fn promise_3_no_byte_is_lost_without_a_copy() {
    let lab = Lab::new();
    let folder = lab.project("p", &writes("out.txt", "first"));
    let result = folder.join("cfs/result");
    // A file of the user where a result is about to come, before the first run and between two.
    std::fs::write(result.join("note.txt"), "my own note").unwrap();
    lab.run_in(&folder, ["run", "--follow"]).expect_code(0);
    std::fs::write(result.join("out.txt"), "edited by hand").unwrap();
    std::fs::write(folder.join("cfs/src/main.py"), writes("out.txt", "second")).unwrap();
    lab.run_in(&folder, ["run", "--follow"]).expect_code(0);
    let here = contents(&result);
    let holds = |text: &str| here.iter().any(|(_, held)| held == text);
    assert!(holds("my own note") && holds("edited by hand"), "{here:?}");
    assert!(here.contains(&("out.txt".into(), "second".into())), "{here:?}");
    // An emptied tree is no wish to delete everything.
    let src = folder.join("cfs/src");
    std::fs::rename(src.join("main.py"), folder.join("main.py")).unwrap();
    let ended = lab.run_in(&folder, ["sync", "src"]);
    assert_eq!(ended.code, Some(1), "{}", ended.all());
    assert_eq!(Colony::of(&lab).expect_sound("/pollinator/p/src"), ["main.py"]);
}

#[test]
fn promise_6_results_are_visible_only_whole_and_verified() {
    let lab = Lab::new();
    let python = "\
import os
result = os.path.join(os.environ['PROJECT_DIR'], 'result')
for n in range(6):
    with open(os.path.join(result, f'{n}.bin'), 'wb') as out:
        out.write(bytes([n]) * (8 << 20))
";
    let folder = lab.project("p", python);
    let result = folder.join("cfs/result");
    lab.run_in(&folder, ["run"]).expect_code(0);
    lab.run_in(&folder, ["logs", "-f", "last"]).expect_code(0);
    // Killed again and again on the way: what can be seen under its name is whole, always.
    let whole = |moment: &str| {
        for entry in std::fs::read_dir(&result).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(n) = name.strip_suffix(".bin") {
                let n: u8 = n.parse().unwrap();
                assert!(std::fs::read(entry.path()).unwrap() == vec![n; 8 << 20], "{name} is not whole {moment}");
            }
        }
    };
    for round in 0..8 {
        let mut command = lab.command(["results", "last"]);
        let mut child = command.current_dir(&folder).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(40 + 60 * round));
        whole("while it comes");
        child.kill().unwrap();
        child.wait().unwrap();
        whole("after a kill");
    }
    // Stored bytes that are not what was registered never get a name.
    let cfs = Colony::of(&lab).cfs();
    let last = chaos::wait_for(async {
        let tree = cfs.list("/pollinator/p/result").await.unwrap();
        let file = tree.files.values().find(|f| f.path.as_str() == "5.bin").unwrap().clone();
        cfs.store.put_bytes(&file.object, vec![9; 8 << 20].into(), &Default::default(), &|_| ()).await.unwrap();
        file
    });
    let _ = std::fs::remove_file(result.join("5.bin"));
    let other = lab.home().join("other");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::copy(folder.join("project.yaml"), other.join("project.yaml")).unwrap();
    for tree in ["src", "data", "result"] {
        std::fs::create_dir_all(other.join("cfs").join(tree)).unwrap();
    }
    let ended = lab.run_in(&other, ["sync", "result"]).expect_code(1);
    assert!(ended.stderr.contains(last.path.as_str()), "{}", ended.stderr);
    let mut names: Vec<_> = std::fs::read_dir(other.join("cfs/result")).unwrap().flatten().map(|e| e.file_name()).collect();
    names.sort();
    assert_eq!(names, ["0.bin", "1.bin", "2.bin", "3.bin", "4.bin"]);
}

#[test]
fn promise_7_the_last_line_is_shown_and_the_exit_code_is_the_fate() {
    let lab = Lab::new();
    let python = "\
import os, sys
sys.stdout.write(''.join(f'last {n}\\n' for n in range(300)))
sys.stdout.write('and no newline')
sys.stdout.flush()
os._exit(int(open(os.path.join(os.environ['PROJECT_DIR'], 'data', 'code')).read()))
";
    let folder = lab.project("p", python);
    let lines: String = (0..300).map(|n| format!("last {n}\n")).collect();
    for (code, fate) in [(0, 0), (1, 3), (0, 0), (77, 3)] {
        std::fs::write(folder.join("cfs/data/code"), code.to_string()).unwrap();
        let ended = lab.run_in(&folder, ["run", "--follow"]).expect_code(fate);
        assert!(ended.stdout.ends_with(&format!("{lines}and no newline")), "{}", ended.all());
        let again = lab.run_in(&folder, ["logs", "-f", "last"]).expect_code(fate);
        assert_eq!(again.stdout, ended.stdout);
    }
}

#[test]
fn promise_8_one_bad_file_blocks_no_other() {
    let lab = Lab::new();
    let folder = lab.project("p", "");
    let data = folder.join("cfs/data");
    for n in 0..30 {
        std::fs::write(data.join(format!("good{n}.txt")), format!("good {n}")).unwrap();
    }
    // Bad in several ways: no text, no file, leads out, leads nowhere.
    std::fs::write(data.join(OsStr::from_bytes(b"bad\xff.txt")), "bad").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", data.join("bad-link")).unwrap();
    std::os::unix::net::UnixListener::bind(data.join("bad-socket")).unwrap();
    let ended = lab.run_in(&folder, ["sync", "data"]);
    let colony = Colony::of(&lab);
    let arrived = colony.expect_sound("/pollinator/p/data");
    assert_eq!(arrived.len(), 30, "{arrived:?}\n{}", ended.all());
    for name in ["data/bad", "data/bad-link", "data/bad-socket"] {
        assert!(ended.stderr.contains(name), "{name} is not listed: {}", ended.stderr);
    }
    // On the way home, too: one object is gone, and its content is nowhere on this machine.
    std::fs::remove_file(data.join("good7.txt")).unwrap();
    let object = chaos::wait_for(colony.cfs().list("/pollinator/p/data")).unwrap();
    let gone = object.files.values().find(|f| f.path.as_str() == "good7.txt").unwrap();
    chaos::wait_for(colony.cfs().store.delete(&gone.object)).unwrap();
    let fresh = lab.home().join("fresh");
    std::fs::create_dir_all(fresh.join("cfs/data")).unwrap();
    std::fs::copy(folder.join("project.yaml"), fresh.join("project.yaml")).unwrap();
    let ended = lab.run_in(&fresh, ["sync", "data"]).expect_code(1);
    assert!(ended.stderr.contains("good7.txt"), "{}", ended.stderr);
    assert_eq!(contents(&fresh.join("cfs/data")).len(), 29, "{}", ended.all());
}
