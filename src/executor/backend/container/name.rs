//! What an image is called, as a registry knows it, and what a refusal of it means.

use super::settings::Flavour;

/// Where names without a registry belong.
const HUB: &str = "docker.io";

/// The full name of an image: `python:3.12` is `docker.io/library/python:3.12`.
///
/// # Errors
/// The reason, where it is not the name of an image in a registry. What begins with `-` would be an option, and what holds
/// other characters than names do is none.
pub(super) fn qualified(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("docker://").unwrap_or(text);
    if name.contains("://") || name.ends_with(".sif") || name.starts_with(['/', '.']) {
        return Err(format!("{text:?} is no image of a registry: containers here are made of `[REGISTRY/]NAME[:TAG]`"));
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-/:@+".contains(c);
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(fine) || name.len() > 512 {
        return Err(format!("{text:?} is no name of an image: `[REGISTRY/]NAME[:TAG]` of letters, digits and `._-/:@`"));
    }
    Ok(match name.split_once('/') {
        Some((first, _)) if is_registry(first) => name.to_owned(),
        Some(_) => format!("{HUB}/{name}"),
        None => format!("{HUB}/library/{name}"),
    })
}

fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

/// The registry of a full name.
pub(super) fn registry(qualified: &str) -> &str {
    qualified.split_once('/').map_or(HUB, |(registry, _)| registry)
}

/// Whether a full name stands for one content for ever.
pub(super) fn is_pinned(qualified: &str) -> bool {
    qualified.contains("@sha256:") || qualified.contains("@sha512:")
}

/// Whether a full name is of an image that no registry has: made on this machine.
pub(super) fn is_local(qualified: &str) -> bool {
    registry(qualified) == "localhost"
}

/// Words for a registry that may answer later.
const AWAY: [&str; 19] = [
    "timeout",
    "timed out",
    "connection refused",
    "no such host",
    "no route",
    "unreachable",
    "unexpected eof",
    "reset by peer",
    "temporary failure",
    "status code 5",
    "registry 5",
    "internal server error",
    "deadline exceeded",
    ": eof",
    "bad gateway",
    "service unavailable",
    "too many requests",
    "toomanyrequests",
    "server misbehaving",
];

/// Why an image cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The registry does not answer: later it may.
    Away,
    /// Anything that stays as it is.
    Refusal,
}

/// What a pull's complaint means, and what to do about it.
pub(super) fn advice(complaint: &str, name: &str, flavour: Flavour) -> (Trouble, String) {
    let registry = registry(name);
    let text = complaint.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|w| text.contains(w));
    let login = match flavour {
        Flavour::Podman => "podman login",
        Flavour::Docker => "docker login",
    };
    let insecure = match flavour {
        Flavour::Podman => format!("add {registry} to the setting `insecure-registries` of the executor"),
        Flavour::Docker => format!("add {registry} to `insecure-registries` in the configuration of docker's daemon"),
    };
    if says(&["http response to https client", "first record does not look like a tls handshake"]) {
        return (Trouble::Refusal, format!("{registry} does not speak HTTPS: if that is meant to be, {insecure}"));
    }
    if says(&["x509", "certificate"]) {
        return (Trouble::Refusal, format!("the certificate of {registry} is not trusted here: install its authority's"));
    }
    if says(&[
        "unauthorized",
        "authentication required",
        "denied",
        "no basic auth",
        "forbidden",
        "status code 401",
        "status code 403",
    ]) {
        let do_this = format!("`{login} {registry}` as the executor's user, or the setting `auth-file`");
        return (
            Trouble::Refusal,
            format!("{registry} gives it to nobody unknown (or it does not exist): credentials come from {do_this}"),
        );
    }
    if says(&["manifest unknown", "name unknown", "not found", "no such image", "does not exist", "status code 404"]) {
        return (Trouble::Refusal, format!("{registry} has no such image: look at its name and tag"));
    }
    if says(&["no space left", "disk quota"]) {
        return (
            Trouble::Refusal,
            "the disk of the engine's images is full: remove images that nobody needs (`image prune`)".into(),
        );
    }
    if says(&AWAY) {
        let look = "look at the network of this machine, and at the registry";
        return (Trouble::Away, format!("{registry} does not answer as it should: {look}"));
    }
    (Trouble::Refusal, String::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_names_mean_docker_io() {
        for (text, want) in [
            ("python:3.12", "docker.io/library/python:3.12"),
            ("library/python", "docker.io/library/python"),
            ("user/app:1", "docker.io/user/app:1"),
            ("ghcr.io/a/b:c", "ghcr.io/a/b:c"),
            ("localhost:5000/x", "localhost:5000/x"),
            ("127.0.0.1:5000/x@sha256:ab", "127.0.0.1:5000/x@sha256:ab"),
            ("localhost/x", "localhost/x"),
            ("docker://python", "docker.io/library/python"),
            ("docker://docker.io/a/b", "docker.io/a/b"),
        ] {
            assert_eq!(qualified(text).as_deref(), Ok(want));
        }
        for text in [
            "",
            "-v",
            "--privileged",
            "a b",
            "a\nb",
            "oras://x/y",
            "library://x",
            "/x/y.sif",
            "x.sif",
            "./x",
            "$(id)",
            "a;b",
            "ü",
        ] {
            assert!(qualified(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn refusals_are_explained() {
        let told = |complaint: &str, flavour| advice(complaint, "reg.example:5000/a/b:1", flavour);
        let (trouble, text) = told("http: server gave HTTP response to HTTPS client", Flavour::Podman);
        assert!(
            trouble == Trouble::Refusal && text.contains("add reg.example:5000 to the setting `insecure-registries`"),
            "{text}"
        );
        assert!(told("http: server gave HTTP response to HTTPS client", Flavour::Docker).1.contains("docker's daemon"));
        assert!(told("unauthorized: authentication required", Flavour::Docker).1.contains("`docker login reg.example:5000`"));
        assert!(told("manifest unknown: manifest unknown", Flavour::Podman).1.contains("name and tag"));
        assert!(told("write /x: no space left on device", Flavour::Podman).1.contains("full"));
        assert_eq!(told("dial tcp 1.2.3.4:443: connect: connection refused", Flavour::Podman).0, Trouble::Away);
        let told_503 =
            told("pinging container registry x: invalid status code from registry 503 (Service Unavailable)", Flavour::Podman);
        assert_eq!(told_503.0, Trouble::Away);
        for passing in
            ["net/http: TLS handshake timeout", "Get \"https://reg.example/v2/\": context deadline exceeded", "copying: EOF"]
        {
            assert_eq!(told(passing, Flavour::Docker).0, Trouble::Away, "{passing}");
        }
        assert_eq!(told("tls: first record does not look like a TLS handshake", Flavour::Docker).0, Trouble::Refusal);
        assert_eq!(told("something else", Flavour::Podman), (Trouble::Refusal, String::new()));
    }

    proptest! {
        #[test]
        fn a_name_is_never_an_option(text in "\\PC{0,60}") {
            if let Ok(name) = qualified(&text) {
                prop_assert!(!name.starts_with('-') && !name.contains(char::is_whitespace));
            }
        }
    }
}
