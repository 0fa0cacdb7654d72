//! Image names of specifications, read. Pure and total.
//!
//! Names of registries follow the grammar of the distribution project; one without a registry means docker.io. Everything
//! else is taken only where its scheme, or the ending `.sif`, says so.

use crate::executor::place::Inside;
use std::fmt;
use std::path::PathBuf;

/// Docker Hub, as its images are called.
const DOCKER_HUB: &str = "docker.io";
/// Longest name; the distribution project says 255 for the repository alone.
const LONGEST: usize = 1024;
/// Longest repository.
const LONGEST_REPOSITORY: usize = 255;

/// An image, as a specification names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// In a registry.
    Registry(Remote),
    /// In a library of Singularity images: `library://…`, taken as it is.
    Library(String),
    /// A file or folder of this machine.
    Local(Local),
}

/// How a registry holds an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Layers, to be converted.
    Docker,
    /// A SIF.
    Oras,
}

/// An image in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// How it is held there.
    pub transport: Transport,
    /// `docker.io`, `ghcr.io`, `localhost:5000`.
    pub registry: String,
    /// `library/python`.
    pub repository: String,
    /// Tag; none where a digest says it all.
    pub tag: Option<String>,
    /// `sha256:…`.
    pub digest: Option<String>,
}

/// What kind of file or folder a local image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ready to run.
    Sif,
    /// A tar of an OCI layout.
    OciArchive,
    /// A folder with `oci-layout` and `index.json`.
    OciLayout,
    /// What `docker save` writes.
    DockerArchive,
}

/// A local image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    pub place: Place,
    /// Which of several images in an archive or layout.
    pub reference: Option<String>,
}

/// Where a local image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Below the file area.
    Below(Inside),
    /// Elsewhere on this machine, which the settings have to allow.
    Absolute(PathBuf),
}

impl Remote {
    /// `docker.io/library/python:3.12`, with what was asked for: tag, digest or both.
    pub fn name(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{}/{}{tag}{digest}", self.registry, self.repository)
    }

    /// The host that answers for the registry.
    pub fn host(&self) -> &str {
        if self.registry == DOCKER_HUB { "registry-1.docker.io" } else { &self.registry }
    }

    /// As Apptainer takes it, with this digest and nothing that can move.
    pub fn pinned(&self, digest: &str) -> String {
        let scheme = match self.transport {
            Transport::Docker => "docker",
            Transport::Oras => "oras",
        };
        format!("{scheme}://{}/{}@{digest}", self.registry, self.repository)
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// Reads the image of a specification. `mount`: where the job sees the file area; paths below it are files of that area.
///
/// # Errors
/// What is wrong with it, for whoever wrote the specification.
pub fn read(text: &str, mount: &str) -> Result<Image, String> {
    check(text)?;
    let archives = [("oci-archive:", Kind::OciArchive), ("oci:", Kind::OciLayout), ("docker-archive:", Kind::DockerArchive)];
    for (scheme, kind) in archives {
        if let Some(rest) = text.strip_prefix(scheme) {
            let (path, reference) = with_reference(rest.strip_prefix("//").unwrap_or(rest));
            if let Some(reference) = reference {
                check_reference(reference)?;
            }
            let place = place(path, mount)?;
            return Ok(Image::Local(Local { kind, place, reference: reference.map(str::to_owned) }));
        }
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return match scheme {
            "docker" => remote(rest, Transport::Docker),
            "oras" => remote(rest, Transport::Oras),
            "library" => library(text, rest),
            "file" => sif(rest, mount),
            _ => Err(format!(
                "{scheme:?} is no kind of image that is known here (docker://, oras://, library://, oci-archive:, oci:, \
                 docker-archive:, or a path that ends in .sif)"
            )),
        };
    }
    if text.starts_with('/') || text.starts_with("./") || text.ends_with(".sif") {
        return sif(text, mount);
    }
    remote(text, Transport::Docker)
}

/// What no image name may be, of whatever kind: it becomes a word of a command line, and a line of logs.
fn check(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("no image is named".into());
    }
    if text.len() > LONGEST {
        return Err(format!("the name is longer than {LONGEST} bytes"));
    }
    if text.starts_with('-') {
        return Err(format!("{text:?} begins with `-`"));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(_) => Err(format!("{text:?} holds a control character")),
        None => Ok(()),
    }
}

fn library(text: &str, rest: &str) -> Result<Image, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-/:@+".contains(c);
    if rest.is_empty() || !rest.starts_with(|c: char| c.is_ascii_alphanumeric()) || !rest.chars().all(fine) {
        return Err(format!("{text:?} is no name of a library: letters, digits and `._-/:@+` only"));
    }
    Ok(Image::Library(text.to_owned()))
}

