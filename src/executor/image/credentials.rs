//! Credentials of registries, in files as `docker login`, `podman login` and `apptainer registry login` write them.

use super::reference::Remote;
use crate::config::Secret;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

/// A name and a password.
#[derive(Clone, Debug)]
pub struct Login {
    /// Name.
    pub user: String,
    /// Password, or a token that stands for one.
    pub password: Secret,
}

/// What was found for a registry, and where it was looked.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The credentials.
    pub login: Option<Login>,
    /// Where it was looked, in words.
    pub looked: String,
}

/// The part of such a file that is understood.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// Looks in the named file, or else in the user's own.
///
/// # Errors
/// A file that was named and cannot be read, or that is none of this kind.
pub fn find(remote: &Remote, named: Option<&Path>) -> Result<Found, String> {
    let Some(named) = named else {
        return find_own(remote, &own_files(|name| std::env::var_os(name)));
    };
    let text =
        std::fs::read_to_string(named).map_err(|e| format!("the file of credentials {} cannot be read: {e}", named.display()))?;
    let (login, remark) = read(&text, remote).map_err(|reason| format!("{} {reason}", named.display()))?;
    Ok(Found { login, looked: format!("{}{}", named.display(), remark.map(|r| format!(" ({r})")).unwrap_or_default()) })
}

fn find_own(remote: &Remote, files: &[PathBuf]) -> Result<Found, String> {
    let mut looked = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        let (login, remark) = read(&text, remote).map_err(|reason| format!("{} {reason}", file.display()))?;
        looked.push(format!("{}{}", file.display(), remark.map(|r| format!(" ({r})")).unwrap_or_default()));
        if login.is_some() {
            return Ok(Found { login, looked: looked.join(", ") });
        }
    }
    if looked.is_empty() {
        let places: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        return Ok(Found { login: None, looked: format!("no file of credentials is there (looked for {})", places.join(", ")) });
    }
    Ok(Found { login: None, looked: looked.join(", ") })
}

/// Where the tools put what somebody logged in with.
fn own_files(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let path = |name: &str, below: &str| variable(name).filter(|v| !v.is_empty()).map(|v| PathBuf::from(v).join(below));
    let all = [
        variable("REGISTRY_AUTH_FILE").filter(|v| !v.is_empty()).map(PathBuf::from),
        path("HOME", ".apptainer/docker-config.json"),
        path("HOME", ".singularity/docker-config.json"),
        path("DOCKER_CONFIG", "config.json"),
        path("HOME", ".docker/config.json"),
        path("XDG_RUNTIME_DIR", "containers/auth.json"),
    ];
    all.into_iter().flatten().collect()
}

/// The credentials for an image, and what is there but cannot be used. Pure.
fn read(text: &str, remote: &Remote) -> Result<(Option<Login>, Option<String>), String> {
    let written: Written = serde_json::from_str(text)
        .map_err(|e| format!("is no file of credentials (line {}, column {})", e.line(), e.column()))?;
    let full = format!("{}/{}", remote.registry, remote.repository);
    let names = |key: &str| {
        let key = normal(key);
        (full == key || full.strip_prefix(&key).is_some_and(|rest| rest.starts_with('/'))).then_some(key.len())
    };
    // The longest name is the closest: podman keeps credentials of a part of a registry.
    let found = written.auths.iter().filter_map(|(key, entry)| names(key).map(|n| (n, entry))).max_by_key(|(n, _)| *n);
    if let Some((_, entry)) = found {
        if let Some(login) = entry.login()? {
            return Ok((Some(login), None));
        }
        if !entry.identitytoken.is_empty() {
            return Ok((
                None,
                Some("it holds an identity token for this registry, which cannot be used: log in with a password".into()),
            ));
        }
    }
    let helped = written.helpers.keys().any(|key| names(key).is_some()) || (found.is_some() && !written.store.is_empty());
    Ok((None, helped.then(|| "its credentials are kept by a helper program, which cannot be asked".into())))
}

