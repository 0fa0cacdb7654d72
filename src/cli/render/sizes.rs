//! Sizes for people: exact units, powers of 1024.

/// `0 B`, `1023 B`, `1.5 KiB`, `20.0 GiB`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 file`, `2 files`.
pub fn files(n: u64) -> String {
    if n == 1 { "1 file".into() } else { format!("{n} files") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_read_well() {
        let shown: Vec<String> = [0, 1023, 1024, 1536, 1 << 20, (1 << 30) - 1, 20 << 30].map(super::human).into();
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 GiB", "20.0 GiB"]);
    }
}
