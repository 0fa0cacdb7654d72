//! A small container image made here: a root file system of Debian's `busybox-static`, as registries and archives hold it.

#![allow(dead_code)] // Each test program uses another part of it.

use serde_json::Value;
use serde_json::json;
use sha2::Digest;
use sha2::Sha256;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

/// The program that the image consists of: `scripts/parts.sh apptainer` brings it.
const BUSYBOX: &str = "/bin/busybox";
/// In the image: what [`Recipe::marker`] says.
pub const MARKER: &str = "/etc/marker";
/// Media types.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What an image is made of.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    /// `ENV`, `NAME=value`.
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `WORKDIR`.
    pub workdir: String,
    /// `USER`.
    pub user: String,
    /// Content of [`MARKER`], so that images differ.
    pub marker: String,
    /// As docker writes manifests, and not as the OCI says.
    pub docker: bool,
    /// Bytes of noise in a layer of their own, so that the image takes time and space.
    pub ballast: usize,
}

/// Bytes with their digest and media type.
#[derive(Clone, Debug)]
pub struct Blob {
    pub media_type: String,
    pub digest: String,
    pub bytes: Vec<u8>,
}

impl Blob {
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Blob {
        Blob { media_type: media_type.into(), digest: format!("sha256:{}", hex::encode(Sha256::digest(&bytes))), bytes }
    }

    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// An image for this machine's architecture.
#[derive(Clone, Debug)]
pub struct Image {
    pub manifest: Blob,
    pub config: Blob,
    pub layers: Vec<Blob>,
    /// The layers before compression, as `docker save` has them.
    tars: Vec<Vec<u8>>,
}

impl Image {
    /// With `sh` and all that busybox can, and nothing else.
    pub fn busybox() -> Image {
        Image::make(&Recipe::default())
    }

    pub fn make(recipe: &Recipe) -> Image {
        let mut tars = vec![root(recipe)];
        if recipe.ballast > 0 {
            tars.push(ballast(recipe.ballast));
        }
        let (layer_type, config_type, manifest_type) = match recipe.docker {
            true => (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "application/vnd.docker.container.image.v1+json",
                DOCKER_MANIFEST,
            ),
            false => ("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.config.v1+json", OCI_MANIFEST),
        };
        let layers: Vec<Blob> = tars.iter().map(|tar| Blob::new(layer_type, piped("gzip", &["-n", "-c"], tar))).collect();
        let diffs: Vec<String> = tars.iter().map(|tar| Blob::new("", tar.clone()).digest).collect();
        let mut run = json!({ "Env": recipe.env });
        let mut set = |name: &str, value: Value| _ = run.as_object_mut().unwrap().insert(name.into(), value);
        if !recipe.entrypoint.is_empty() {
            set("Entrypoint", json!(recipe.entrypoint));
        }
        if !recipe.workdir.is_empty() {
            set("WorkingDir", json!(recipe.workdir));
        }
        if !recipe.user.is_empty() {
            set("User", json!(recipe.user));
        }
        let config = json!({ "architecture": architecture(), "os": "linux", "config": run,
            "rootfs": { "type": "layers", "diff_ids": diffs } });
        let config = Blob::new(config_type, config.to_string().into_bytes());
        let manifest = json!({ "schemaVersion": 2, "mediaType": manifest_type, "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>() });
        let manifest = Blob::new(manifest_type, manifest.to_string().into_bytes());
        Image { manifest, config, layers, tars }
    }

    /// A SIF, as registries hold it for `oras://`.
    pub fn of_sif(sif: Vec<u8>) -> Image {
        let config = Blob::new("application/vnd.sylabs.sif.config.v1+json", b"{}".to_vec());
        let layer = Blob::new("application/vnd.sylabs.sif.layer.v1.sif", sif);
        let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.descriptor(),
            "layers": [layer.descriptor()] });
        let manifest = Blob::new(OCI_MANIFEST, manifest.to_string().into_bytes());
        Image { manifest, config, layers: vec![layer], tars: Vec::new() }
    }

