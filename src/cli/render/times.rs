//! Times for people.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A point in time (ns since 1970) in the local zone: `2026-11-23 07:04:55`.
pub fn when(nanos: i64) -> String {
    match Timestamp::from_nanosecond(i128::from(nanos)) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => "-".into(),
    }
}

/// A span (ns): `0.4 s`, `59 s`, `12 min 3 s`, `3 h 20 min`.
pub fn duration(nanos: i64) -> String {
    let seconds = nanos.max(0) / 1_000_000_000;
    match seconds {
        0..10 => format!("{:.1} s", nanos.max(0) as f64 / 1e9),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn spans_read_well() {
        let shown: Vec<String> = [400_000_000, 59_000_000_000, 723_000_000_000, 12_000_000_000_000].map(super::duration).into();
        assert_eq!(shown, ["0.4 s", "59 s", "12 min 3 s", "3 h 20 min"]);
    }
}
