//! Where in a guest a container is: how the agent names it, which folder of the share is its own, by which ports of the
//! host it reaches sockets, and whose namespaces it has. Pure.

use oci_spec::runtime::LinuxNamespaceType;
use serde::{Deserialize, Serialize};

/// The container for which a machine was made.
pub(crate) const OWNER: &str = "sandbox";

/// The vsock port of the owner's first mount; the n-th has the n-th after it.
const FIRST_PORT: u32 = 4096;

/// Ports for each container: the agent takes no more mounts.
const PORTS: u32 = 4096;

/// Containers that may come into one machine in its life.
pub(crate) const MOST_MEMBERS: u32 = u32::MAX / PORTS - 2;

/// Namespaces of other containers of the same guest, by the agent's names for those.
pub(crate) type Joined = Vec<(LinuxNamespaceType, String)>;

/// A container's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// 0 for the container for which the machine was made, then as they come.
    pub(crate) number: u32,
    /// Namespaces that are not its own.
    pub(crate) joined: Joined,
}

impl Place {
    /// That of the container for which the machine is made.
    pub(crate) fn of_owner() -> Self {
        Self { number: 0, joined: Joined::new() }
    }

    /// As the agent names it.
    pub(crate) fn container_id(&self) -> String {
        container_id(self.number)
    }

    /// A place in the share, given what it is in a share of its own.
    pub(crate) fn in_share(&self, path: &str) -> String {
        match self.number {
            0 => path.to_owned(),
            number => format!("{}/{path}", share_of_member(number)),
        }
    }

    /// The ports of its mounts.
    pub(crate) fn ports(&self) -> std::ops::Range<u32> {
        ports(self.number)
    }
}

/// As the agent names the container with this number.
pub(crate) fn container_id(number: u32) -> String {
    if number == 0 { OWNER.to_owned() } else { format!("member-{number}") }
}

/// Its folder of the share.
pub(crate) fn share_of_member(number: u32) -> String {
    format!("members/{number}")
}

/// The ports of its mounts.
pub(crate) fn ports(number: u32) -> std::ops::Range<u32> {
    let first = FIRST_PORT.saturating_add(number.saturating_mul(PORTS));
    first..first.saturating_add(PORTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_containers_share_a_name_a_folder_or_a_port() {
        let owner = Place::of_owner();
        let member = |number| Place { number, joined: Joined::new() };
        assert_eq!((owner.container_id().as_str(), owner.in_share("rootfs").as_str()), ("sandbox", "rootfs"));
        assert_eq!(member(2).container_id(), "member-2");
        assert_eq!(member(2).in_share("mounts/3"), "members/2/mounts/3");
        assert_eq!((owner.ports().start, owner.ports().end), (4096, member(1).ports().start));
        assert_eq!(member(1).ports().end, member(2).ports().start);
        assert!(member(MOST_MEMBERS).ports().len() == 4096);
    }
}
