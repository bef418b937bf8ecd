//! What a container has of the host's network, checked.

use std::net::Ipv4Addr;

use agent_protocol::agent;

use super::{RequestError, invalid};
use crate::container::network::{Interface, Network};
use crate::resolver::Resolver;
use crate::sys::netlink::{is_batch, is_request};

/// `IFNAMSIZ` without the end of the text.
const LONGEST_NAME: usize = 15;

/// What may be said of an interface's IPv6: files in /proc/sys/net/ipv6/conf.
const IPV6: [&str; 4] = ["disable_ipv6", "accept_ra", "autoconf", "accept_redirects"];

/// Interfaces, and what they were.
pub fn changed(
    network: agent::Network,
    removed: Vec<agent::NetworkInterface>,
) -> Result<(Network, Vec<Interface>), RequestError> {
    Ok((self::network(network, true)?, removed.into_iter().map(interface).collect::<Result<_, _>>()?))
}

pub(super) fn network(network: agent::Network, is_own: bool) -> Result<Network, RequestError> {
    if !network.interfaces.is_empty() && !is_own {
        return Err(invalid("network", "", "it needs a new network namespace"));
    }
    let interfaces = network.interfaces.into_iter().map(interface).collect::<Result<_, _>>()?;
    if !network.requests.iter().all(|request| is_request(request)) {
        return Err(invalid("network", "", "its requests must be whole and ask for acknowledgements"));
    }
    let resolver = network.resolver.into_option().map(resolver).transpose()?;
    Ok(Network { interfaces, requests: network.requests, resolver })
}

fn resolver(resolver: agent::Resolver) -> Result<Resolver, RequestError> {
    let agent::Resolver { address, port, listen_port, rules, stream_port, datagram_port, .. } = resolver;
    let address = <[u8; 4]>::try_from(address).map(Ipv4Addr::from).ok().filter(Ipv4Addr::is_loopback);
    match (address, u16::try_from(port), u16::try_from(listen_port)) {
        (Some(address), Ok(port @ 1..), Ok(listen_port @ 1..)) if is_batch(&rules) => {
            Ok(Resolver { address, port, listen_port, rules, stream_port, datagram_port })
        }
        _ => Err(invalid("network resolver", "", "its address, ports or rules cannot be")),
    }
}

fn interface(interface: agent::NetworkInterface) -> Result<Interface, RequestError> {
    let agent::NetworkInterface { name, index, mtu, mac, device_mac, ipv6, .. } = interface;
    if !ipv6.keys().all(|key| IPV6.contains(&key.as_str())) {
        return Err(invalid("network interface", &name, "it has an unknown setting of IPv6"));
    }
    let device_mac = if device_mac.is_empty() { mac.clone() } else { device_mac };
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    let is_name = (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(allowed);
    match (<[u8; 6]>::try_from(mac), <[u8; 6]>::try_from(device_mac)) {
        (Ok(mac), Ok(device_mac)) if is_name && index > 1 => {
            Ok(Interface { device_mac, mac, name, index, mtu, ipv6: ipv6.into_iter().collect() })
        }
        _ => Err(invalid("network interface", &name, "its name, number or address cannot be")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_ipv6_is_one_of_few_files() {
        let told = |key: &str| agent::NetworkInterface {
            mac: vec![2; 6],
            name: "eth0".into(),
            index: 7,
            ipv6: [(key.to_owned(), 0)].into(),
            ..Default::default()
        };
        assert_eq!(interface(told("accept_ra")).unwrap().ipv6, [("accept_ra".to_owned(), 0)]);
        assert!(interface(told("../all/forwarding")).is_err());
    }

    #[test]
    fn a_resolver_is_on_the_loopback_and_its_rules_are_a_batch() {
        // One empty message that asks for an acknowledgement.
        let rules = [&16u32.to_ne_bytes()[..], &[16, 0, 5, 0], &[0; 8]].concat();
        let good = agent::Resolver {
            address: vec![127, 0, 0, 11],
            port: 53,
            listen_port: 61_053,
            rules,
            stream_port: 1025,
            datagram_port: 1026,
            ..Default::default()
        };
        assert!(resolver(good.clone()).is_ok());
        let bad = [
            agent::Resolver { address: vec![10, 0, 0, 1], ..good.clone() },
            agent::Resolver { address: vec![127, 0, 0], ..good.clone() },
            agent::Resolver { port: 0, ..good.clone() },
            agent::Resolver { listen_port: 65_536, ..good.clone() },
            agent::Resolver { rules: Vec::new(), ..good },
        ];
        for resolver in bad {
            assert!(super::resolver(resolver.clone()).is_err(), "{resolver:?}");
        }
    }
}
