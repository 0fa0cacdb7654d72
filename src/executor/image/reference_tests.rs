//! Tests of image names.

use super::*;
use proptest::prelude::*;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn named(text: &str) -> String {
    match read(text, "/cfs").unwrap() {
        Image::Registry(remote) => format!("{:?} {}", remote.transport, remote.name()),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn registries_are_read_as_docker_reads_them() {
    let rows = [
        ("python", "Docker docker.io/library/python:latest"),
        ("python:3.12", "Docker docker.io/library/python:3.12"),
        ("some/one", "Docker docker.io/some/one:latest"),
        ("docker://some/one:v1", "Docker docker.io/some/one:v1"),
        ("docker.io/python", "Docker docker.io/library/python:latest"),
        ("index.docker.io/a/b", "Docker docker.io/a/b:latest"),
        ("docker://docker.io/library/x", "Docker docker.io/library/x:latest"),
        ("ghcr.io/a/b/c:1.0-rc_1", "Docker ghcr.io/a/b/c:1.0-rc_1"),
        ("localhost/x", "Docker localhost/x:latest"),
        ("localhost:5000/x:t", "Docker localhost:5000/x:t"),
        ("Host/x", "Docker Host/x:latest"),
        ("[::1]:5000/x", "Docker [::1]:5000/x:latest"),
        ("127.0.0.1:5000/a__b/c.d-e---f", "Docker 127.0.0.1:5000/a__b/c.d-e---f:latest"),
        ("oras://ghcr.io/a/b:x", "Oras ghcr.io/a/b:x"),
    ];
    for (text, want) in rows {
        assert_eq!(named(text), want, "{text}");
    }
    assert_eq!(named(&format!("python@{DIGEST}")), format!("Docker docker.io/library/python@{DIGEST}"));
    assert_eq!(named(&format!("python:3@{DIGEST}")), format!("Docker docker.io/library/python:3@{DIGEST}"));
}

#[test]
fn what_is_no_image_is_refused_with_a_reason() {
    let rows = [
        ("", "no image"),
        ("-x", "begins with `-`"),
        ("a b", "repository"),
        ("a\nb", "control"),
        ("Python", "repository"),
        ("a..b", "repository"),
        ("a/", "repository"),
        ("a//b", "repository"),
        ("a/-b", "repository"),
        ("a___b", "repository"),
        ("a:", "tag"),
        ("a:-t", "tag"),
        ("a:$(id)", "tag"),
        ("a;id", "repository"),
        ("host:99999/x", "host"),
        ("host:0/x", "host"),
        ("-host.org/x", "begins"),
        ("a-.org/x", "host"),
        ("[::1/x", "host"),
        ("a@sha256:12", "digest"),
        ("a@md5:0123456789abcdef0123456789abcdef", "digest"),
        ("shub://a/b", "no kind of image"),
        ("http://x/y", "no kind of image"),
        ("library://", "library"),
        ("library://-x", "library"),
        ("library://a/b c", "library"),
        ("docker://-x", "repository"),
        ("/etc/passwd", ".sif"),
        ("../x.sif", ".."),
        ("/cfs/../x.sif", ".."),
        ("/cfs/.sif/../../x.sif", ".."),
        ("oci-archive:", "must name"),
        ("oci:a/b:-t", "archive"),
    ];
    for (text, want) in rows {
        let reason = read(text, "/cfs").unwrap_err();
        assert!(reason.contains(want), "{text:?}: {reason}");
    }
}

fn local(text: &str) -> (Kind, String, Option<String>) {
    match read(text, "/cfs").unwrap() {
        Image::Local(local) => {
            let place = match local.place {
                Place::Below(inside) => inside.to_string(),
                Place::Absolute(path) => path.display().to_string(),
            };
            (local.kind, place, local.reference)
        }
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn local_images_lie_below_the_file_area_or_where_settings_allow() {
    let rows = [
        ("x.sif", Kind::Sif, "x.sif", None),
        ("./a b/x.sif", Kind::Sif, "a b/x.sif", None),
        ("/cfs/p/data/x.sif", Kind::Sif, "p/data/x.sif", None),
        ("/cfsx/x.sif", Kind::Sif, "/cfsx/x.sif", None),
        ("file:///opt/x.sif", Kind::Sif, "/opt/x.sif", None),
        ("oci-archive:/cfs/p/x.tar", Kind::OciArchive, "p/x.tar", None),
        ("oci-archive:///cfs/p/x.tar:v1", Kind::OciArchive, "p/x.tar", Some("v1")),
        ("oci:p/layout:v1", Kind::OciLayout, "p/layout", Some("v1")),
        ("docker-archive:p/x.tar", Kind::DockerArchive, "p/x.tar", None),
        ("docker-archive:p/x.tar:some/box:v1", Kind::DockerArchive, "p/x.tar", Some("some/box:v1")),
        ("docker-archive:/opt/x.tar:box:v1", Kind::DockerArchive, "/opt/x.tar", Some("box:v1")),
    ];
    for (text, kind, place, reference) in rows {
        assert_eq!(local(text), (kind, place.to_owned(), reference.map(str::to_owned)), "{text}");
    }
    // Without files of its own a job has no mount point either.
    assert!(matches!(read("/cfs/x.sif", ""), Ok(Image::Local(Local { place: Place::Absolute(_), .. }))));
}

/// The words that a name turns into on a command line.
fn words(image: &Image) -> Vec<String> {
    match image {
        Image::Registry(remote) => vec![remote.name(), remote.pinned(DIGEST), remote.registry.clone(), remote.repository.clone()],
        Image::Library(text) => vec![text.clone()],
        Image::Local(local) => local.reference.clone().into_iter().collect(),
    }
}

proptest! {
    #[test]
    fn no_text_breaks_it_and_none_becomes_an_option(
        text in prop_oneof![
            ".{0,40}",
            "[-a-zA-Z0-9:/@._ \\[\\]]{0,40}",
            "(docker|oras|library|oci|oci-archive|file)?(://|:)?[-a-z0-9.]{0,8}(/[-a-z0-9._]{0,8}){0,3}(:[-a-z0-9.]{0,6})?",
        ],
        mount in prop_oneof![Just(""), Just("/cfs")],
    ) {
        if let Ok(image) = read(&text, mount) {
            for word in words(&image) {
                prop_assert!(!word.is_empty() && !word.starts_with('-'), "{:?}: {:?}", text, word);
                prop_assert!(!word.contains(|c: char| c.is_control() || c.is_whitespace()), "{:?}: {:?}", text, word);
                prop_assert!(!word.contains(['$', '`', ';', '&', '|', '"', '\'', '\\']), "{:?}: {:?}", text, word);
            }
            if let Image::Registry(remote) = &image {
                // What it was read as is read as the same again.
                let again = read(&format!("docker://{}", remote.name()), mount);
                prop_assert_eq!(again, Ok(Image::Registry(Remote { transport: Transport::Docker, ..remote.clone() })));
            }
        }
    }
}
