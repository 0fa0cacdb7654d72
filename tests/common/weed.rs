//! A SeaweedFS of our own: started on free ports, gone with the process that started it.

use pollinator::config::Secret;
use pollinator::config::StoreAccess;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// How long it may take until it answers.
const READY: Duration = Duration::from_secs(60);

pub struct Weed {
    access: StoreAccess,
    /// Holds the pipe whose end, when this process is gone, ends the server.
    _keeper: Child,
}

impl Weed {
    pub async fn start(bucket: &str) -> Weed {
        let program = program();
        for _ in 0..5 {
            if let Some(weed) = Weed::try_start(&program, bucket).await {
                return weed;
            }
        }
        panic!("SeaweedFS ({}) did not start in five attempts", program.display());
    }

    pub fn access(&self) -> &StoreAccess {
        &self.access
    }

    async fn try_start(program: &Path, bucket: &str) -> Option<Weed> {
        // The keeper removes it.
        let folder = tempfile::tempdir().unwrap().keep();
        let config = folder.join("s3.json");
        let (key, secret) = ("testkeytestkey00", "testsecrettestsecret");
        let identity = serde_json::json!({"identities": [{"name": "t", "credentials": [{"accessKey": key, "secretKey": secret}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]});
        std::fs::write(&config, identity.to_string()).unwrap();
        let port = free_ports();
        let mut server = server(program, &folder, &config, port);
        let mut keeper = keeper(&server, &folder);
        let access = StoreAccess {
            endpoint: format!("127.0.0.1:{}", port + 3),
            tls: false,
            skip_verify: false,
            access_key: key.into(),
            secret_key: Secret::new(secret),
            region: String::new(),
            bucket: bucket.into(),
        };
        let store = pollinator::store::Store::new(&access).unwrap();
        let began = Instant::now();
        while server.try_wait().unwrap().is_none() {
            // Only an object that was stored shows that all its parts are up: it answers before it can store.
            let ready = async {
                store.ensure_bucket().await?;
                store.put_bytes("ready", bytes::Bytes::from_static(b"x"), &pollinator::store::Metadata::new(), &|_| ()).await
            };
            match ready.await {
                Ok(_) => return Some(Weed { access, _keeper: keeper }),
                Err(error) => {
                    let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                    assert!(began.elapsed() < READY, "SeaweedFS is not ready after {READY:?}: {error}\n{}", log());
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // A port was taken after all. `wait` closes the pipe, so that the keeper tidies up.
        keeper.wait().unwrap();
        None
    }
}

fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".test-parts/weed");
    assert!(program.is_file(), "SeaweedFS is missing ({}): run scripts/test.sh, or scripts/parts.sh weed", program.display());
    program
}

/// A shell that ends the server and removes its folder when its standard input ends: when this process is gone, however it
/// went. (The server lingers after SIGTERM.)
fn keeper(server: &Child, folder: &Path) -> Child {
    let script = "cat >/dev/null; kill -9 \"$1\"; rm -rf \"$2\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "keeper", &server.id().to_string()]).arg(folder);
    command.process_group(0).stdin(Stdio::piped()).spawn().unwrap()
}

fn server(program: &Path, folder: &Path, config: &Path, port: u16) -> Child {
    let data = folder.join("data");
    std::fs::create_dir(&data).unwrap();
    let arguments = [
        "-logtostderr".into(),
        "server".into(),
        format!("-dir={}", data.display()),
        "-ip=127.0.0.1".into(),
        "-ip.bind=127.0.0.1".into(),
        format!("-master.port={port}"),
        format!("-volume.port={}", port + 1),
        "-volume.max=100".into(),
        "-master.volumeSizeLimitMB=1024".into(),
        "-filer".into(),
        format!("-filer.port={}", port + 2),
        "-s3".into(),
        format!("-s3.port={}", port + 3),
        // Their fixed ports make the whole program end when they are taken.
        "-s3.port.iceberg=0".into(),
        "-s3.port.lance=0".into(),
        format!("-s3.config={}", config.display()),
        "-master.telemetry=false".into(),
    ];
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.process_group(0).spawn().unwrap()
}

/// The first of four free ports whose companions 10,000 above (gRPC) are free too.
fn free_ports() -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let start = 20_000 + (std::process::id() % 900) as u16 * 10;
    let mut all = (start..29_990).chain(20_000..start).step_by(10);
    all.find(|p| (*p..p + 4).all(|p| free(p) && free(p + 10_000))).unwrap()
}
