//! Images with the real Apptainer, from a registry on loopback, archives and folders.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the message.

#[path = "common/image.rs"]
mod image;
#[path = "common/registry.rs"]
mod registry;

use image::Image;
use image::Recipe;
use registry::Access;
use registry::Registry;
use std::path::Path;
use std::process::Command;

/// Apptainer itself, as `scripts/parts.sh apptainer` brings it.
fn apptainer() -> Command {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".test-parts/apptainer");
    assert!(program.is_file(), "Apptainer is missing ({}): run scripts/parts.sh apptainer", program.display());
    Command::new(program)
}

#[test]
fn the_registry_and_the_image_of_these_tests_are_real_enough_for_apptainer() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(Access::Open);
    for (tag, docker) in [("oci", false), ("docker", true)] {
        let image = Image::make(&Recipe { docker, marker: tag.into(), ballast: 100_000, ..Recipe::default() });
        registry.push("some/box", tag, &image);
        registry.push_index("some/box", &format!("{tag}-index"), &image);
        for tag in [tag.to_owned(), format!("{tag}-index")] {
            let sif = folder.path().join(format!("{tag}.sif"));
            let mut pull = apptainer();
            pull.args(["pull", "--no-https"]).arg(&sif).arg(format!("docker://{}/some/box:{tag}", registry.host()));
            pull.env("APPTAINER_CACHEDIR", folder.path().join("cache"));
            let pulled = pull.output().unwrap();
            assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
            let run =
                apptainer().args(["exec", "--no-privs"]).arg(&sif).args(["/bin/sh", "-c", "cat /etc/marker"]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&run.stdout), if docker { "docker" } else { "oci" }, "{run:?}");
        }
    }
}
