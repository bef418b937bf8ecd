//! What a container has of the host's network, checked.

use agent_protocol::agent;

use super::{RequestError, invalid};
use crate::container::network::{Interface, Network};
use crate::sys::netlink::is_request;

/// `IFNAMSIZ` without the end of the text.
const LONGEST_NAME: usize = 15;

pub(super) fn network(network: agent::Network, is_own: bool) -> Result<Network, RequestError> {
    if !network.interfaces.is_empty() && !is_own {
        return Err(invalid("network", "", "it needs a new network namespace"));
    }
    let interfaces = network.interfaces.into_iter().map(interface).collect::<Result<_, _>>()?;
    if !network.requests.iter().all(|request| is_request(request)) {
        return Err(invalid("network", "", "its requests must be whole and ask for acknowledgements"));
    }
    Ok(Network { interfaces, requests: network.requests })
}

fn interface(interface: agent::NetworkInterface) -> Result<Interface, RequestError> {
    let agent::NetworkInterface { name, index, mtu, mac, .. } = interface;
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    let is_name = (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(allowed);
    match <[u8; 6]>::try_from(mac) {
        Ok(mac) if is_name && index > 1 => Ok(Interface { mac, name, index, mtu }),
        _ => Err(invalid("network interface", &name, "its name, number or address cannot be")),
    }
}
