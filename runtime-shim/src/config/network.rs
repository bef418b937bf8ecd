//! `[network]`

use serde::Deserialize;

use super::RateLimit;

/// Most spare interfaces: a machine has room for so many besides its first.
const MOST_SPARE: u8 = 2;

/// Networks of engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NetworkOptions {
    /// Devices of a machine on a network for interfaces that come while it runs.
    pub(crate) spare_interfaces: u8,
    /// What each interface may bring to the guest.
    pub(crate) receive_limit: RateLimit,
    /// What the guest may send by each.
    pub(crate) send_limit: RateLimit,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self { spare_interfaces: 1, receive_limit: RateLimit::default(), send_limit: RateLimit::default() }
    }
}

impl NetworkOptions {
    /// What cannot be.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.spare_interfaces > MOST_SPARE {
            return Err("network.spare_interfaces must be 0, 1 or 2");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_spare_interface_and_at_most_two() {
        let parse = |text| toml::from_str::<NetworkOptions>(text);
        assert_eq!(parse("").unwrap().spare_interfaces, 1);
        assert!(parse("spare_interfaces = 2").unwrap().check().is_ok());
        assert!(parse("spare_interfaces = 3").unwrap().check().is_err());
        assert!(parse("spare = 1").is_err());
    }
}
