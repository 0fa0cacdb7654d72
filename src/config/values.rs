//! Where values come from: the environment, a profile of the config file, or nowhere; each remembers which.

use super::Error;
use super::Secret;
use super::file;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An environment variable.
    Variable(String),
    /// A key of the config file.
    File(String),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Variable(name) => write!(f, "environment, {name}"),
            Origin::File(place) => write!(f, "{place}"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// A value with its origin. Secrets are texts here, too, and are wrapped where they are taken out.
#[derive(Clone, PartialEq, Eq)]
pub struct Found {
    /// The text, trimmed; empty where `kept` says where it is.
    pub text: String,
    /// Where it came from.
    pub origin: Origin,
    /// A secret that is not written out. It is fetched when it is needed: asking a password store may take a person.
    pub kept: Option<Kept>,
}

impl Found {
    /// A value that is written out.
    pub fn written(text: &str, origin: Origin) -> Found {
        Found { text: text.trim().to_owned(), origin, kept: None }
    }
}

/// Where a secret is kept that is not written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In a file of its own.
    File(PathBuf),
    /// A command prints it.
    Command(String),
}

/// One setting: its names in the environment (the first is the one in messages) and in a profile.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Environment variables, all with the same meaning.
    pub variables: &'static [&'static str],
    /// `section.key` in a profile.
    pub key: &'static str,
    /// Whether it is hidden when shown.
    pub secret: bool,
}

/// The environment and the chosen profile, flattened to `section.key`.
#[derive(Clone, Default)]
pub struct Values {
    /// Environment variables.
    pub environment: BTreeMap<String, String>,
    /// Values of the profile, with where each stands.
    pub profile: BTreeMap<String, Found>,
}

impl Values {
    /// The value of a setting: the environment first. An empty variable is as good as none.
    ///
    /// # Errors
    /// [`Error::Contradiction`] where two variables of one meaning differ.
    pub fn find(&self, setting: &Setting) -> Result<Option<Found>, Error> {
        let mut found: Option<Found> = None;
        for name in setting.variables {
            let text = self.environment.get(*name).map(|t| t.trim()).unwrap_or_default();
            if text.is_empty() {
                continue;
            }
            match &found {
                Some(first) if !same(&first.text, text) => {
                    return Err(Error::Contradiction { first: first.origin.to_string(), second: (*name).into() });
                }
                Some(_) => {}
                None => found = Some(Found::written(text, Origin::Variable((*name).into()))),
            }
        }
        Ok(found.or_else(|| self.profile.get(setting.key).cloned()))
    }

    /// The value of a secret.
    pub fn secret(&self, setting: &Setting) -> Result<Option<Secret>, Error> {
        let Some(found) = self.find(setting)? else { return Ok(None) };
        let text = match &found.kept {
            None => found.text,
            Some(Kept::File(path)) => file::key_file(path)?,
            Some(Kept::Command(command)) => file::key_command(command, &found.origin.to_string())?,
        };
        Ok(Some(Secret::new(text.trim())))
    }

    /// The value of a switch.
    pub fn switch(&self, setting: &Setting, default: bool) -> Result<bool, Error> {
        let Some(found) = self.find(setting)? else { return Ok(default) };
        boolean(&found.text).ok_or_else(|| Error::Invalid {
            what: found.origin.to_string(),
            wanted: "true or false".into(),
            found: found.text,
        })
    }
}

/// Two spellings of a switch are the same.
fn same(a: &str, b: &str) -> bool {
    a == b || (boolean(a).is_some() && boolean(a) == boolean(b))
}

/// A duration: a whole number with a unit, `300ms`, `2s`, `90m`, `24h`, `7d` or `2w`.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "w" => 7 * 24 * 3600,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// A switch's text.
pub fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}
