//! Durations as people write them in manifests and annotations: Go style, `90s`, `1h30m`.
//! kube's own type panics on numbers that do not fit, and prints `1h` as `3600s`; input of strangers ends up here, so this one refuses.

use std::{borrow::Cow, fmt, str::FromStr, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, not negative, written Go style: a sequence of numbers with a unit of `ns`, `us`, `ms`, `s`, `m` or `h`.
///
/// ```
/// # use konductor::api::Duration;
/// let duration: Duration = "1h30m".parse()?;
/// assert_eq!(duration.as_std().as_secs(), 5400);
/// assert_eq!(duration.to_string(), "1h30m");
/// # Ok::<(), konductor::api::DurationError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(time::Duration);

/// Why a text is not a [`Duration`]; the message names the text and says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a duration: {reason}; write a number with a unit, like 90s, 10m or 1h30m")]
pub struct DurationError {
    text: String,
    reason: &'static str,
    too_long: bool,
}

/// Longest duration that is accepted: a hundred years, so that sums with timestamps stay in range.
const LONGEST: time::Duration = time::Duration::from_secs(100 * 365 * 24 * 3600);
const UNITS: [(&str, u64); 7] =
    [("ns", 1), ("us", 1_000), ("µs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000)];
const NANOS_PER_SECOND: u128 = 1_000_000_000;

impl Duration {
    /// A duration of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(time::Duration::from_secs(seconds))
    }

    /// The same length as the standard library's type.
    pub const fn as_std(self) -> time::Duration {
        self.0
    }

    /// Whether the length is zero.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<time::Duration> for Duration {
    fn from(duration: time::Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let refuse = |reason| DurationError { text: text.chars().take(64).collect(), reason, too_long: false };
        if text == "0" {
            return Ok(Self::from_secs(0));
        }
        if text.is_empty() {
            return Err(refuse("it is empty"));
        }
        if text.starts_with('-') {
            return Err(refuse("it is negative"));
        }
        let mut nanos: u128 = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(|| refuse("it has no unit"))?;
            let (number, tail) = rest.split_at(number_end);
            let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let scale = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| refuse("the unit is not one of ns, us, ms, s, m, h"))?.1;
            let part = scaled(number, u128::from(scale)).ok_or_else(|| refuse("the number is not one like 10 or 1.5"))?;
            nanos = nanos.saturating_add(part);
            rest = tail;
        }
        if nanos > LONGEST.as_nanos() {
            return Err(DurationError { too_long: true, ..refuse("it is longer than a hundred years") });
        }
        let seconds = u64::try_from(nanos / NANOS_PER_SECOND).map_err(|_| refuse("it is too long"))?;
        let subsecond = u32::try_from(nanos % NANOS_PER_SECOND).map_err(|_| refuse("it is too long"))?;
        Ok(Self(time::Duration::new(seconds, subsecond)))
    }
}

/// `number` (decimal digits, at most one point) times `scale`, rounded down.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() > 18 || fraction.len() > 18 {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let power = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    digits(whole)?.checked_mul(scale)?.checked_add(digits(fraction)?.checked_mul(scale)? / power)
}

impl fmt::Display for Duration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let nanos = self.0.subsec_nanos();
        if nanos != 0 && seconds == 0 {
            return match nanos {
                n if n % 1_000_000 == 0 => write!(out, "{}ms", n / 1_000_000),
                n if n % 1_000 == 0 => write!(out, "{}us", n / 1_000),
                n => write!(out, "{n}ns"),
            };
        }
        let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        if hours > 0 {
            write!(out, "{hours}h")?;
        }
        if minutes > 0 {
            write!(out, "{minutes}m")?;
        }
        if nanos != 0 {
            let fraction = format!("{nanos:09}");
            write!(out, "{rest}.{}s", fraction.trim_end_matches('0'))
        } else if rest > 0 || seconds == 0 {
            write!(out, "{rest}s")
        } else {
            Ok(())
        }
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Cow::<'de, str>::deserialize(deserializer)?.parse() {
            // The schema cannot refuse it, and an object that is stored must be readable.
            Err(DurationError { too_long: true, .. }) => Ok(Self(LONGEST)),
            read => read.map_err(de::Error::custom),
        }
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "pattern": "^(0|([0-9]{1,9}(\\.[0-9]{1,9})?(ns|us|µs|ms|s|m|h))+)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, nanos) in [
            ("0", 0u128),
            ("0s", 0),
            ("90s", 90 * NANOS_PER_SECOND),
            ("1h30m", 5400 * NANOS_PER_SECOND),
            ("1.5h", 5400 * NANOS_PER_SECOND),
            ("250ms", 250_000_000),
            ("1m0.5s", 60_500_000_000),
            ("3us", 3_000),
        ] {
            assert_eq!(text.parse::<Duration>().unwrap().as_std().as_nanos(), nanos, "{text}");
        }
    }

    #[test]
    fn whatever_the_schema_lets_in_can_be_read() {
        assert_eq!(serde_json::from_str::<Duration>("\"999999999h\"").unwrap(), Duration(LONGEST));
    }

    #[test]
    fn refuses_with_words() {
        for text in ["", "5", "-5s", "5 s", "h", "1d", ".s", "1.2.3s", "99999999999999999999h", "999999999h"] {
            let error = text.parse::<Duration>().unwrap_err().to_string();
            assert!(error.contains("is not a duration") && error.contains("like 90s"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn prints_what_it_reads(nanos in 0u64..(1 << 61)) {
            let duration = Duration(time::Duration::from_nanos(nanos));
            prop_assert_eq!(duration.to_string().parse::<Duration>().unwrap(), duration);
        }

        #[test]
        fn never_panics(text in "\\PC{0,24}") {
            let _ = text.parse::<Duration>();
        }
    }
}
