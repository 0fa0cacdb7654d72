//! Images with the real Apptainer, from a registry on loopback, archives and folders.
//!
//! `scripts/parts.sh apptainer` brings the program below `.test-parts/`; without it these tests fail.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the message.

#[path = "common/image.rs"]
mod image;
#[path = "common/registry.rs"]
mod registry;

use image::Image;
use image::Recipe;
use pollinator::executor::backend::Failure;
use pollinator::executor::backend::Task;
use pollinator::executor::backend::environment;
use pollinator::executor::backend::payload;
use pollinator::executor::image::Images;
use pollinator::executor::image::Ready;
use pollinator::executor::image::Settings;
use pollinator::executor::image::exec;
use pollinator::executor::spec::Job;
use pollinator::executor::spec::Work;
use registry::Access;
use registry::Fault;
use registry::Registry;
use serde_json::Value;
use serde_json::json;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// How long anything may take before it has hung.
const PATIENCE: Duration = Duration::from_secs(240);

/// Apptainer itself.
fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".test-parts/apptainer");
    assert!(program.is_file(), "Apptainer is missing ({}): run scripts/parts.sh apptainer", program.display());
    program
}

/// A file area, jobs, and the images of an executor. Its name holds what paths may hold.
struct Lab {
    folder: PathBuf,
    _keeper: Option<tempfile::TempDir>,
    settings: Settings,
}

impl Lab {
    fn new(registry: &Registry) -> Lab {
        let folder = tempfile::Builder::new().prefix("a, \"b\":c ").tempdir().unwrap();
        let lab = Lab::at(folder.path(), registry.host());
        Lab { _keeper: Some(folder), ..lab }
    }