impl Entry {
    fn login(&self) -> Result<Option<Login>, String> {
        if !self.username.is_empty() {
            return Ok(Some(Login { user: self.username.clone(), password: Secret::new(self.password.clone()) }));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        // What is wrong with it is not told in detail: it is a secret.
        let bad = || "holds an `auth` that is not `name:password` in base64".to_owned();
        let bytes = BASE64_STANDARD.decode(self.auth.trim()).map_err(|_| bad())?;
        let text = String::from_utf8(bytes).map_err(|_| bad())?;
        let (user, password) = text.split_once(':').ok_or_else(bad)?;
        Ok(Some(Login { user: user.to_owned(), password: Secret::new(password.trim_end_matches('\0')) }))
    }
}

/// `https://index.docker.io/v1/` is `docker.io`.
fn normal(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key).trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    for hub in ["index.docker.io", "registry-1.docker.io"] {
        if let Some(rest) = key.strip_prefix(hub) {
            return format!("docker.io{rest}");
        }
    }
    key.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::image::reference;
    use serde_json::json;

    fn remote(text: &str) -> Remote {
        match reference::read(text, "").unwrap() {
            reference::Image::Registry(remote) => remote,
            other => panic!("{other:?}"),
        }
    }

    fn found(file: &serde_json::Value, image: &str) -> Option<String> {
        let (login, _) = read(&file.to_string(), &remote(image)).unwrap();
        login.map(|l| format!("{} {}", l.user, l.password.expose()))
    }

    #[test]
    fn the_closest_entry_wins() {
        let auth = |text: &str| json!({ "auth": BASE64_STANDARD.encode(text) });
        let file = json!({ "auths": {
            "https://index.docker.io/v1/": auth("hub:a:b"),
            "ghcr.io": auth("all:x"),
            "ghcr.io/some/team": auth("team:y"),
            "localhost:5000": { "username": "u", "password": "p" },
        } });
        assert_eq!(found(&file, "python").as_deref(), Some("hub a:b"));
        assert_eq!(found(&file, "ghcr.io/other/x").as_deref(), Some("all x"));
        assert_eq!(found(&file, "ghcr.io/some/team/x").as_deref(), Some("team y"));
        assert_eq!(found(&file, "ghcr.io/some/teams/x").as_deref(), Some("all x"));
        assert_eq!(found(&file, "localhost:5000/x").as_deref(), Some("u p"));
        assert_eq!(found(&file, "localhost:5001/x"), None);
        assert_eq!(found(&json!({}), "python"), None);
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        let remark = |file: serde_json::Value| read(&file.to_string(), &remote("ghcr.io/a/b")).unwrap().1.unwrap_or_default();
        assert!(remark(json!({ "credHelpers": { "ghcr.io": "x" } })).contains("helper"));
        assert!(remark(json!({ "credsStore": "x", "auths": { "ghcr.io": {} } })).contains("helper"));
        assert!(remark(json!({ "auths": { "ghcr.io": { "identitytoken": "t" } } })).contains("identity token"));
        assert!(remark(json!({ "credsStore": "x" })).is_empty());
        let secret = json!({ "auths": { "ghcr.io": { "auth": "c2VjcmV0" } } }).to_string();
        let reason = read(&secret, &remote("ghcr.io/a/b")).unwrap_err();
        assert!(reason.contains("auth") && !reason.contains("secret") && !reason.contains("c2Vj"), "{reason}");
        assert!(read("{ secret", &remote("ghcr.io/a/b")).unwrap_err().contains("line 1"));
    }

    #[test]
    fn own_files_are_those_of_the_tools() {
        let files = own_files(|name| (name == "HOME" || name == "DOCKER_CONFIG").then(|| format!("/{name}").into()));
        let files: Vec<&str> = files.iter().map(|f| f.to_str().unwrap()).collect();
        let want = [
            "/HOME/.apptainer/docker-config.json",
            "/HOME/.singularity/docker-config.json",
            "/DOCKER_CONFIG/config.json",
            "/HOME/.docker/config.json",
        ];
        assert_eq!(files, want);
    }
}
