//! How much an interface may carry one way.

use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Above it, the kernel's arithmetic (nanoseconds times bytes, in 64 bits) would overflow.
const MOST_BYTES: u64 = 12 << 30;

/// Above it, the kernel's nanoseconds for one packet are too coarse.
const MOST_PACKETS: u64 = 100_000_000;

/// A frame that the kernel is yet to cut, which passes as a whole or never.
const LARGEST_FRAME: u64 = 64 << 10;

/// Packets, where nobody says: a burst of them is nothing unusual.
const FEW_PACKETS: u64 = 64;

/// What exceeds it is dropped. Nothing is limited unless it is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "Keys")]
pub(crate) struct RateLimit {
    /// Whole frames, with their headers.
    pub(crate) bytes: Option<Rate>,
    /// Frames; one that the kernel is yet to cut into packets counts as one.
    pub(crate) packets: Option<Rate>,
}

/// So much in a second, and so much more at once after a time of rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// In each second.
    pub(crate) per_second: u64,
    /// At once.
    pub(crate) burst: u32,
}

/// As it is written.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Keys {
    bytes_per_second: Option<Amount>,
    burst_bytes: Option<Amount>,
    packets_per_second: Option<Amount>,
    burst_packets: Option<Amount>,
}

/// Keys that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RateLimitError {
    /// Of an annotation, whose keys nobody else reads.
    #[error("`{0}` is none of bytes_per_second=N, burst_bytes=N, packets_per_second=N and burst_packets=N")]
    Key(String),
    /// No number.
    #[error("{0}: {1}")]
    Amount(&'static str, AmountError),
    /// Out of bounds.
    #[error("{key} is {value}: say {least} to {most}")]
    Bounds {
        /// Which.
        key: &'static str,
        /// What it says.
        value: u64,
        /// The bounds.
        least: u64,
        /// The bounds.
        most: u64,
    },
    /// A burst of what is not limited.
    #[error("{0} needs {1}")]
    Alone(&'static str, &'static str),
}

impl TryFrom<Keys> for RateLimit {
    type Error = RateLimitError;

    fn try_from(keys: Keys) -> Result<Self, RateLimitError> {
        Ok(Self {
            bytes: rate(
                ("bytes_per_second", keys.bytes_per_second, MOST_BYTES),
                ("burst_bytes", keys.burst_bytes, LARGEST_FRAME, LARGEST_FRAME),
            )?,
            packets: rate(
                ("packets_per_second", keys.packets_per_second, MOST_PACKETS),
                ("burst_packets", keys.burst_packets, 1, FEW_PACKETS),
            )?,
        })
    }
}