    fn at(folder: &Path, host: String) -> Lab {
        for name in ["fs/p/data", "jobs", "state"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        // An empty file: nobody's own credentials are looked at.
        std::fs::write(folder.join("auth.json"), "{}").unwrap();
        let settings = Settings {
            program: Some(program()),
            insecure_registries: vec![host],
            auth_file: Some(folder.join("auth.json")),
            // This machine withholds a capability from root that Apptainer would ask for.
            exec_options: vec!["--no-privs".into()],
            ..Settings::default()
        };
        Lab { folder: folder.to_path_buf(), _keeper: None, settings }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.canonicalize().unwrap().join(name)
    }

    fn images(&self) -> Images {
        Images::new(self.settings.clone(), &self.path("state")).unwrap()
    }

    fn task(&self, id: &str, image: &str, change: impl FnOnce(&mut Value)) -> Task {
        let mut process = json!({ "processid": id, "spec": { "funcname": "execute",
            "env": { "PROJECT_DIR": "/cfs/p" }, "kwargs": { "docker-image": image, "cmd": "true" },
            "conditions": { "nodes": 1, "processespernode": 1, "walltime": 60 }, "fs": { "mount": "/cfs" } } });
        change(&mut process["spec"]);
        let job = Job::read(&serde_json::from_value(process).unwrap(), true).unwrap();
        let folder = self.path("jobs").join(id);
        std::fs::create_dir_all(&folder).unwrap();
        Task { job: Arc::new(job), folder, fs_dir: self.path("fs") }
    }

    /// Runs a job that is ready, as a backend would, with a variable of the executor's own that is left in.
    async fn run(&self, images: &Images, task: &Task) -> Output {
        let Work::Execute(command) = &task.job.work else { panic!() };
        let mut env = environment::in_container(task);
        env.insert("HOME".into(), exec::HOME.into());
        payload::write(&task.folder, &env, command).unwrap();
        let sif = Images::chosen(task).unwrap();
        let program = images.program().await.unwrap();
        let words = exec::words(images.settings(), &program.word, &program.version, task, &sif, None).unwrap();
        let mut child = Command::new(&words[0]);
        child.args(&words[1..]).args(["0", "0", "0"]).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        child.env("HOME", "/root").env("SLURM_JOB_NAME", "$(touch /tmp/evaluated)").env("CUDA_VISIBLE_DEVICES", "1");
        child.current_dir(&task.folder).output().unwrap()
    }

    /// Everything in the image folder that is no folder, without layers.
    fn kept(&self) -> Vec<String> {
        let mut all = Vec::new();
        let root = self.path("state/images");
        for name in ["images", "entries", "tags", "work"] {
            for entry in std::fs::read_dir(root.join(name)).unwrap() {
                all.push(format!("{name}/{}", entry.unwrap().file_name().to_str().unwrap()));
            }
        }
        all
    }
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn marked(marker: &str) -> Image {
    Image::make(&Recipe { marker: marker.into(), ..Recipe::default() })
}

async fn prepared(images: &Images, task: &Task) -> Ready {
    let ready = tokio::time::timeout(PATIENCE, images.prepare(task)).await.expect("it hangs");
    ready.unwrap_or_else(|e| panic!("{e}\n{}", log(task)))
}

async fn refused(images: &Images, task: &Task) -> Failure {
    tokio::time::timeout(PATIENCE, images.prepare(task)).await.expect("it hangs").unwrap_err()
}

fn log(task: &Task) -> String {
    std::fs::read_to_string(task.log()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_a_job_runs_in_it() {
    let registry = Registry::start(Access::Open);
    let recipe = Recipe {
        env: vec!["OF_IMAGE=yes it is".into()],
        entrypoint: vec!["/bin/echo".into(), "entry".into()],
        workdir: "/usr".into(),
        marker: "one".into(),
        ..Recipe::default()
    };
    registry.push_index("some/box", "v1", &Image::make(&recipe));
    let lab = Lab::new(&registry);
    let images = lab.images();
    std::fs::create_dir_all(lab.path("fs/p/s1/src")).unwrap();
    std::fs::write(lab.path("fs/p/s1/src/main"), "source").unwrap();
    std::fs::create_dir_all(lab.path("fs/other")).unwrap();
    let odd = "$(touch /tmp/x) `id` \"quoted\" 'single' \\ $HOME ; & | * \n ü 漢";
    let script = r#"set -e
        printf '%s\0' "$VALUE" "$@" > data/values
        cat /etc/marker; echo; echo "$OF_IMAGE"; pwd; cat s1/src/main; echo
        ls -A /cfs; ls -A "$HOME_OF_HOST" 2>&1 | head -n 1; ls -A /tmp; ls -d /dev/shm; echo "$CUDA_VISIBLE_DEVICES"
        if touch s1/src/new 2>/dev/null; then echo written; fi
        touch /tmp/mine /var/tmp/mine /.home/mine"#;
    let task = lab.task("a1", &format!("docker://{}/some/box:v1", registry.host()), |spec| {
        spec["env"]["VALUE"] = json!(odd);
        spec["env"]["HOME_OF_HOST"] = json!(lab.path("fs/other").parent().unwrap().join("p"));
        spec["kwargs"]["cmd"] = json!(format!("run() {{ {script}\n}}; run"));
        spec["kwargs"]["args"] = json!([odd, "", "-n"]);
        spec["fs"]["snapshots"] = json!([{ "snapshotid": "s", "label": "/p/src", "dir": "/p/s1/src", "keepfiles": true }]);
    });
    let ready = prepared(&images, &task).await;
    assert!(ready.digest.unwrap().starts_with("sha256:"));
    assert!(log(&task).lines().count() > 3 && log(&task).lines().all(|l| l.starts_with("pollinator: ")), "{}", log(&task));
    assert!(ready.lines.iter().any(|l| l.contains("was made ready in")), "{:?}", ready.lines);
    let said = out(&lab.run(&images, &task).await);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(&lines[..5], ["one", "yes it is", "/cfs/p", "source", "p"], "{said}");
    // The host's own folders are not there: neither where its home is, nor what lies in its /tmp.
    assert!(lines[5].contains("No such file"), "{said}");
    assert_eq!(&lines[6..], ["/dev/shm", "1"], "{said}");
    let values = std::fs::read_to_string(lab.path("fs/p/data/values")).unwrap();
    assert_eq!(values.split('\0').collect::<Vec<_>>(), [odd, odd, "", "-n", ""]);
    assert!(!lab.path("fs/p/s1/src/new").exists() && !task.folder.join("tmp/evaluated").exists());
    assert!(task.folder.join("tmp/mine").exists() && task.folder.join("home/mine").exists());
    let failing = lab.task("a2", &format!("{}/some/box:v1", registry.host()), |spec| spec["kwargs"]["cmd"] = json!("exit 7"));
    prepared(&images, &failing).await;
    assert_eq!(lab.run(&images, &failing).await.status.code(), Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_not_pulled_again_and_a_moved_tag_is() {
    let registry = Registry::start(Access::Open);
    registry.push("box", "v1", &marked("one"));
    let lab = Lab::new(&registry);
    let name = format!("{}/box:v1", registry.host());
    let job = |id: &str, rebuild: bool| {
        lab.task(id, &name, |spec| {
            spec["kwargs"]["cmd"] = json!("cat /etc/marker");
            spec["kwargs"]["rebuild-image"] = json!(rebuild);
        })
    };
    // Four at once, two executors with the same folder.
    let (first, second) = (Arc::new(lab.images()), Arc::new(lab.images()));
    let tasks: Vec<Task> = (0..4).map(|n| job(&format!("b{n}"), false)).collect();
    let mut pulls = tokio::task::JoinSet::new();
    for (n, task) in tasks.iter().cloned().enumerate() {
        let images = if n % 2 == 0 { first.clone() } else { second.clone() };
        pulls.spawn(async move { prepared(&images, &task).await.sif });
    }
    let files = pulls.join_all().await;
    assert!(files.iter().all(|file| *file == files[0]), "{files:?}");
    assert_eq!(registry.count("GET /v2/box/blobs/"), 2, "the layer and the configuration, once");
    let logs: String = tasks.iter().map(log).collect();
    assert!(logs.contains(&format!("waiting for process {}", std::process::id())), "{logs}");

    registry.take_requests();
    let ready = prepared(&first, &job("b4", false)).await;
    assert_eq!(registry.take_requests(), ["HEAD /v2/box/manifests/v1"]);
    assert!(ready.lines[0].contains("is here already"), "{:?}", ready.lines);

    registry.push("box", "v1", &marked("two"));
    let moved = job("b5", false);
    assert_ne!(prepared(&first, &moved).await.sif, files[0]);
    assert_eq!(out(&lab.run(&first, &moved).await), "two");
    // The old one is still used.
    assert_eq!(out(&lab.run(&first, &tasks[0]).await), "one");

    registry.take_requests();
    let rebuilt = prepared(&first, &job("b6", true)).await;
    assert!(registry.count("/manifests/sha256:") > 0, "{:?}", registry.take_requests());
    assert_ne!(rebuilt.sif, Images::chosen(&moved).unwrap(), "the old one may be in use: it is not replaced in place");
    assert_eq!(prepared(&first, &job("b7", false)).await.sif, rebuilt.sif);

    // Without its registry an image that is here serves; one that is not does not.
    registry.fail(Fault::Status(503));
    let offline = prepared(&first, &job("b8", false)).await;
    assert_eq!(offline.sif, rebuilt.sif);
    assert!(offline.lines[0].contains("503") && offline.lines[0].contains("earlier time"), "{:?}", offline.lines);
    let failure = refused(&first, &lab.task("b9", &format!("{}/box:v2", registry.host()), |_| {})).await;
    assert!(failure.is_temporary() && failure.to_string().contains("503"), "{failure}");
    registry.fail(Fault::None);
    let failure = refused(&first, &lab.task("b10", &format!("{}/box:v2", registry.host()), |_| {})).await;
    assert!(failure.to_string().contains("no such image or tag"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_a_file_and_are_told_to_nobody_else() {
    for access in [Access::Basic, Access::Bearer] {
        let registry = Registry::start(access.clone());
        registry.push("private/box", "v1", &marked("private"));
        let mut lab = Lab::new(&registry);
        lab.settings.max_layer_bytes = 0;
        let images = lab.images();
        let name = format!("{}/private/box:v1", registry.host());
        let task = lab.task("c1", &name, |spec| spec["kwargs"]["cmd"] = json!("cat /etc/marker; env"));
        let failure = refused(&images, &task).await.to_string();
        assert!(failure.contains("wants other credentials") && failure.contains("auth.json"), "{access:?}: {failure}");
        registry.write_auth_file(&lab.path("auth.json"), "wrong password");
        let failure = refused(&images, &task).await.to_string();
        assert!(failure.contains("wants other credentials") && !failure.contains("wrong password"), "{access:?}: {failure}");
        assert_eq!(lab.kept(), [""; 0], "{access:?}");
        registry.write_auth_file(&lab.path("auth.json"), registry::PASSWORD);
        prepared(&images, &task).await;
        let said = out(&lab.run(&images, &task).await);
        assert!(said.starts_with("private"), "{access:?}: {said}");
        let everything = said + &log(&task);
        assert!(!everything.contains("se:cret") && !everything.contains(registry::USER), "{access:?}: {everything}");
    }
}

/// Two roles: whom to trust is in the environment, and the executor that trusts is this very test, started again.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_certificate_of_its_own_is_trusted_where_the_environment_says_so() {
    let elsewhere = || "registry.invalid".to_owned();
    if let (Ok(folder), Ok(host)) = (std::env::var("POLLINATOR_TEST_LAB"), std::env::var("POLLINATOR_TEST_REGISTRY")) {
        let lab = Lab::at(Path::new(&folder), elsewhere());
        prepared(&lab.images(), &lab.task("t2", &format!("{host}/box:v1"), |_| {})).await;
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let certificate = folder.path().join("certificate.pem");
    let registry = Registry::start_with_tls(Access::Open, &certificate);
    registry.push("box", "v1", &Image::make(&Recipe::default()));
    let lab = Lab::at(folder.path(), elsewhere());
    let failure = refused(&lab.images(), &lab.task("t1", &format!("{}/box:v1", registry.host()), |_| {})).await;
    assert!(failure.to_string().contains("certificate"), "{failure}");
    let name = "a_registry_with_a_certificate_of_its_own_is_trusted_where_the_environment_says_so";
    let mut executor = Command::new(std::env::current_exe().unwrap());
    executor.args(["--exact", name]).env("POLLINATOR_TEST_LAB", lab.path("")).env("POLLINATOR_TEST_REGISTRY", registry.host());
    let ended = executor.env("SSL_CERT_FILE", &certificate).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    assert_eq!(lab.kept().iter().filter(|name| name.starts_with("images/")).count(), 1, "{:?}", lab.kept());
    assert!(registry.count("/blobs/") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_broken_is_not_kept() {
    let registry = Registry::start(Access::Open);
    registry.push("box", "v1", &Image::make(&Recipe { ballast: 300_000, ..Recipe::default() }));
    let lab = Lab::new(&registry);
    let images = lab.images();
    let name = format!("{}/box:v1", registry.host());
    for (n, fault) in [Fault::WrongBlobs, Fault::WrongManifests, Fault::CutBlobs].into_iter().enumerate() {
        registry.fail(fault);
        let task = lab.task(&format!("d{n}"), &name, |_| {});
        let failure = refused(&images, &task).await;
        println!("{fault:?}: {failure}\n{}", log(&task));
        assert!(failure.to_string().contains("cannot be made ready"), "{fault:?}: {failure}");
        assert!(lab.kept().iter().all(|name| name.starts_with("tags/")), "{fault:?}: {:?}", lab.kept());
    }
    registry.fail(Fault::None);
    prepared(&images, &lab.task("d9", &name, |_| {})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_broken_off_leaves_nothing() {
    let registry = Registry::start(Access::Open);
    registry.push("box", "v1", &Image::make(&Recipe { ballast: 300_000, ..Recipe::default() }));
    let lab = Lab::new(&registry);
    let images = Arc::new(lab.images());
    registry.fail(Fault::StalledBlobs);
    let task = lab.task("e1", &format!("{}/box:v1", registry.host()), |_| {});
    let pull = tokio::spawn({
        let (images, task) = (images.clone(), task.clone());
        async move { images.prepare(&task).await }
    });
    registry.until_asked("/blobs/").await;
    assert!(lab.kept().iter().any(|name| name.starts_with("work/")), "{:?}", lab.kept());
    pull.abort();
    assert!(pull.await.unwrap_err().is_cancelled());
    let end = Instant::now() + PATIENCE;
    while lab.kept().iter().any(|name| !name.starts_with("tags/")) {
        assert!(Instant::now() < end, "{:?}", lab.kept());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    registry.fail(Fault::None);
    prepared(&images, &task).await;
}

/// Whether any process of this machine works in a folder.
fn worked_in(folder: &Path) -> bool {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|process| process.path().join("cwd").read_link().ok()).any(|cwd| cwd.starts_with(folder))
}

/// Two roles: the executor that is killed is this very test, started again with a lab to work in.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_dies_with_its_executor_and_the_next_start_removes_what_it_left() {
    if let (Ok(folder), Ok(host)) = (std::env::var("POLLINATOR_TEST_LAB"), std::env::var("POLLINATOR_TEST_REGISTRY")) {
        let lab = Lab::at(Path::new(&folder), host.clone());
        let ended = lab.images().prepare(&lab.task("k1", &format!("{host}/box:v1"), |_| {})).await;
        panic!("it was to be killed, and ended with {ended:?}");
    }
    let registry = Registry::start(Access::Open);
    registry.push("box", "v1", &Image::make(&Recipe { ballast: 300_000, ..Recipe::default() }));
    registry.fail(Fault::StalledBlobs);
    let lab = Lab::new(&registry);
    let name = "a_pull_dies_with_its_executor_and_the_next_start_removes_what_it_left";
    let mut executor = Command::new(std::env::current_exe().unwrap());
    executor.args(["--exact", name]).env("POLLINATOR_TEST_LAB", lab.path("")).env("POLLINATOR_TEST_REGISTRY", registry.host());
    let mut executor = executor.spawn().unwrap();
    registry.until_asked("/blobs/").await;
    let work = lab.path("state/images/work");
    assert!(worked_in(&work), "Apptainer works there");
    executor.kill().unwrap();
    executor.wait().unwrap();
    let end = Instant::now() + PATIENCE;
    while worked_in(&work) {
        assert!(Instant::now() < end, "Apptainer lives on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(lab.kept().iter().any(|name| name.starts_with("work/")), "{:?}", lab.kept());
    let images = lab.images();
    assert!(lab.kept().iter().all(|name| name.starts_with("tags/")), "{:?}", lab.kept());
    registry.fail(Fault::None);
    prepared(&images, &lab.task("k1", &format!("{}/box:v1", registry.host()), |_| {})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_unused_go_and_never_one_in_use() {
    let registry = Registry::start(Access::Open);
    for tag in ["v1", "v2", "v3"] {
        registry.push("box", tag, &marked(tag));
    }
    let mut lab = Lab::new(&registry);
    lab.settings.max_bytes = 1;
    let images = lab.images();
    let job = |id: &str, tag: &str| lab.task(id, &format!("{}/box:{tag}", registry.host()), |_| {});
    let (one, two) = (job("f1", "v1"), job("f2", "v2"));
    let first = prepared(&images, &one).await.sif;
    let second = prepared(&images, &two).await.sif;
    assert!(first.exists() && second.exists(), "both are in use");
    std::fs::remove_dir_all(&one.folder).unwrap();
    let third = prepared(&images, &job("f3", "v3")).await.sif;
    assert!(!first.exists() && second.exists() && third.exists());
    // It is pulled again when it is wanted again.
    assert!(prepared(&images, &job("f4", "v1")).await.sif.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn local_images_are_taken_from_where_they_may_lie() {
    let registry = Registry::start(Access::Open);
    let lab = Lab::new(&registry);
    let data = lab.path("fs/p/data");
    marked("archive").oci_archive(&data.join("a.tar"), "v1");
    marked("layout").layout(&data.join("layout"), "v1");
    marked("docker").docker_archive(&data.join("d.tar"), "some/box:v1");
    let elsewhere = tempfile::tempdir().unwrap();
    let outside = elsewhere.path().canonicalize().unwrap();
    let images = lab.images();
    let rows = [
        ("oci-archive:/cfs/p/data/a.tar", "archive"),
        ("oci-archive:p/data/a.tar:v1", "archive"),
        ("oci:/cfs/p/data/layout:v1", "layout"),
        ("docker-archive:/cfs/p/data/d.tar", "docker"),
        ("docker-archive:/cfs/p/data/d.tar:some/box:v1", "docker"),
    ];
    let job = |id: &str, image: &str| lab.task(id, image, |spec| spec["kwargs"]["cmd"] = json!("cat /etc/marker"));
    for (n, (image, want)) in rows.into_iter().enumerate() {
        let task = job(&format!("g{n}"), image);
        let ready = prepared(&images, &task).await;
        assert_eq!(out(&lab.run(&images, &task).await), want, "{image}");
        std::fs::copy(&ready.sif, data.join("x.sif")).unwrap();
    }
    // An archive that was exchanged is another image.
    marked("archive 2").oci_archive(&data.join("a.tar"), "v1");
    let task = job("g6", rows[0].0);
    prepared(&images, &task).await;
    assert_eq!(out(&lab.run(&images, &task).await), "archive 2");

    for image in ["/cfs/p/data/x.sif", "p/data/x.sif"] {
        let task = job("g7", image);
        assert_eq!(prepared(&images, &task).await.sif, data.join("x.sif"));
        assert_eq!(out(&lab.run(&images, &task).await), "docker");
    }
    std::fs::copy(data.join("x.sif"), outside.join("y.sif")).unwrap();
    std::os::unix::fs::symlink(outside.join("y.sif"), data.join("link.sif")).unwrap();
    let whole = std::fs::read(data.join("x.sif")).unwrap();
    std::fs::write(data.join("cut.sif"), &whole[..whole.len() - 1]).unwrap();
    std::fs::write(data.join("text.sif"), "text").unwrap();
    let absolute = outside.join("y.sif").to_str().unwrap().to_owned();
    let rows = [
        (absolute.as_str(), "local-folders"),
        ("/cfs/p/data/link.sif", "leads out"),
        ("/cfs/p/data/cut.sif", "cut off"),
        ("/cfs/p/data/text.sif", "no SIF"),
        ("/cfs/p/data/none.sif", "cannot be read"),
        ("oci-archive:/cfs/p/data/a.tar:v2", "no image \"v2\""),
        ("oci-archive:/cfs/p/data/x.sif", "not an OCI archive"),
    ];
    for (image, want) in rows {
        let failure = refused(&images, &job("g8", image)).await.to_string();
        assert!(failure.starts_with("kwargs.docker-image: ") && failure.contains(want), "{image}: {failure}");
    }
    let settings = Settings { local_folders: vec![outside.clone()], ..lab.settings.clone() };
    let task = job("g9", &absolute);
    let images = Images::new(settings, &lab.path("state")).unwrap();
    assert_eq!(prepared(&images, &task).await.sif, outside.join("y.sif"));
    assert_eq!(out(&lab.run(&images, &task).await), "docker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sif_of_a_registry_is_pulled_as_it_is() {
    let registry = Registry::start(Access::Bearer);
    registry.push("box", "v1", &marked("converted once"));
    let mut lab = Lab::new(&registry);
    lab.settings.max_layer_bytes = 0;
    registry.write_auth_file(&lab.path("auth.json"), registry::PASSWORD);
    let images = lab.images();
    let job = |id: &str, name: &str| {
        let name = name.replace("HOST", &registry.host());
        lab.task(id, &name, |spec| spec["kwargs"]["cmd"] = json!("cat /etc/marker"))
    };
    let made = prepared(&images, &job("o1", "HOST/box:v1")).await.sif;
    let bytes = std::fs::read(&made).unwrap();
    registry.push("sifs/box", "v1", &Image::of_sif(bytes.clone()));
    let task = job("o2", "oras://HOST/sifs/box:v1");
    let ready = prepared(&images, &task).await;
    assert_ne!(ready.sif, made);
    assert!(std::fs::read(&ready.sif).unwrap() == bytes, "byte for byte");
    assert_eq!(out(&lab.run(&images, &task).await), "converted once");
    registry.take_requests();
    prepared(&images, &job("o3", "oras://HOST/sifs/box:v1")).await;
    assert_eq!(registry.count("/blobs/"), 0);
}

#[tokio::test]
async fn without_apptainer_it_is_said_what_to_do() {
    let registry = Registry::start(Access::Open);
    let mut lab = Lab::new(&registry);
    for (program, want) in [("/nowhere/apptainer", "cannot be started"), ("/bin/busybox", "neither Apptainer nor Singularity")] {
        lab.settings.program = Some(program.into());
        registry.push("box", "v1", &marked("one"));
        let failure = refused(&lab.images(), &lab.task("h1", &format!("{}/box:v1", registry.host()), |_| {})).await.to_string();
        assert!(failure.contains(want) && failure.contains(program), "{failure}");
    }
}

#[test]
fn the_registry_and_the_image_of_these_tests_are_as_apptainer_expects_them() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(Access::Open);
    registry.push("some/box", "docker", &Image::make(&Recipe { docker: true, marker: "docker".into(), ..Recipe::default() }));
    let sif = folder.path().join("x.sif");
    let mut pull = Command::new(program());
    pull.args(["pull", "--no-https"]).arg(&sif).arg(format!("docker://{}/some/box:docker", registry.host()));
    let pulled = pull.env("APPTAINER_CACHEDIR", folder.path().join("cache")).output().unwrap();
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    let run = Command::new(program()).args(["exec", "--no-privs"]).arg(&sif).args(["/bin/cat", image::MARKER]).output().unwrap();
    assert_eq!(out(&run), "docker");
}
