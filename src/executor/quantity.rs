//! CPU and memory as specifications write them.

/// CPU text to millicores: `1500m`, `2`, `0.5`. Empty: 0, nothing said.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn cpu_millis(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(0);
    }
    let bad = || format!("must be millicores or cores, as `1500m` or `2`, not {text:?}");
    if let Some(number) = text.strip_suffix('m') {
        return digits(number).ok_or_else(bad);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if text.contains('.') && (fraction.is_empty() || fraction.len() > 3) {
        return Err(bad());
    }
    let cores = digits(whole).ok_or_else(bad)?;
    let thousandths = if fraction.is_empty() { 0 } else { digits(&format!("{fraction:0<3}")).ok_or_else(bad)? };
    cores.checked_mul(1000).and_then(|m| m.checked_add(thousandths)).ok_or_else(bad)
}

/// Units of memory, in bytes. The server's own table, with `T` and `Ti` beside it.
const UNITS: [(&str, u64); 18] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("k", 1_000),
    ("B", 1),
];

/// Memory text to MiB, rounded up: `1000Mi`, `16Gi`, `1G`, `64Ki`. Empty: 0, nothing said.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn memory_mib(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(0);
    }
    let bad = || format!("must be a whole number with a unit, as `1000Mi` or `16Gi`, not {text:?}");
    let (number, unit) = UNITS.iter().find_map(|(name, size)| text.strip_suffix(name).map(|n| (n, *size))).ok_or_else(bad)?;
    let bytes = digits(number).and_then(|n| n.checked_mul(unit)).ok_or_else(bad)?;
    Ok(bytes.div_ceil(1 << 20))
}

/// Digits only: no sign, no space, no exponent.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpu() {
        for (text, want) in [("", 0), ("1000m", 1000), ("5m", 5), ("2", 2000), ("0.5", 500), ("1.25", 1250), ("0m", 0)] {
            assert_eq!(cpu_millis(text), Ok(want), "{text}");
        }
        for text in ["-5m", "1.5m", "m", "abc", "1.", ".5", "1e3", "1 m", "99999999999999999999", "18446744073709551615"] {
            assert!(cpu_millis(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory() {
        for (text, want) in
            [("", 0), ("1000Mi", 1000), ("16Gi", 16384), ("1G", 954), ("64Ki", 1), ("0Mi", 0), ("1GiB", 1024), ("1MB", 1)]
        {
            assert_eq!(memory_mib(text), Ok(want), "{text}");
        }
        for text in ["12", "-1Mi", "Mi", "1.5Gi", "abc", "1 Gi", "99999999999999Ti"] {
            assert!(memory_mib(text).is_err(), "{text}");
        }
    }
    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), near in "[0-9]{0,22}[.m]?[KMGTkim]{0,2}B?") {
            for text in [&text, &near] {
                let _ = (cpu_millis(text), memory_mib(text));
            }
        }

        #[test]
        fn what_is_written_is_what_is_read(n in 0u64..1 << 40) {
            prop_assert_eq!(cpu_millis(&format!("{n}m")), Ok(n));
            prop_assert_eq!(cpu_millis(&n.to_string()), Ok(n * 1000));
            prop_assert_eq!(memory_mib(&format!("{n}Mi")), Ok(n));
            prop_assert_eq!(memory_mib(&format!("{n}Ki")), Ok(n.div_ceil(1024)));
        }
    }
}
