//! Giving a container what it has of the host's network: devices of the guest go into its network namespace, and are
//! configured there. The agent does it, not the container's init, which may have no right to the guest's devices.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::Pid;

use crate::failure::{Failure, FailureKind};
use crate::resolver::{Resolver, Serving};
use crate::sys::namespaces::within_network;
use crate::sys::netlink::{Move, Netlink};

/// What a container gets, checked.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Devices of the guest.
    pub interfaces: Vec<Interface>,
    /// Whole requests of rtnetlink(7).
    pub requests: Vec<Vec<u8>>,
    /// A name server of the host.
    pub resolver: Option<Resolver>,
}

/// A device, and what it becomes.
#[derive(Clone, Debug)]
pub struct Interface {
    /// By which it is found.
    pub mac: [u8; 6],
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its MTU.
    pub mtu: u32,
}

impl Network {
    /// Whether there is nothing to give.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.interfaces.is_empty()
    }

    /// Gives all of it to the network namespace of the process `pid`.
    ///
    /// # Errors
    ///
    /// A [`Failure`] that names the interface or the request.
    pub fn give_to(&self, pid: Pid) -> Result<Option<Serving>, Failure> {
        if self.is_empty() {
            return Ok(None);
        }
        let namespace = namespace_of(pid).map_err(failed("cannot open the container's network namespace"))?;
        let here = Netlink::open().map_err(failed("cannot open a netlink socket"))?;
        for interface in &self.interfaces {
            interface
                .move_to(namespace.as_fd(), &here)
                .map_err(failed(&format!("cannot make the network interface {:?}", interface.name)))?;
        }
        let there = within_network(namespace.as_fd(), Netlink::open)
            .and_then(|socket| socket)
            .map_err(failed("cannot enter the container's network namespace"))?;
        for (number, request) in self.requests.iter().enumerate() {
            let kind = request.get(4..6).map_or(0, |kind| u16::from_ne_bytes([kind[0], kind[1]]));
            there.execute(request).map_err(failed(&format!(
                "cannot configure the network: request {number}, of the type {kind} of rtnetlink(7)"
            )))?;
        }
        let serving = self.resolver.as_ref().map(|resolver| resolver.serve(namespace.as_fd())).transpose();
        serving.map_err(failed("cannot listen for the host's name server"))
    }
}

impl Interface {
    fn move_to(&self, namespace: BorrowedFd<'_>, here: &Netlink) -> io::Result<()> {
        let found = here.find(self.mac)?;
        let index = found.ok_or_else(|| io::Error::other("the guest has no device of that address"))?;
        let (name, new_index, mtu) = (self.name.as_str(), self.index, self.mtu);
        here.move_link(&Move { index, namespace, name, new_index, mtu })
    }
}

fn namespace_of(pid: Pid) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat(CWD, format!("/proc/{}/ns/net", pid.as_raw_nonzero()), flags, Mode::empty())?)
}

fn failed(act: &str) -> impl FnOnce(io::Error) -> Failure + use<> {
    let act = act.to_owned();
    move |error| Failure::new(FailureKind::System, format!("{act}: {error}"))
}
