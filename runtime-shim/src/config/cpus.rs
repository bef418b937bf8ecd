//! Number of the guest's vCPUs.

use std::num::NonZeroU8;
use std::str::FromStr;

use serde::Deserialize;

/// As many vCPUs as the guest kernel is built for.
const MAX: u8 = 64;

/// How many vCPUs a guest gets: 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub(crate) struct Cpus(NonZeroU8);

/// A number of vCPUs that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no number of vCPUs: say 1 to {MAX}")]
pub(crate) struct CpusError(String);

impl Cpus {
    /// The largest number.
    pub(crate) const MOST: u8 = MAX;

    /// The number.
    pub(crate) fn count(self) -> NonZeroU8 {
        self.0
    }
}

impl Default for Cpus {
    fn default() -> Self {
        Self(NonZeroU8::MIN)
    }
}

impl TryFrom<i64> for Cpus {
    type Error = CpusError;

    fn try_from(number: i64) -> Result<Self, CpusError> {
        match u8::try_from(number).ok().and_then(NonZeroU8::new) {
            Some(count) if count.get() <= MAX => Ok(Self(count)),
            _ => Err(CpusError(number.to_string())),
        }
    }
}

impl FromStr for Cpus {
    type Err = CpusError;

    fn from_str(text: &str) -> Result<Self, CpusError> {
        text.parse::<i64>().map_err(|_not_a_number| CpusError(format!("`{text}`")))?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_to_sixty_four() {
        for number in [1, 2, 64] {
            assert_eq!(number.to_string().parse::<Cpus>().map(|c| i64::from(c.count().get())), Ok(number));
        }
        for text in ["0", "65", "-1", "300", "two", ""] {
            assert!(text.parse::<Cpus>().unwrap_err().to_string().ends_with("say 1 to 64"), "{text}");
        }
    }
}