    /// What a registry stores beside the manifest.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// The index that a tag of several architectures points to: this one, and one that nobody has.
    pub fn index(&self) -> Blob {
        let of = |digest: &str, architecture: &str| {
            let size = self.manifest.bytes.len();
            json!({ "mediaType": self.manifest.media_type, "digest": digest, "size": size,
                "platform": { "os": "linux", "architecture": architecture } })
        };
        let foreign = format!("sha256:{}", "0".repeat(64));
        let manifests = [of(&foreign, "s390x"), of(&self.manifest.digest, architecture())];
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        Blob::new(OCI_INDEX, index.to_string().into_bytes())
    }

    /// An OCI layout folder.
    pub fn layout(&self, folder: &Path, tag: &str) {
        let blobs = folder.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for blob in self.blobs().chain([&self.manifest]) {
            std::fs::write(blobs.join(&blob.digest["sha256:".len()..]), &blob.bytes).unwrap();
        }
        let mut entry = self.manifest.descriptor();
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] });
        std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
        std::fs::write(folder.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string()).unwrap();
    }

    /// An OCI archive: the layout folder as a tar.
    pub fn oci_archive(&self, file: &Path, tag: &str) {
        let folder = tempfile::tempdir().unwrap();
        self.layout(folder.path(), tag);
        std::fs::write(file, tar(folder.path())).unwrap();
    }

    /// What `docker save NAME` writes.
    pub fn docker_archive(&self, file: &Path, name: &str) {
        let folder = tempfile::tempdir().unwrap();
        let config = format!("{}.json", &self.config.digest["sha256:".len()..]);
        std::fs::write(folder.path().join(&config), &self.config.bytes).unwrap();
        let mut layers = Vec::new();
        for tar in &self.tars {
            let name = format!("{}.tar", &Blob::new("", tar.clone()).digest["sha256:".len()..]);
            std::fs::write(folder.path().join(&name), tar).unwrap();
            layers.push(name);
        }
        let manifest = json!([{ "Config": config, "RepoTags": [name], "Layers": layers }]);
        std::fs::write(folder.path().join("manifest.json"), manifest.to_string()).unwrap();
        std::fs::write(file, tar(folder.path())).unwrap();
    }
}

/// As images name the architecture of this machine.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The tar of the root file system.
fn root(recipe: &Recipe) -> Vec<u8> {
    assert!(Path::new(BUSYBOX).is_file(), "busybox-static is missing ({BUSYBOX}): run scripts/parts.sh apptainer");
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for name in ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "var"] {
        std::fs::create_dir(root.join(name)).unwrap();
    }
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    let listed = Command::new(BUSYBOX).arg("--list").output().unwrap();
    for applet in String::from_utf8(listed.stdout).unwrap().lines().filter(|name| *name != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::os::unix::fs::symlink("../bin", root.join("usr/bin")).unwrap();
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
    std::fs::write(root.join(&MARKER[1..]), &recipe.marker).unwrap();
    tar(root)
}

/// The tar of a file that no compression makes smaller.
fn ballast(size: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let mut noise = Vec::with_capacity(size + 32);
    let mut block = Sha256::digest(b"ballast");
    while noise.len() < size {
        noise.extend_from_slice(&block);
        block = Sha256::digest(block);
    }
    std::fs::create_dir(folder.path().join("opt")).unwrap();
    std::fs::write(folder.path().join("opt/ballast"), &noise[..size]).unwrap();
    tar(folder.path())
}

/// The same folder makes the same tar.
fn tar(folder: &Path) -> Vec<u8> {
    let mut names: BTreeMap<String, ()> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        names.insert(entry.unwrap().file_name().into_string().unwrap(), ());
    }
    let options =
        ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--mode=u=rwX,go=rX", "--format=ustar", "-c"];
    let made = Command::new("tar").args(options).args(names.keys()).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

fn piped(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let done = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(done.status.success());
    done.stdout
}