type Bounded = (&'static str, Option<Amount>, u64);
type Burst = (&'static str, Option<Amount>, u64, u64);

fn rate(
    (key, per_second, most): Bounded,
    (burst_key, burst, least, default): Burst,
) -> Result<Option<Rate>, RateLimitError> {
    let within = |key, value: u64, least, most| {
        let is_within = (least..=most).contains(&value);
        is_within.then_some(value).ok_or(RateLimitError::Bounds { key, value, least, most })
    };
    let Some(Amount(per_second)) = per_second else {
        return burst.map_or(Ok(None), |_| Err(RateLimitError::Alone(burst_key, key)));
    };
    let per_second = within(key, per_second, 1, most)?;
    let most = u64::from(u32::MAX);
    let burst = within(burst_key, burst.map_or(default, |Amount(burst)| burst), least, most)?;
    let burst = u32::try_from(burst).unwrap_or(u32::MAX);
    Ok(Some(Rate { per_second, burst }))
}

/// The same keys, as an annotation has them: `bytes_per_second=10M,burst_bytes=1M`.
impl FromStr for RateLimit {
    type Err = RateLimitError;

    fn from_str(text: &str) -> Result<Self, RateLimitError> {
        let mut keys = Keys::default();
        for item in text.split(',') {
            let unknown = || RateLimitError::Key(item.to_owned());
            let (key, value) = item.split_once('=').ok_or_else(unknown)?;
            let (key, place) = match key {
                "bytes_per_second" => ("bytes_per_second", &mut keys.bytes_per_second),
                "burst_bytes" => ("burst_bytes", &mut keys.burst_bytes),
                "packets_per_second" => ("packets_per_second", &mut keys.packets_per_second),
                "burst_packets" => ("burst_packets", &mut keys.burst_packets),
                _ => return Err(unknown()),
            };
            if place.replace(value.parse().map_err(|error| RateLimitError::Amount(key, error))?).is_some() {
                return Err(unknown());
            }
        }
        keys.try_into()
    }
}

/// A number, or text with K, M or G, each of which is 1024 times the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Amount(u64);

/// Text that is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no amount: say a number, or a number with K, M or G")]
pub(crate) struct AmountError(String);

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let each: u64 = match text.get(digits.len()..) {
            Some("") => 1,
            Some("K") => 1 << 10,
            Some("M") => 1 << 20,
            Some("G") => 1 << 30,
            _ => return Err(AmountError(text.to_owned())),
        };
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse::<u64>().ok().filter(|_| is_number);
        number.and_then(|number| number.checked_mul(each)).map(Self).ok_or(AmountError(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrText)
    }
}

struct NumberOrText;

impl Visitor<'_> for NumberOrText {
    type Value = Amount;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number, or text with a suffix such as \"10M\"")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Amount, E> {
        u64::try_from(number).map(Amount).map_err(|_negative| E::custom(AmountError(number.to_string())))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Amount, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_ways(keys: &[(&str, &str)]) -> [Result<RateLimit, String>; 2] {
        let toml: String = keys.iter().map(|(key, value)| format!("{key} = \"{value}\"\n")).collect();
        let annotation: Vec<_> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let toml = toml::from_str(&toml).map_err(|error: toml::de::Error| error.message().to_owned());
        [toml, annotation.join(",").parse().map_err(|error: RateLimitError| error.to_string())]
    }

    #[test]
    fn rates_have_bursts_in_which_the_largest_frame_fits() {
        let expected = RateLimit {
            bytes: Some(Rate { per_second: 10 << 20, burst: 64 << 10 }),
            packets: Some(Rate { per_second: 1, burst: 10 }),
        };
        let keys = [("bytes_per_second", "10M"), ("packets_per_second", "1"), ("burst_packets", "10")];
        assert_eq!(both_ways(&keys), [Ok(expected), Ok(expected)]);
        let text = "bytes_per_second = 10485760\npackets_per_second = 1\nburst_packets = 10";
        assert_eq!(toml::from_str(text), Ok(expected));
        assert_eq!(toml::from_str(""), Ok(RateLimit::default()));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (keys, expected) in [
            (&[("bytes_per_second", "0")][..], "bytes_per_second is 0: say 1 to 12884901888"),
            (&[("bytes_per_second", "13G")], "bytes_per_second is 13958643712: say 1 to"),
            (&[("bytes_per_second", "1K"), ("burst_bytes", "1K")], "burst_bytes is 1024: say 65536 to"),
            (&[("bytes_per_second", "1K"), ("burst_bytes", "4G")], "burst_bytes is 4294967296: say"),
            (&[("packets_per_second", "101M")], "packets_per_second is 105906176: say 1 to 100000000"),
            (&[("packets_per_second", "1"), ("burst_packets", "0")], "burst_packets is 0: say 1 to"),
            (&[("burst_packets", "1")], "burst_packets needs packets_per_second"),
            (&[("burst_bytes", "1M")], "burst_bytes needs bytes_per_second"),
        ] {
            for error in both_ways(keys).map(Result::unwrap_err) {
                assert!(error.starts_with(expected), "{keys:?} gave {error:?}");
            }
        }
        for text in ["", "-1", "1.5", "K", "1k", "1 K", "1T", "99999999999999999999", "18446744073709551615K"]
        {
            for error in both_ways(&[("packets_per_second", text)]).map(Result::unwrap_err) {
                assert!(error.contains(&format!("`{text}` is no amount: say a number")), "{error:?}");
            }
        }
        for text in ["", "bytes_per_second", "bps=1", "packets_per_second=1,packets_per_second=2"] {
            assert!(text.parse::<RateLimit>().unwrap_err().to_string().contains("is none of"), "{text}");
        }
        assert!(toml::from_str::<RateLimit>("bps = 1").unwrap_err().message().contains("unknown field"));
    }
}
