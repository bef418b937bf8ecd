//! Size of the guest's memory.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use vmm::config::MIN_MEMORY_MIB;

/// What a guest gets when nobody says otherwise. Enough for shells, package managers and small services;
/// the host only pays for pages that the guest has touched, but the guest's kernel sets up its bookkeeping
/// of all of them at boot, so that more would make every start slower.
const DEFAULT_MIB: u32 = 256;

/// Largest size that drivers are tested with in one piece: 1 TiB.
pub(crate) const MAX_MIB: u64 = 1 << 20;

/// Guest memory, a whole number of MiB. Without a suffix, text and numbers are MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemorySize {
    mib: u32,
}

/// Text that is no size of memory.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MemorySizeError {
    /// Not a number with an optional suffix.
    #[error("`{0}` is no size: say a number of MiB, or a number with K, M or G, e.g. 512M")]
    Syntax(String),
    /// Below what the guest kernel needs.
    #[error("{0} is too little memory: the guest needs at least {MIN_MEMORY_MIB}M")]
    TooSmall(String),
    /// Above what can be.
    #[error("{0} is too much memory: at most {max}G", max = MAX_MIB >> 10)]
    TooLarge(String),
}

impl MemorySize {
    /// In MiB.
    pub(crate) fn mib(self) -> u32 {
        self.mib
    }

    fn of_kib(kib: Option<u64>, text: &str) -> Result<Self, MemorySizeError> {
        let mib = kib.ok_or_else(|| MemorySizeError::TooLarge(text.into()))? >> 10;
        if mib < u64::from(MIN_MEMORY_MIB) {
            return Err(MemorySizeError::TooSmall(text.into()));
        }
        match u32::try_from(mib) {
            Ok(small) if mib <= MAX_MIB => Ok(Self { mib: small }),
            _ => Err(MemorySizeError::TooLarge(text.into())),
        }
    }
}

/// The digits, and how many KiB each of what follows them is.
fn split(text: &str) -> Option<(&str, u64)> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let suffix = text.get(digits.len()..).unwrap_or_default();
    let kib_each = match suffix.to_ascii_lowercase().as_str() {
        "k" | "kib" => 1,
        "" | "m" | "mib" => 1 << 10,
        "g" | "gib" => 1 << 20,
        _ => return None,
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then_some((digits, kib_each))
}

/// The size that `text` says, in KiB, if it says one and it is not beyond all bounds.
pub(super) fn kib_of(text: &str) -> Option<u64> {
    let (digits, kib_each) = split(text)?;
    digits.parse::<u64>().ok()?.checked_mul(kib_each)
}

impl Default for MemorySize {
    fn default() -> Self {
        Self { mib: DEFAULT_MIB }
    }
}

impl FromStr for MemorySize {
    type Err = MemorySizeError;

    fn from_str(text: &str) -> Result<Self, MemorySizeError> {
        if split(text).is_none() {
            return Err(MemorySizeError::Syntax(text.into()));
        }
        // What has the form and yet is no size is too long.
        Self::of_kib(kib_of(text), text)
    }
}

impl<'de> Deserialize<'de> for MemorySize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrText)
    }
}

/// `memory = 512` and `memory = "512M"` both read well.
struct NumberOrText;

impl Visitor<'_> for NumberOrText {
    type Value = MemorySize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of MiB, or text with a suffix such as \"512M\"")
    }

    fn visit_i64<E: Error>(self, mib: i64) -> Result<MemorySize, E> {
        let kib = u64::try_from(mib).unwrap_or(0).checked_mul(1 << 10);
        MemorySize::of_kib(kib, &mib.to_string()).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<MemorySize, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_and_without_suffix() {
        for (text, mib) in [
            ("512", 512),
            ("512M", 512),
            ("512m", 512),
            ("64MiB", 64),
            ("2G", 2048),
            ("131072K", 128),
            ("65537K", 64),
        ] {
            assert_eq!(text.parse::<MemorySize>().map(MemorySize::mib), Ok(mib), "{text}");
        }
    }

    #[test]
    fn bad_sizes_say_why() {
        use MemorySizeError::{Syntax, TooLarge, TooSmall};
        for text in ["", "M", "1.5G", "-1", "12X", "0x10", "1 G", "G1", "5T", "１２８"] {
            assert_eq!(text.parse::<MemorySize>(), Err(Syntax(text.into())), "{text}");
        }
        for text in ["0", "63", "1K"] {
            assert_eq!(text.parse::<MemorySize>(), Err(TooSmall(text.into())), "{text}");
        }
        for text in ["1025G", "99999999999999999999", "18446744073709551615G"] {
            assert_eq!(text.parse::<MemorySize>(), Err(TooLarge(text.into())), "{text}");
        }
    }
}
