//! The same work by others: watchman sees a save, and has rclone copy it into the same store.

use super::home::Home;
use pollinator::store::Store;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// Times from saves to objects; none where one of the programs is missing.
pub async fn saves(home: &Home, saves: u32) -> Option<Vec<Duration>> {
    let rclone = Path::new(env!("CARGO_MANIFEST_DIR")).join(".test-parts/rclone");
    if !rclone.exists() || Command::new("watchman").arg("--version").output().is_err() {
        println!("watchman or rclone is missing: `scripts/bench.sh agent` brings them");
        return None;
    }
    let settings = home.settings();
    let access = settings.store.as_ref().unwrap();
    let store = Store::new(access).unwrap();
    let root = home.path().join("peer");
    fs::create_dir(&root).unwrap();
    let script = home.path().join("copy.sh");
    let secret = home.path().join("rclone.conf");
    let keys = (access.access_key.as_str(), access.secret_key.expose());
    fs::write(
        &secret,
        format!(
            "[s3]\ntype = s3\nprovider = Other\naccess_key_id = {}\nsecret_access_key = {}\nendpoint = http://{}\n",
            keys.0, keys.1, access.endpoint
        ),
    )
    .unwrap();
    let text = format!(
        "#!/bin/sh\nexec {} --config {} copy {} s3:{}/peer --s3-no-check-bucket\n",
        rclone.display(),
        secret.display(),
        root.display(),
        access.bucket
    );
    fs::write(&script, text).unwrap();
    let _daemon = Watchman::start(home.path(), &root, &script);
    let mut times = Vec::new();
    for number in 0..saves {
        let bytes = vec![b'a' + (number % 26) as u8; 4096 + number as usize];
        let began = Instant::now();
        fs::write(root.join("file"), &bytes).unwrap();
        while store.head("peer/file").await.unwrap().is_none_or(|info| info.size != bytes.len() as u64) {
            assert!(began.elapsed() < Duration::from_secs(30), "the peer did not store it");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(began.elapsed());
    }
    Some(times)
}

struct Watchman {
    child: Child,
}

impl Watchman {
    fn start(home: &Path, root: &Path, script: &Path) -> Watchman {
        let socket: PathBuf = home.join("watchman.sock");
        let names = |command: &mut Command| {
            command.arg(format!("--sockname={}", socket.display())).arg("--no-save-state");
            command.arg(format!("--logfile={}", home.join("watchman.log").display()));
            command.env("HOME", home).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        };
        let mut command = Command::new("watchman");
        names(&mut command);
        let child = command.arg("--foreground").spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while !socket.exists() {
            assert!(Instant::now() < end, "watchman does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        let tell = |words: &[&str]| {
            let mut command = Command::new("watchman");
            command.arg(format!("--sockname={}", socket.display())).args(words);
            let output = command.env("HOME", home).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let root = root.to_str().unwrap();
        tell(&["watch", root]);
        tell(&["--", "trigger", root, "copy", "*", "--", "sh", script.to_str().unwrap()]);
        Watchman { child }
    }
}

impl Drop for Watchman {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
