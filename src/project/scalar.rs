//! What the values of project.yaml may be: pure checks of a scalar, each with the words for what it wants.

use super::file::Results;
use super::yaml::Kind;
use super::yaml::Scalar;

/// A check of a scalar, with what it wants in words.
pub(super) struct Check<T> {
    /// As in "must be …".
    pub(super) wanted: &'static str,
    /// The value, where the scalar is one.
    pub(super) read: fn(&Scalar) -> Option<T>,
}

/// `walltime`.
pub(super) const SECONDS: Check<i64> =
    Check { wanted: "a number of seconds above 0", read: |s| whole(s).filter(|n| (1..=MOST_SECONDS).contains(n)) };
/// `nodes`, `processesPerNode`: the server assigns nothing above 127.
pub(super) const PLACES: Check<i64> =
    Check { wanted: "a number from 1 to 127", read: |s| whole(s).filter(|n| (1..=127).contains(n)) };
/// `gpu.count`.
pub(super) const COUNT: Check<i64> =
    Check { wanted: "a number, 0 or above", read: |s| whole(s).filter(|n| (0..=i64::from(i32::MAX)).contains(n)) };
/// A TCP port.
pub(super) const PORT: Check<u16> =
    Check { wanted: "a port from 1 to 65535", read: |s| whole(s).and_then(|n| u16::try_from(n).ok()).filter(|port| *port > 0) };
/// `tunnel.user`.
pub(super) const USER: Check<String> = Check {
    wanted: "the name of a user (letters, digits and . _ + @ -, no - first)",
    read: |s| Some(s.text.clone()).filter(|t| is_user_name(t)),
};
/// `tunnel.jumpHost`.
pub(super) const HOST: Check<String> =
    Check { wanted: "the name or address of a host", read: |s| Some(s.text.clone()).filter(|t| is_host_name(t)) };
/// `rebuildImage`.
pub(super) const FLAG: Check<bool> = Check { wanted: "true or false", read: flag };
/// `results`.
pub(super) const RESULTS: Check<Results> = Check {
    wanted: "shared or perRun",
    read: |s| match s.text.as_str() {
        "shared" => Some(Results::Shared),
        "perRun" => Some(Results::PerRun),
        _ => None,
    },
};
/// Any text.
pub(super) const TEXT: Check<String> = Check { wanted: "a text", read: |s| Some(s.text.clone()) };
/// `cmd`.
pub(super) const COMMAND: Check<String> =
    Check { wanted: "a command", read: |s| (!s.text.trim().is_empty()).then(|| s.text.clone()) };
/// `cpu`, as millicores.
pub(super) const CPU: Check<String> = Check {
    wanted: "a number of cores (2, 0.5) or millicores (1000m) above 0",
    read: |s| millicores(&s.text).map(|m| format!("{m}m")),
};
/// `mem`, as whole MiB.
pub(super) const MEM: Check<String> =
    Check { wanted: "an amount of memory such as 1000Mi, 16Gi or 1G", read: |s| mebibytes(&s.text).map(|m| format!("{m}Mi")) };
/// `projectname`: a part of labels and of paths on the executor.
pub(super) const NAME: Check<String> =
    Check { wanted: "a name without / and control characters, at most 200 characters long", read: name };
/// `source`: a path below cfs/src.
pub(super) const SOURCE: Check<Option<String>> = Check { wanted: "a path below cfs/src, without `..`", read: source };

/// The server counts a process's time in nanoseconds in 64 bits: some 292 years.
const MOST_SECONDS: i64 = i64::MAX / 1_000_000_000;

/// Whether a text can be the name of a user: nothing that a program could take for an option, a place or a command.
pub fn is_user_name(text: &str) -> bool {
    is_plain(text, "._+@-") && text.len() <= 128
}

/// Whether a text can be the name of a host, as users or configuration of ssh call it, or its address.
pub fn is_host_name(text: &str) -> bool {
    (is_plain(text, "._-") && text.len() <= 253) || text.parse::<std::net::Ipv6Addr>().is_ok()
}

fn is_plain(text: &str, more: &str) -> bool {
    !text.is_empty() && !text.starts_with('-') && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

/// A whole number. Quoted ones, `1_000` and `600.0` are numbers, too; `0600` is octal to some readers and refused.
fn whole(scalar: &Scalar) -> Option<i64> {
    match scalar.kind {
        Kind::Int(n) => Some(n),
        // Beyond 2^53 a float has no exact integers.
        Kind::Float(x) if x.fract() == 0.0 && x.abs() < 9e15 => Some(x as i64),
        Kind::Text => {
            let digits = scalar.text.trim().replace('_', "");
            let plain = digits == "0" || !digits.starts_with('0');
            digits.parse().ok().filter(|_| plain)
        }
        _ => None,
    }
}

/// The words of both versions of YAML: earlier ones had more.
fn flag(scalar: &Scalar) -> Option<bool> {
    match scalar.text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" | "" => Some(false),
        _ => None,
    }
}

fn name(scalar: &Scalar) -> Option<String> {
    let text = &scalar.text;
    let fine = !text.is_empty()
        && text.len() <= 200
        && text != "."
        && text != ".."
        && text.trim() == text
        && !text.chars().any(|c| c == '/' || c == '\\' || c.is_control());
    fine.then(|| text.clone())
}

fn source(scalar: &Scalar) -> Option<Option<String>> {
    let text = &scalar.text;
    if text.is_empty() {
        return Some(None);
    }
    if text.starts_with('/') || text.contains('\0') || text.split('/').any(|part| part == "..") {
        return None;
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() || text.ends_with('/') { None } else { Some(Some(parts.join("/"))) }
}

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

    fn text(text: &str) -> Scalar {
        Scalar { text: text.into(), kind: Kind::Text }
    }

    #[test]
    fn numbers_are_whole() {
        for (scalar, number) in [
            (Scalar { text: "600.0".into(), kind: Kind::Float(600.0) }, Some(600)),
            (Scalar { text: "6.5".into(), kind: Kind::Float(6.5) }, None),
            (text("1_000"), Some(1000)),
            (text("600"), Some(600)),
            (text("0"), Some(0)),
            (text("0600"), None),
            (text("ten"), None),
            (text(""), None),
            (Scalar { text: "true".into(), kind: Kind::Bool(true) }, None),
        ] {
            assert_eq!(whole(&scalar), number, "{scalar:?}");
        }
        assert_eq!((SECONDS.read)(&text("9999999999999")), None);
        assert_eq!((PORT.read)(&text("65536")), None);
    }

    #[test]
    fn a_source_stays_below_src() {
        for (given, kept) in [("main.py", "main.py"), ("./a//b.py", "a/b.py"), ("a b/é.py", "a b/é.py"), ("..a/b", "..a/b")] {
            assert_eq!((SOURCE.read)(&text(given)), Some(Some(kept.into())), "{given}");
        }
        for bad in ["/etc/passwd", "../x", "a/../../x", "a/..", ".", "./", "a/", "a\0b"] {
            assert_eq!((SOURCE.read)(&text(bad)), None, "{bad:?}");
        }
        assert_eq!((SOURCE.read)(&text("")), Some(None));
    }

    #[test]
    fn names_are_one_part_of_a_label() {
        for bad in ["", ".", "..", "a/b", "a\\b", " a", "a\nb", "a\u{7f}", &"x".repeat(201)] {
            assert_eq!((NAME.read)(&text(bad)), None, "{bad:?}");
        }
        assert_eq!((NAME.read)(&text("Försök 2")), Some("Försök 2".into()));
    }

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
