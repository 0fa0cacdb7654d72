//! Values of project.yaml that check themselves while they are read, so that an error carries the place of the value.

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error;
use serde::de::Visitor;
use std::fmt;

/// Stands before our own messages inside serde_yaml's errors, which put the path of the value in front.
pub(super) const MARK: char = '\u{1}';

/// A scalar as it stands in the file.
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

impl Scalar {
    /// As it is shown in "found …".
    fn shown(&self) -> String {
        match self {
            Scalar::Null => "nothing".into(),
            Scalar::Bool(b) => b.to_string(),
            Scalar::Int(n) => n.to_string(),
            Scalar::Float(x) => x.to_string(),
            Scalar::Text(text) => format!("{text:?}"),
        }
    }

    /// Its text, where it is no list or map; numbers too, since YAML makes numbers of what looks like one.
    fn text(&self) -> String {
        match self {
            Scalar::Null => String::new(),
            Scalar::Text(text) => text.clone(),
            other => other.shown(),
        }
    }
}

struct Checked<T> {
    wanted: &'static str,
    check: fn(&Scalar) -> Option<T>,
}

impl<T> Checked<T> {
    fn take<E: Error>(&self, scalar: &Scalar) -> Result<T, E> {
        (self.check)(scalar).ok_or_else(|| E::custom(format!("{MARK}must be {}, found {}", self.wanted, scalar.shown())))
    }
}

impl<'de, T> Visitor<'de> for Checked<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{}", self.wanted)
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        self.take(&Scalar::Null)
    }

    fn visit_bool<E: Error>(self, b: bool) -> Result<T, E> {
        self.take(&Scalar::Bool(b))
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<T, E> {
        self.take(&Scalar::Int(n))
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<T, E> {
        match i64::try_from(n) {
            Ok(n) => self.take(&Scalar::Int(n)),
            Err(_) => self.take(&Scalar::Text(n.to_string())),
        }
    }

    fn visit_f64<E: Error>(self, x: f64) -> Result<T, E> {
        self.take(&Scalar::Float(x))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        self.take(&Scalar::Text(text.to_owned()))
    }
}

/// A value type that reads itself through a check.
macro_rules! checked {
    ($(#[$doc:meta])* $name:ident($inner:ty), $wanted:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub(super) struct $name(pub(super) $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<$name, D::Error> {
                d.deserialize_any(Checked { wanted: $wanted, check: $check }).map($name)
            }
        }
    };
}

checked!(
    /// `walltime`.
    Seconds(i64), "a number of seconds above 0", |s| match s {
        Scalar::Int(n) if *n > 0 => Some(*n),
        _ => None,
    }
);
checked!(
    /// `nodes`, `processesPerNode`: the server assigns nothing above 127.
    Places(i64), "a number from 1 to 127", |s| match s {
        Scalar::Int(n) if (1..=127).contains(n) => Some(*n),
        _ => None,
    }
);
checked!(
    /// `gpu.count`.
    Count(i64), "a number, 0 or above", |s| match s {
        Scalar::Int(n) if *n >= 0 => Some(*n),
        Scalar::Null => Some(0),
        _ => None,
    }
);
checked!(
    /// A TCP port.
    Port(u16), "a port from 1 to 65535", |s| match s {
        Scalar::Int(n) if (1..=65535).contains(n) => u16::try_from(*n).ok(),
        _ => None,
    }
);
checked!(
    /// `rebuildImage`.
    Flag(bool), "true or false", |s| match s {
        Scalar::Bool(b) => Some(*b),
        Scalar::Null => Some(false),
        _ => None,
    }
);
checked!(
    /// Any text.
    Text(String), "a text", |s| Some(s.text())
);
checked!(
    /// `cpu`, as millicores.
    Cpu(String), "a number of cores (2, 0.5) or millicores (1000m) above 0", |s| millicores(&s.text()).map(|m| format!("{m}m"))
);
checked!(
    /// `mem`, as whole MiB.
    Mem(String), "an amount of memory such as 1000Mi, 16Gi or 1G", |s| mebibytes(&s.text()).map(|m| format!("{m}Mi"))
);
checked!(
    /// `projectname`: a part of labels and of paths on the executor.
    Name(String), "a name without / and control characters, at most 200 characters long", |s| {
        let text = s.text();
        let fine = !text.is_empty()
            && text.len() <= 200
            && text != "."
            && text != ".."
            && text.trim() == text
            && !text.chars().any(|c| c == '/' || c == '\\' || c.is_control());
        fine.then_some(text)
    }
);
checked!(
    /// `source`: a path below cfs/src.
    Source(Option<String>), "a path below cfs/src, without `..`", |s| {
        let text = s.text();
        if text.is_empty() {
            return Some(None);
        }
        let inside = !text.starts_with('/') && text.split('/').all(|part| part != "..") && !text.contains('\0');
        inside.then(|| Some(text.trim_start_matches("./").to_owned()))
    }
);

/// Millicores of `1000m`, `2` or `0.5`. Servers understand millicores only: `2` would be stored as nothing at all.
pub(super) fn millicores(text: &str) -> Option<i64> {
    let text = text.trim();
    let value = match text.strip_suffix('m') {
        Some(milli) => milli.parse::<i64>().ok()?,
        None => {
            let cores: f64 = text.parse().ok()?;
            let milli = (cores * 1000.0).ceil();
            // Beyond this a float has no exact integers, and no machine so many cores.
            if !milli.is_finite() || milli > 1e12 {
                return None;
            }
            milli as i64
        }
    };
    (value > 0).then_some(value)
}

/// MiB, rounded up, of an integer or fraction with a unit. Servers refuse `Ti`, fractions and plain numbers.
pub(super) fn mebibytes(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let bytes = match unit.trim().trim_end_matches('B') {
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "K" | "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        _ => return None,
    } * number;
    let mebi = (bytes / (1024.0 * 1024.0)).ceil();
    (1.0..1e12).contains(&mebi).then_some(mebi as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_become_millicores() {
        for (text, milli) in [("1000m", 1000), ("2", 2000), ("0.5", 500), ("1.5", 1500)] {
            assert_eq!(millicores(text), Some(milli), "{text}");
        }
        for bad in ["", "m", "-5m", "1.5m", "abc", "0", "inf", "NaN"] {
            assert_eq!(millicores(bad), None, "{bad}");
        }
    }

    #[test]
    fn memory_becomes_whole_mebibytes() {
        for (text, mebi) in
            [("1000Mi", 1000), ("16Gi", 16384), ("1G", 954), ("1Ti", 1 << 20), ("1.5Gi", 1536), ("10Ki", 1), ("2GB", 1908)]
        {
            assert_eq!(mebibytes(text), Some(mebi), "{text}");
        }
        for bad in ["", "1000", "Mi", "1Xi", "-1Mi", "0Mi"] {
            assert_eq!(mebibytes(bad), None, "{bad}");
        }
    }
}
