//! The container's network: each interface that an engine or a hook has put into the container's network namespace is
//! joined to a tap there, whose other end is a network device of the guest, which takes over its name, address and routes.
//!
//! ```text
//!   host's namespace     container's namespace                  guest
//!   veth1234 <=========> eth0 <-- redirect --> runv0 <-- device --> eth0
//! ```
//!
//! The interface stays where it is, with its addresses: engines count its bytes and take it away. But what arrives there is
//! the guest's. [`survey`] sees what is there, [`tap`] and [`redirect`] make the way, the agent makes the guest's
//! half of it. All of it goes with the descriptors that [`Network`] and the device process hold.

mod live;
mod netlink;
mod nf_tables;
mod redirect;
pub(crate) mod resolver;
mod survey;
mod tap;
pub(crate) mod vhost;

use std::io;
use std::num::NonZeroU8;

use agent_protocol::agent as proto;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::config::NetworkOptions;
use crate::report;
use crate::sandbox::devices::NetworkDevice;
use live::Slot;
pub(crate) use live::{Live, Watched};
use redirect::{Passage, Redirect};
use survey::Link;
use tap::Tap;

/// The network could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// Looking at it.
    #[error("cannot look at the interfaces of the container's network namespace")]
    Survey(#[source] io::Error),
    /// A tap.
    #[error("cannot make a tap for the interface {interface}")]
    Tap {
        /// The interface that it is for.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host's kernel is to move frames.
    #[error(
        "cannot open {}; load the module vhost_net, or set network.vhost of the configuration to \"auto\" or \"off\"",
        vhost::PATH
    )]
    Vhost(#[source] io::Error),
    /// The way between them.
    #[error(
        "cannot join the interfaces of the container's network namespace to the guest (nf_tables, `fwd`, `dup` for a resolver, and `limit` for limits)"
    )]
    Redirect(#[source] io::Error),
    /// The engine's name server.
    #[error("cannot connect the guest to the resolver in the container's network namespace")]
    Resolver(#[source] io::Error),
    /// Only one machine can have an interface.
    #[error("the interfaces of the container's network namespace are those of another sandbox")]
    Taken,
}

/// The way between a network namespace and a guest. It goes when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// For the machine.
    pub(crate) devices: Vec<NetworkDevice>,
    /// For the agent.
    pub(crate) configuration: proto::Network,
    /// To be kept for as long as the machine lives.
    pub(crate) live: Option<Live>,
}

/// Pairs of queues of a device: as many as vCPUs, up to this.
const MOST_QUEUE_PAIRS: NonZeroU8 = NonZeroU8::new(8).unwrap();

/// With spare ones; what a machine has room for besides its other devices.
const MOST_DEVICES: usize = 3;

/// Whether hooks may still put interfaces into the network namespace of a container, once that is there.
pub(crate) fn may_come_with_hooks(spec: &Spec) -> bool {
    let Some(hooks) = spec.hooks() else { return false };
    #[allow(deprecated, reason = "engines still use prestart")]
    let lists = [hooks.prestart(), hooks.create_runtime(), hooks.create_container()];
    lists.iter().any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
}

/// Its network namespace belongs to it, so that engines can make the network only once `create` has made both.
fn has_user_namespace(spec: &Spec) -> bool {
    let namespaces = spec.linux().iter().filter_map(|linux| linux.namespaces().as_ref()).flatten();
    namespaces.into_iter().any(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

impl Network {
    /// Takes over the interfaces of the calling thread's network namespace, which is that of the container of `spec`. The
    /// machine may get devices for interfaces that come later, too. A namespace without an interface needs nothing of
    /// the host, so that where there is not what networks take, none can come later; that is all.
    pub(crate) fn take(options: NetworkOptions, spec: &Spec, cpus: NonZeroU8) -> Result<Self, NetworkError> {
        let queues = cpus.min(MOST_QUEUE_PAIRS);
        let links = survey::links().map_err(NetworkError::Survey)?;
        if !links.is_empty() {
            return Self::of(links, options.spare_interfaces(true), options, queues);
        }
        let spare = options.spare_interfaces(has_user_namespace(spec));
        if spare == 0 {
            return Ok(Self::default());
        }
        match Self::of(links, spare, options, queues) {
            Err(error) if !matches!(error, NetworkError::Vhost(_)) => {
                tracing::debug!(error = report::chain(&error), "no interface can come later");
                Ok(Self::default())
            }
            other => other,
        }
    }

    fn of(
        links: Vec<Link>,
        spare: usize,
        options: NetworkOptions,
        queues: NonZeroU8,
    ) -> Result<Self, NetworkError> {
        let requests = survey::requests(&links).map_err(NetworkError::Survey)?;
        let mut taps = Vec::new();
        for link in &links {
            taps.push(Tap::new(queues).map_err(no_tap(&link.name))?);
        }
        let has_resolver = !links.is_empty() && resolver::is_there().map_err(NetworkError::Resolver)?;
        if has_resolver {
            resolver::set_ports_apart().map_err(NetworkError::Resolver)?;
        }
        let NetworkOptions { receive_limit, send_limit, .. } = options;
        let redirect = join(&links, &taps, Passage { has_resolver, receive_limit, send_limit })?;
        for (link, tap) in links.iter().zip(&taps) {
            tap::bring_up(tap.index, link.mtu).map_err(no_tap(&link.name))?;
        }
        let interface = |link: &Link| proto::NetworkInterface {
            mac: link.mac.to_vec(),
            name: link.name.clone(),
            index: link.index,
            mtu: link.mtu,
            ipv6: survey::ipv6_settings(&link.name),
            ..Default::default()
        };
        let configuration = proto::Network {
            interfaces: links.iter().map(interface).collect(),
            requests,
            resolver: has_resolver.then(resolver::configuration).into(),
            ..Default::default()
        };
        let mut slots: Vec<_> = links.iter().zip(&taps).map(|(link, tap)| Slot::of(link, tap)).collect();
        for number in 0..spare.min(MOST_DEVICES.saturating_sub(links.len())) {
            let tap = Tap::new(queues).map_err(no_tap("that may come"))?;
            slots.push(Slot::spare(number, &tap));
            taps.push(tap);
        }
        let mut devices = Vec::new();
        for (slot, tap) in slots.iter().zip(taps) {
            let vhost = vhost::open(options.vhost, tap.queues.len()).map_err(NetworkError::Vhost)?;
            devices.push(NetworkDevice { mac: slot.device_mac, tap: tap.queues, vhost });
        }
        let live = Live::new(redirect, slots, links, &configuration.requests);
        Ok(Self { devices, configuration, live: Some(live) })
    }
}

fn no_tap(interface: &str) -> impl FnOnce(io::Error) -> NetworkError + use<> {
    let interface = interface.to_owned();
    move |source| NetworkError::Tap { interface, source }
}

fn join(links: &[Link], taps: &[Tap], passage: Passage) -> Result<Redirect, NetworkError> {
    let pair =
        |(link, tap): (&'_ Link, &'_ Tap)| [(link.name.clone(), link.index), (tap.name.clone(), tap.index)];
    let pairs: Vec<_> = links.iter().zip(taps).map(pair).collect();
    let mut redirect = Redirect::new(passage).map_err(NetworkError::Redirect)?;
    if !pairs.is_empty() {
        redirect.join(&pairs).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::PermissionDenied => NetworkError::Taken,
            _ => NetworkError::Redirect(source),
        })?;
    }
    Ok(redirect)
}
