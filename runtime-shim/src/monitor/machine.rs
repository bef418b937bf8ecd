//! The machine of a container, with what it has of the host's network.

use std::time::Duration;

use agent_protocol::agent as proto;
use oci_spec::runtime::Spec;

use crate::failure::Failure;
use crate::network::{Live, Network, resolver};
use crate::sandbox::prepare::Prepared;
use crate::sandbox::start::Sandbox;

/// One that boots.
pub(crate) struct Machine {
    /// Its processes.
    pub(crate) sandbox: Sandbox,
    /// How long its guest may take to be ready.
    pub(crate) boot_timeout: Duration,
    /// For the agent.
    pub(crate) network: proto::Network,
    /// The way to the interfaces, to be kept for as long as it lives.
    pub(crate) live: Option<Live>,
}

/// Starts it with the interfaces of the calling thread's network namespace, if that is the container's own, and connects it to
/// an engine's name server there.
pub(crate) fn start(prepared: Prepared<'_>, spec: &Spec, is_own: bool) -> Result<Machine, Failure> {
    let Network { devices, configuration: network, live } =
        if is_own { Network::take(prepared.network(), spec, prepared.cpus())? } else { Network::default() };
    let (sandbox, boot_timeout) = prepared.start(devices)?;
    if network.resolver.is_some() {
        resolver::serve(&sandbox.directory)?;
    }
    Ok(Machine { sandbox, boot_timeout, network, live })
}
