//! Images from a registry on loopback: what is fetched, what is not, and what is said about those that cannot be had.

use super::Yard;
use super::cabin;
use super::cabin::Engine;
use super::image::Image;
use super::image::MARKER;
use super::image::Recipe;
use super::registry::Access;
use super::registry::Fault;
use super::registry::PASSWORD;
use super::registry::Registry;
use pollinator::colonies::Process;
use pollinator::colonies::ProcessState;
use serde_json::json;
use std::time::Duration;

/// With an entry point that ends everything, a user whom files of the executor are closed to, and a variable.
fn image(marker: &str) -> Image {
    Image::make(&Recipe {
        env: vec!["FROM_IMAGE=told by the image".into()],
        entrypoint: vec!["/bin/sh".into(), "-c".into(), "exit 99".into()],
        user: "1000:1000".into(),
        marker: marker.into(),
        ..Recipe::default()
    })
}

/// Removes what a test fetched.
struct Fetched(Engine, Vec<String>);

impl Drop for Fetched {
    fn drop(&mut self) {
        for name in &self.1 {
            // One that was never fetched is none to remove.
            self.0.command(&["rmi", "--force", name]).output().unwrap();
        }
        // Those that lost their tag to a later one.
        self.0.command(&["image", "prune", "--force"]).output().unwrap();
    }
}

async fn run(yard: &Yard, image: &str, anew: bool) -> (Process, String) {
    let cmd = format!("cat {MARKER}; echo; echo $FROM_IMAGE; touch result/written");
    let id = yard
        .submit_with(&cmd, &[], |spec| {
            spec["kwargs"]["docker-image"] = json!(image);
            spec["kwargs"]["rebuild-image"] = json!(anew);
        })
        .await;
    yard.rig.ended(&id).await
}

/// Whether any layer of an image was asked for; podman asks for the description of an image each time.
fn layers(registry: &Registry, image: &Image) -> bool {
    let asked = registry.take_requests();
    image.layers.iter().any(|layer| asked.iter().any(|request| request.starts_with("GET") && request.contains(&layer.digest)))
}

pub async fn images_are_fetched_when_they_have_changed(engine: &Engine) {
    let registry = Registry::start(Access::Open);
    let name = format!("{}/team/app:1", registry.host());
    let _fetched = Fetched(engine.clone(), vec![name.clone()]);
    let mut engine = engine.clone();
    engine.settings.insecure_registries = vec![registry.host()];
    let mut yard = Yard::new(&engine).await;
    yard.patience = Duration::ZERO;
    // Layers that an earlier run left are not fetched.
    let marker = |which: &str| format!("{which} of {}", registry.host());
    let (one, two) = (marker("first"), marker("second"));
    let said = |marker: &str| format!("{marker}\ntold by the image\n");
    let first = image(&one);
    let digest = registry.push("team/app", "1", &first);
    let running = yard.start();
    let (process, log) = run(&yard, &name, false).await;
    assert_eq!((process.state, &process.errors), (ProcessState::Success, &vec![]), "{log}");
    assert!(log.contains(&format!("the image is {name}, {digest}")), "{log}");
    assert!(log.ends_with(&said(&one)), "{log}");
    assert!(layers(&registry, &first));
    let (_, log) = run(&yard, &name, false).await;
    assert!(log.ends_with(&said(&one)), "{log}");
    assert!(!layers(&registry, &first), "what is here is not fetched again");
    // The tag is given to another image.
    let digest = registry.push("team/app", "1", &image(&two));
    let (_, log) = run(&yard, &name, false).await;
    assert!(log.contains(&digest) && log.ends_with(&said(&two)), "{log}");
    let (process, log) = run(&yard, &name, true).await;
    assert_eq!(process.state, ProcessState::Success, "rebuild-image: {:?}", process.errors);
    assert!(log.ends_with(&said(&two)), "{log}");
    // A registry that is gone stops nobody, except who insists.
    drop(registry);
    let (process, log) = run(&yard, &name, false).await;
    assert_eq!(process.state, ProcessState::Success, "{:?}", process.errors);
    assert!(log.contains("does not answer as it should") && log.contains("the image that is here already is used"), "{log}");
    let (process, _) = run(&yard, &name, true).await;
    assert!(process.errors[0].contains("does not answer as it should"), "{:?}", process.errors);
    running.stop().await;
}

pub async fn images_that_cannot_be_had_are_explained(engine: &Engine) {
    let registry = Registry::start(Access::Open);
    registry.push("team/app", "1", &image("x"));
    let host = registry.host();
    let mut insecure = engine.clone();
    insecure.settings.insecure_registries = vec![host.clone()];
    let yard = Yard::new(&insecure).await;
    let running = yard.start();
    let (process, log) = run(&yard, &format!("{host}/team/app:2"), false).await;
    assert!(process.errors[0].contains(&format!("{host} has no such image")), "{:?}\n{log}", process.errors);
    registry.fail(Fault::WrongBlobs);
    let (process, _) = run(&yard, &format!("{host}/team/app:1"), false).await;
    assert!(process.errors[0].contains("cannot be had"), "{:?}", process.errors);
    running.stop().await;
}

