//! Which image an archive or a layout folder holds, read from its index only.

use super::reference::Kind;
use serde::Deserialize;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::path::Path;

/// Largest index that is read.
const LARGEST: u64 = 4 << 20;
/// Tars are made of blocks.
const BLOCK: usize = 512;
/// More members than any image has.
const MEMBERS: usize = 1_000_000;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Value>,
}

#[derive(Deserialize)]
struct Saved {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
}

/// An image of an archive or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// What names it: the digest of its manifest, or of its configuration in what `docker save` writes.
    pub identity: String,
    /// An index of it alone, where there can be others beside it.
    pub index: Option<String>,
}

/// The image that is meant.
///
/// # Errors
/// In words: what the file is instead, or which images it holds.
pub fn choose(kind: Kind, path: &Path, reference: Option<&str>) -> Result<Chosen, String> {
    let (name, what) = match kind {
        Kind::DockerArchive => ("manifest.json", "an archive of `docker save`"),
        Kind::OciArchive => ("index.json", "an OCI archive"),
        Kind::OciLayout | Kind::Sif => ("index.json", "an OCI layout"),
    };
    let refused = |reason: String| format!("{} is not {what}: {reason}", path.display());
    let text = match kind {
        Kind::OciLayout | Kind::Sif => {
            let open = File::open(path.join(name)).and_then(|file| {
                let mut bytes = Vec::new();
                file.take(LARGEST).read_to_end(&mut bytes).map(|_| bytes)
            });
            open.map_err(|e| refused(format!("{name} in it cannot be read: {e}")))?
        }
        _ => {
            let mut file = File::open(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
            let found = member(&mut file, name).map_err(|e| refused(e.to_string()))?;
            found.ok_or_else(|| refused(format!("there is no {name} in it (a compressed archive has to be unpacked first)")))?
        }
    };
    let chosen = match kind {
        Kind::DockerArchive => saved(&text, reference),
        Kind::OciArchive => indexed(&text, reference, true),
        Kind::OciLayout | Kind::Sif => indexed(&text, reference, false),
    };
    chosen.map_err(|reason| format!("{}: {reason}", path.display()))
}

/// Apptainer cannot be told which image of an archive is meant, so that one of several has to be an archive of its own.
fn indexed(text: &[u8], reference: Option<&str>, alone: bool) -> Result<Chosen, String> {
    let index: Index = serde_json::from_slice(text).map_err(|e| format!("its index cannot be read: {e}"))?;
    let name = |d: &Value| d["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap_or_default().to_owned();
    let found = match reference {
        Some(wanted) => index.manifests.iter().find(|d| name(d) == wanted),
        None if index.manifests.len() == 1 => index.manifests.first(),
        None => None,
    };
    let found = found.ok_or_else(|| others(&index.manifests.iter().map(name).collect::<Vec<_>>(), reference))?;
    let identity = found["digest"].as_str().ok_or("its index names an image without a digest")?.to_owned();
    if alone {
        return match index.manifests.len() {
            1 => Ok(Chosen { identity, index: None }),
            n => Err(format!("it holds {n} images: unpack it, and name the folder and the image (oci:FOLDER:NAME)")),
        };
    }
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [found] }).to_string();
    Ok(Chosen { identity, index: Some(index) })
}

fn saved(text: &[u8], reference: Option<&str>) -> Result<Chosen, String> {
    let all: Vec<Saved> = serde_json::from_slice(text).map_err(|e| format!("its manifest cannot be read: {e}"))?;
    let names = all.iter().flat_map(|s| s.tags.iter().flatten().cloned()).collect::<Vec<_>>();
    match (all.as_slice(), reference) {
        ([one], None) => Ok(one.config.clone()),
        ([one], Some(wanted)) if one.tags.iter().flatten().any(|tag| tag == wanted) => Ok(one.config.clone()),
        ([_], _) => Err(others(&names, reference)),
        _ => Err(format!("it holds {} images: save the one that is meant apart", all.len())),
    }
    .map(|config| Chosen {
        identity: config.trim_start_matches("blobs/sha256/").trim_end_matches(".json").to_owned(),
        index: None,
    })
}

fn others(names: &[String], reference: Option<&str>) -> String {
    let held = names.iter().take(20).map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ");
    match reference {
        Some(wanted) => format!("it holds no image {wanted:?}, but {held}"),
        None => format!("it holds {} images ({held}): name one, after a colon", names.len()),
    }
}

