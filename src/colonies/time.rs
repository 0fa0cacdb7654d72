//! Times of the protocol: RFC 3339 with any offset, where every time in year 1 means "never".

use jiff::Timestamp;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

/// A point in time as the protocol carries it, or never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(Option<Timestamp>);

/// How "never" is sent.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

impl Time {
    /// No time.
    pub const fn never() -> Time {
        Time(None)
    }

    /// That time.
    pub const fn at(timestamp: Timestamp) -> Time {
        Time(Some(timestamp))
    }

    /// The time, or none for "never".
    pub fn get(self) -> Option<Timestamp> {
        self.0
    }

    /// From nanoseconds since 1970; out of range becomes "never".
    pub fn from_nanos(nanos: i64) -> Time {
        Time(Timestamp::from_nanosecond(i128::from(nanos)).ok())
    }

    /// Reads the protocol's text. Anything in year 1, whatever the offset, is "never"
    /// (a server in another time zone writes `0001-01-01T01:12:12+01:12`).
    pub fn parse(text: &str) -> Result<Time, jiff::Error> {
        if text.is_empty() || text.starts_with("0001-") || text.starts_with("0000-") {
            return Ok(Time(None));
        }
        text.parse().map(|t| Time(Some(t)))
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(t) => write!(f, "{t}"),
            None => f.write_str(NEVER),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Time, D::Error> {
        let text = Option::<String>::deserialize(d)?.unwrap_or_default();
        Time::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn year_one_is_never_in_any_offset() {
        for text in ["0001-01-01T00:00:00Z", "0001-01-01T01:12:12+01:12", ""] {
            assert_eq!(Time::parse(text).unwrap(), Time::never(), "{text}");
        }
    }

    #[test]
    fn offsets_and_fractions_are_read() {
        let here = Time::parse("2026-11-23T04:44:36.433974+01:00").unwrap();
        let utc = Time::parse("2026-11-23T03:44:36.433974Z").unwrap();
        assert_eq!(here, utc);
        assert_eq!(utc.to_string(), "2026-11-23T03:44:36.433974Z");
    }
}