fn sif(path: &str, mount: &str) -> Result<Image, String> {
    if !path.ends_with(".sif") {
        return Err(format!("{path:?} is a path, and no image: its name has to end in .sif"));
    }
    Ok(Image::Local(Local { kind: Kind::Sif, place: place(path, mount)?, reference: None }))
}

fn place(path: &str, mount: &str) -> Result<Place, String> {
    let below_mount = path.strip_prefix(mount).filter(|rest| !mount.is_empty() && rest.starts_with('/'));
    match below_mount {
        Some(rest) => Inside::read(rest).map(Place::Below),
        None if path.starts_with('/') => Inside::read(path).map(|inside| Place::Absolute(format!("/{inside}").into())),
        None => Inside::read(path).map(Place::Below),
    }
}

/// `path:reference`, where the last colon stands in the last part of the path.
fn with_reference(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        // `docker save` knows images by names with `/`; a reference that is no tag is recognised by its own colon.
        Some((path, tag)) if !tag.contains('/') => match path.rsplit_once(':') {
            Some((path, _)) if !path.is_empty() => (path, Some(&text[path.len() + 1..])),
            _ => (path, Some(tag)),
        },
        Some((path, name)) if !path.is_empty() && !name.starts_with('/') => (path, Some(name)),
        _ => (text, None),
    }
}

fn check_reference(text: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(fine) {
        return Ok(());
    }
    Err(format!("{text:?} is no name of an image in an archive: letters, digits and `._-/:@` only"))
}

fn remote(text: &str, transport: Transport) -> Result<Image, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let (registry, path) = match rest.split_once('/') {
        Some((first, path)) if is_registry(first) => (first, path),
        _ => (DOCKER_HUB, rest),
    };
    let (repository, tag) = match path.rsplit_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (path, None),
    };
    check_host(registry)?;
    let registry = match registry {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        other => other,
    };
    check_repository(repository)?;
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    if let Some(digest) = digest {
        check_digest(digest)?;
    }
    let repository =
        if registry == DOCKER_HUB && !repository.contains('/') { format!("library/{repository}") } else { repository.to_owned() };
    let tag = match (tag, digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Image::Registry(Remote { transport, registry: registry.to_owned(), repository, tag, digest: digest.map(str::to_owned) }))
}

/// Whether the first part of a name is a registry, and not the first part of a repository.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '[']) || first.contains(|c: char| c.is_ascii_uppercase())
}

fn check_host(text: &str) -> Result<(), String> {
    let bad = || Err(format!("{text:?} is no host of a registry"));
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (None, port),
            _ => return bad(),
        },
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), &text[text.len() - port.len() - 1..]),
            None => (Some(text), ""),
        },
    };
    let number = port.strip_prefix(':').map(str::parse::<u16>);
    if !port.is_empty() && !matches!(number, Some(Ok(port)) if port > 0) {
        return bad();
    }
    let label = |label: &str| {
        let fine = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        fine && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    if host.is_none_or(|host| host.split('.').all(label)) { Ok(()) } else { bad() }
}

fn check_repository(text: &str) -> Result<(), String> {
    if text.len() > LONGEST_REPOSITORY {
        return Err(format!("the repository is longer than {LONGEST_REPOSITORY} bytes"));
    }
    if text.split('/').all(is_component) {
        return Ok(());
    }
    Err(format!("{text:?} is no name of a repository: lower-case letters and digits, parted by `.`, `_`, `__`, `-` or `/`"))
}

/// Letters and digits, parted by one `.`, one or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|run| !run.is_empty());
    let ends = text.bytes().next().is_some_and(word) && text.bytes().last().is_some_and(word);
    let separator = |run: &str| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-');
    ends && separators.into_iter().all(separator)
}

fn check_tag(text: &str) -> Result<(), String> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if first && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
        return Ok(());
    }
    Err(format!("{text:?} is no tag: up to 128 letters, digits and `_.-`"))
}

/// Whether a text is a digest that can be trusted.
///
/// # Errors
/// Says what is expected.
pub fn check_digest(text: &str) -> Result<(), String> {
    let length = match text.split_once(':') {
        Some(("sha256", _)) => 64,
        Some(("sha512", _)) => 128,
        _ => 0,
    };
    let hex = text.rsplit(':').next().unwrap_or_default();
    if length > 0 && hex.len() == length && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Ok(());
    }
    Err(format!("{text:?} is no digest: `sha256:` and 64 hexadecimal digits are expected"))
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;