/// A member of a tar, found without reading the others.
fn member(tar: &mut (impl Read + Seek), name: &str) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = [0u8; BLOCK];
    for _ in 0..MEMBERS {
        match tar.read_exact(&mut head) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        if head.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let odd = || std::io::Error::new(std::io::ErrorKind::InvalidData, "it is no tar");
        let size = size(&head[124..136]).ok_or_else(odd)?;
        let called = head[..100].split(|b| *b == 0).next().unwrap_or_default();
        let called = called.strip_prefix(b"./").unwrap_or(called);
        if called == name.as_bytes() && matches!(head[156], 0 | b'0') {
            let mut bytes = Vec::new();
            tar.take(size.min(LARGEST)).read_to_end(&mut bytes)?;
            return Ok(Some(bytes));
        }
        let padded = size.div_ceil(BLOCK as u64).checked_mul(BLOCK as u64).and_then(|n| i64::try_from(n).ok());
        tar.seek(SeekFrom::Current(padded.ok_or_else(odd)?))?;
    }
    Ok(None)
}

/// Octal digits, or a binary number where those do not suffice.
fn size(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        return field[4..].iter().try_fold(0u64, |n, b| n.checked_mul(256)?.checked_add(u64::from(*b)));
    }
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches([' ', '\0']), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut all = Vec::new();
        for (name, bytes) in members {
            let mut head = [0u8; BLOCK];
            head[..name.len()].copy_from_slice(name.as_bytes());
            head[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
            head[156] = b'0';
            all.extend_from_slice(&head);
            all.extend_from_slice(bytes);
            all.resize(all.len().div_ceil(BLOCK) * BLOCK, 0);
        }
        all.resize(all.len() + 2 * BLOCK, 0);
        all
    }

    #[test]
    fn a_member_is_found_behind_others() {
        let bytes = tar(&[("blobs/x", &[7; 1000]), ("./index.json", b"{}"), ("z", b"")]);
        assert_eq!(member(&mut Cursor::new(&bytes), "index.json").unwrap().unwrap(), b"{}");
        assert_eq!(member(&mut Cursor::new(&bytes), "manifest.json").unwrap(), None);
        assert!(member(&mut Cursor::new(vec![1u8; 2048]), "x").is_err());
        assert_eq!(member(&mut Cursor::new(b"short"), "x").unwrap(), None);
    }

    #[test]
    fn the_image_is_chosen_by_name_or_is_the_only_one() {
        let entry = |digest: &str, name: &str| serde_json::json!({ "digest": digest, "annotations": { "org.opencontainers.image.ref.name": name } });
        let index = |manifests: Vec<serde_json::Value>| serde_json::json!({ "manifests": manifests }).to_string();
        let chosen = |index: &str, name: Option<&str>, alone| indexed(index.as_bytes(), name, alone).map(|c| c.identity);
        let one = index(vec![entry("sha256:a", "v1")]);
        assert_eq!(chosen(&one, None, true).unwrap(), "sha256:a");
        assert_eq!(chosen(&one, Some("v1"), true).unwrap(), "sha256:a");
        assert!(chosen(&one, Some("v2"), true).unwrap_err().contains("\"v1\""));
        let two = index(vec![entry("sha256:a", "v1"), entry("sha256:b", "v2")]);
        assert_eq!(chosen(&two, Some("v2"), false).unwrap(), "sha256:b");
        assert!(chosen(&two, None, false).unwrap_err().contains("2 images"));
        assert!(chosen(&two, Some("v2"), true).unwrap_err().contains("unpack it"));
        let alone: Value = serde_json::from_str(&indexed(two.as_bytes(), Some("v2"), false).unwrap().index.unwrap()).unwrap();
        assert_eq!((alone["manifests"].as_array().unwrap().len(), &alone["manifests"][0]["digest"]), (1, &"sha256:b".into()));
        let docker = br#"[{"Config":"abc.json","RepoTags":["box:v1"],"Layers":[]}]"#;
        assert_eq!(saved(docker, None).unwrap().identity, "abc");
        assert_eq!(saved(docker, Some("box:v1")).unwrap().identity, "abc");
        assert!(saved(docker, Some("box:v2")).unwrap_err().contains("box:v1"));
        assert!(saved(b"[]", None).unwrap_err().contains("0 images"));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(b'7')], 0..1600)) {
            let _ = member(&mut Cursor::new(&bytes), "index.json");
        }
    }
}