/// A registry that is away for a while: the job waits for it and says so.
pub async fn a_registry_that_is_away_is_waited_for(engine: &Engine) {
    let registry = Registry::start(Access::Open);
    registry.push("team/app", "1", &image("x"));
    let name = format!("{}/team/app:1", registry.host());
    let _fetched = Fetched(engine.clone(), vec![name.clone()]);
    let mut insecure = engine.clone();
    insecure.settings.insecure_registries = vec![registry.host()];
    let yard = Yard::new(&insecure).await;
    let running = yard.start();
    registry.fail(Fault::Status(503));
    let id = yard.submit_with("echo ran", &[], |spec| spec["kwargs"]["docker-image"] = json!(name)).await;
    let says = |log: &str| log.contains("pollinator: waiting: ") && log.contains("does not answer as it should");
    yard.rig.until(&id, "what it waits for", |_, log| says(log)).await;
    registry.fail(Fault::None);
    let (process, log) = yard.rig.ended(&id).await;
    assert_eq!((process.state, process.retries), (ProcessState::Success, 0), "{:?}", process.errors);
    assert!(log.ends_with("ran\n"), "{log}");
    running.stop().await;
}

/// Podman only: docker takes loopback for safe.
pub async fn plain_http_is_refused_unless_it_is_allowed(engine: &Engine) {
    let registry = Registry::start(Access::Open);
    registry.push("team/app", "1", &image("x"));
    let yard = Yard::new(engine).await;
    let running = yard.start();
    let (process, _) = run(&yard, &format!("{}/team/app:1", registry.host()), false).await;
    assert!(process.errors[0].contains("setting `insecure-registries`"), "{:?}", process.errors);
    running.stop().await;
}

pub async fn private_images_need_credentials(engine: &Engine) {
    for access in [Access::Basic, Access::Bearer] {
        let registry = Registry::start(access);
        registry.push("team/app", "1", &image("private"));
        let name = format!("{}/team/app:1", registry.host());
        let _fetched = Fetched(engine.clone(), vec![name.clone()]);
        let mut engine = engine.clone();
        engine.settings.insecure_registries = vec![registry.host()];
        let yard = Yard::new(&engine).await;
        let running = yard.start();
        let (process, _) = run(&yard, &name, false).await;
        assert!(process.errors[0].contains("setting `auth-file`"), "{:?}", process.errors);
        running.stop().await;
        let file = yard.rig.folder.path().join("credentials.json");
        registry.write_auth_file(&file, PASSWORD);
        let mut with = Yard { engine: engine.clone(), ..yard };
        with.engine.settings.auth_file = Some(file);
        let running = with.start();
        let (process, log) = run(&with, &name, false).await;
        assert_eq!((process.state, &process.errors), (ProcessState::Success, &vec![]), "{log}");
        assert!(log.ends_with("private\ntold by the image\n"), "{log}");
        running.stop().await;
    }
}

pub async fn an_image_without_a_shell_is_explained(engine: &Engine) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("nothing"), "").unwrap();
    let name = "localhost/pollinator-test-bare:1";
    engine.import(folder.path(), name);
    let yard = Yard::new(engine).await;
    let running = yard.start();
    let (process, _) = run(&yard, name, false).await;
    assert!(process.errors[0].contains("the image holds no /bin/sh"), "{:?}", process.errors);
    running.stop().await;
}

#[tokio::test]
async fn podman_images_are_fetched_when_they_have_changed() {
    images_are_fetched_when_they_have_changed(&cabin::podman()).await;
}

#[tokio::test]
async fn podman_waits_for_a_registry_that_is_away() {
    a_registry_that_is_away_is_waited_for(&cabin::podman()).await;
}

#[tokio::test]
async fn podman_images_that_cannot_be_had_are_explained() {
    images_that_cannot_be_had_are_explained(&cabin::podman()).await;
    plain_http_is_refused_unless_it_is_allowed(&cabin::podman()).await;
    an_image_without_a_shell_is_explained(&cabin::podman()).await;
}

#[tokio::test]
async fn podman_private_images_need_credentials() {
    private_images_need_credentials(&cabin::podman()).await;
}

#[tokio::test]
async fn docker_fetches_images_as_podman_does() {
    let docker = cabin::Docker::start();
    images_are_fetched_when_they_have_changed(&docker.engine).await;
    images_that_cannot_be_had_are_explained(&docker.engine).await;
    private_images_need_credentials(&docker.engine).await;
    an_image_without_a_shell_is_explained(&docker.engine).await;
}
