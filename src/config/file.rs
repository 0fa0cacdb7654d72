//! The config file: named profiles, with keys by value, by file, or by command.
//!
//! ```toml
//! default = "lumi"                     # profile that holds when none is chosen (optional)
//! [profile.lumi.colony]
//! host = "colonies.example.org"
//! key-file = "~/.config/pollinator/lumi.key"
//! [profile.lumi.store]
//! secret-key-command = "pass show lumi-s3"
//! ```

use super::Error;
use super::values::Found;
use super::values::Kept;
use super::values::Origin;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use toml::Table;
use toml::Value;

/// Keys that hold a secret when written out.
const SECRETS: [&str; 3] = ["key", "owner-key", "secret-key"];
/// Keys of a profile's sections besides the secret's `-file` and `-command` forms.
const KNOWN: &[(&str, &[&str])] = &[
    ("colony", &["host", "port", "tls", "skip-verify", "name", "key", "owner-key"]),
    ("store", &["endpoint", "tls", "skip-verify", "region", "bucket", "access-key", "secret-key"]),
    ("", &["dashboard", "verbose", "timeout", "limit-up", "jobs"]),
];

/// Reads the profile `chosen`, or the file's default. No file means no values, unless a profile was asked for.
///
/// `home` stands for `~` in paths of key files.
pub fn read(path: &Path, chosen: Option<&str>, home: &Path) -> Result<BTreeMap<String, Found>, Error> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return match chosen {
                None => Ok(BTreeMap::new()),
                Some(name) => Err(Error::NoProfile { name: name.into(), path: path.into(), there: Vec::new() }),
            };
        }
        Err(source) => return Err(Error::Unreadable { path: path.into(), source }),
    };
    let file: Table = toml::from_str(&text).map_err(|e| Error::BadFile { path: path.into(), reason: reason(&text, &e) })?;
    if holds_secret(&file) {
        refuse_readable_by_others(path)?;
    }
    let profiles = file.get("profile").and_then(Value::as_table).cloned().unwrap_or_default();
    let default = file.get("default").and_then(Value::as_str);
    let Some(name) = chosen.or(default) else { return Ok(BTreeMap::new()) };
    let Some(profile) = profiles.get(name).and_then(Value::as_table) else {
        let there = profiles.keys().cloned().collect();
        return Err(Error::NoProfile { name: name.into(), path: path.into(), there });
    };
    Reader { path, name: Some(name), home, values: BTreeMap::new() }.sections(profile)
}

/// Reads sections of a profile that stand in a file of their own: those of an executor.
pub fn read_sections(path: &Path, sections: &Table, home: &Path) -> Result<BTreeMap<String, Found>, Error> {
    if holds_secret(sections) {
        refuse_readable_by_others(path)?;
    }
    Reader { path, name: None, home, values: BTreeMap::new() }.sections(sections)
}

/// What is wrong with the file, and where. The parser's own text would quote the line, which may hold a key.
pub fn reason(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {}, column {column}: {}", before.matches('\n').count() + 1, error.message())
}

/// Whether a secret stands written out anywhere in the file.
fn holds_secret(table: &Table) -> bool {
    table.iter().any(|(key, value)| match value {
        Value::Table(inner) => holds_secret(inner),
        _ => SECRETS.contains(&key.as_str()),
    })
}

/// A file with a key in it is for its owner only.
fn refuse_readable_by_others(path: &Path) -> Result<(), Error> {
    let mode = std::fs::metadata(path).map_err(|source| Error::Unreadable { path: path.into(), source })?.permissions().mode();
    if mode & 0o077 == 0 { Ok(()) } else { Err(Error::ReadableByOthers { path: path.into(), mode: mode & 0o777 }) }
}

struct Reader<'a> {
    path: &'a Path,
    /// None: the whole file is one.
    name: Option<&'a str>,
    home: &'a Path,
    values: BTreeMap<String, Found>,
}

impl Reader<'_> {
    fn sections(mut self, profile: &Table) -> Result<BTreeMap<String, Found>, Error> {
        for (key, value) in profile {
            match value {
                Value::Table(section) => {
                    for (inner, value) in section {
                        self.value(key, inner, value)?;
                    }
                }
                _ => self.value("", key, value)?,
            }
        }
        Ok(self.values)
    }

    fn value(&mut self, section: &str, key: &str, value: &Value) -> Result<(), Error> {
        let profile = self.name.map_or_else(String::new, |name| format!("profile {name}, "));
        let dot = if section.is_empty() { "" } else { "." };
        let place = format!("{}, {profile}{section}{dot}{key}", self.path.display());
        let known = KNOWN.iter().find(|(name, _)| *name == section).map_or(&[][..], |(_, keys)| keys);
        let bad = |reason: &str| Error::BadFile { path: self.path.into(), reason: format!("{place}: {reason}") };
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Integer(n) => n.to_string(),
            Value::Boolean(b) => b.to_string(),
            _ => return Err(bad("must be a text, a number, or true or false")),
        };
        let plain = key.strip_suffix("-file").or_else(|| key.strip_suffix("-command")).filter(|plain| SECRETS.contains(plain));
        let name = plain.unwrap_or(key);
        if !known.contains(&name) {
            return Err(bad(&format!("is not a key of a profile{}", super::advice(key, known.iter().copied()))));
        }
        // As an empty variable: as good as none.
        if text.trim().is_empty() {
            return Ok(());
        }
        let kept = match plain {
            Some(_) if key.ends_with("-file") => Some(Kept::File(self.path_of(&text))),
            Some(_) => Some(Kept::Command(text.clone())),
            None => None,
        };
        let full = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
        if self.values.contains_key(&full) {
            return Err(bad("is given in two ways; keep one"));
        }
        let text = if kept.is_some() { "" } else { text.trim() };
        self.values.insert(full, Found { kept, ..Found::written(text, Origin::File(place)) });
        Ok(())
    }

    /// A key file's path: from the home folder, or beside the config file.
    fn path_of(&self, text: &str) -> PathBuf {
        match text.strip_prefix("~/") {
            Some(below) => self.home.join(below),
            None => self.path.parent().unwrap_or(Path::new("")).join(text),
        }
    }
}

/// The key in a file of its own, which must be for its owner only.
pub fn key_file(path: &Path) -> Result<String, Error> {
    refuse_readable_by_others(path)?;
    let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable { path: path.into(), source })?;
    if text.trim().is_empty() {
        return Err(Error::BadFile { path: path.into(), reason: "there is no key in it".into() });
    }
    Ok(text)
}

/// The first line a command prints. It runs in a shell with the terminal, so that a password agent can ask.
pub fn key_command(command: &str, place: &str) -> Result<String, Error> {
    let failed = |reason: String| Error::KeyCommand { place: place.into(), reason };
    let output = std::process::Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .stderr(std::process::Stdio::inherit())
        .stdin(std::process::Stdio::inherit())
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let text = String::from_utf8(output.stdout).map_err(|_| failed("what it printed is not text".into()))?;
    match text.lines().next() {
        Some(line) if !line.trim().is_empty() => Ok(line.to_owned()),
        _ => Err(failed("it printed nothing".into())),
    }
}

/// Where the config file is when nothing else is said.
pub fn default_path(config_folder: &Path) -> PathBuf {
    config_folder.join("config.toml")
}
