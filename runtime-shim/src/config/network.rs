//! `[network]`

use serde::Deserialize;

use super::RateLimit;

/// Most spare interfaces: a machine has room for so many besides its first.
const MOST_SPARE: u8 = 2;

/// Networks of engines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NetworkOptions {
    /// Devices of a machine for interfaces that come while it runs.
    pub(crate) spare_interfaces: Option<u8>,
    /// Whether the host's kernel moves the frames.
    pub(crate) vhost: Vhost,
    /// What each interface may bring to the guest.
    pub(crate) receive_limit: RateLimit,
    /// What the guest may send by each.
    pub(crate) send_limit: RateLimit,
}

/// Who moves frames between a guest and its taps: with vhost-net, the host's kernel, which then reads what the guest has
/// written into its rings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Vhost {
    /// The device process.
    #[default]
    Off,
    /// The host's kernel where it can, the device process elsewhere.
    Auto,
    /// The host's kernel.
    On,
}

impl NetworkOptions {
    /// How many there are. Each makes a boot a little longer, so that there is none unless somebody may be about to need
    /// it: a machine that `is_on_a_network`, or whose network is yet to be made.
    pub(crate) fn spare_interfaces(&self, is_on_a_network: bool) -> usize {
        self.spare_interfaces.unwrap_or_else(|| is_on_a_network.into()).into()
    }

    /// What cannot be.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.spare_interfaces.is_some_and(|number| number > MOST_SPARE) {
            return Err("network.spare_interfaces must be 0, 1 or 2");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_on_a_network_has_one_spare_interface_and_at_most_two() {
        let parse = |text| toml::from_str::<NetworkOptions>(text);
        let number = |text, is_on_a_network| parse(text).unwrap().spare_interfaces(is_on_a_network);
        assert_eq!((number("", true), number("", false)), (1, 0));
        assert_eq!((number("spare_interfaces = 0", true), number("spare_interfaces = 2", false)), (0, 2));
        assert!(parse("spare_interfaces = 2").unwrap().check().is_ok());
        assert!(parse("spare_interfaces = 3").unwrap().check().is_err());
        assert!(parse("spare = 1").is_err());
    }

    #[test]
    fn the_hosts_kernel_moves_frames_only_where_the_administrator_says_so() {
        let parse = |text| toml::from_str::<NetworkOptions>(text).map(|options| options.vhost).ok();
        assert_eq!((parse(""), parse("vhost = \"auto\"")), (Some(Vhost::Off), Some(Vhost::Auto)));
        assert_eq!((parse("vhost = \"on\""), parse("vhost = true")), (Some(Vhost::On), None));
    }
}
