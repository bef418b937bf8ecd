//! Giving a container what it has of the host's network: devices of the guest go into its network namespace, and are
//! configured there. The agent does it, not the container's init, which may have no right to the guest's devices.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::PoisonError;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::Pid;

use crate::container::Container;
use crate::container::status::Status;
use crate::failure::{Failure, FailureKind};
use crate::resolver::{Resolver, Serving};
use crate::sys::namespaces::within_network;
use crate::sys::netlink::{Move, Netlink};

/// Of a device that no container has; the kernel puts a number in place of `%d`.
const SPARE: &str = "spare%d";

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
    /// By which the device is found.
    pub device_mac: [u8; 6],
    /// Its address in the container.
    pub mac: [u8; 6],
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its MTU.
    pub mtu: u32,
    /// Files in its directory of /proc/sys/net/ipv6/conf, and what they say.
    pub ipv6: Vec<(String, u32)>,
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
        self.bring_to(namespace.as_fd())?;
        self.serve_resolver(namespace.as_fd())
    }

    /// Takes interfaces from the network namespace of the process `pid`, and gives it these.
    ///
    /// # Errors
    ///
    /// As [`Network::give_to`]; what comes after has not been done.
    pub fn replace(&self, removed: &[Interface], pid: Pid) -> Result<Option<Serving>, Failure> {
        let namespace = namespace_of(pid).map_err(failed("cannot open the container's network namespace"))?;
        let there = netlink_in(namespace.as_fd())?;
        let own = namespace_of(rustix::process::getpid())
            .map_err(failed("cannot open the agent's network namespace"))?;
        for interface in removed {
            interface
                .return_to(own.as_fd(), &there)
                .map_err(failed(&format!("cannot take the network interface {:?}", interface.name)))?;
        }
        self.bring_to(namespace.as_fd())?;
        self.serve_resolver(namespace.as_fd())
    }

    fn serve_resolver(&self, namespace: BorrowedFd<'_>) -> Result<Option<Serving>, Failure> {
        let serving = self.resolver.as_ref().map(|resolver| resolver.serve(namespace)).transpose();
        serving.map_err(failed("cannot listen for the host's name server"))
    }

    fn bring_to(&self, namespace: BorrowedFd<'_>) -> Result<(), Failure> {
        let here = Netlink::open().map_err(failed("cannot open a netlink socket"))?;
        for interface in &self.interfaces {
            interface
                .move_to(namespace, &here)
                .map_err(failed(&format!("cannot make the network interface {:?}", interface.name)))?;
        }
        let there = netlink_in(namespace)?;
        for (number, request) in self.requests.iter().enumerate() {
            let kind = request.get(4..6).map_or(0, |kind| u16::from_ne_bytes([kind[0], kind[1]]));
            match there.execute(request) {
                // The container may have been quicker, or the kernel, which takes with an address what depends on it.
                Err(error) if is_removal(kind) && is_absence(&error) => {}
                other => other.map_err(failed(&format!(
                    "cannot configure the network: request {number}, of the type {kind} of rtnetlink(7)"
                )))?,
            }
        }
        Ok(())
    }
}

impl Container {
    /// Takes interfaces from it, and gives it others.
    ///
    /// # Errors
    ///
    /// As [`Network::replace`], or that it has ended.
    pub fn change_network(&self, network: &Network, removed: &[Interface]) -> Result<(), Failure> {
        if self.status() == Status::Stopped {
            let message = format!("container {:?}, whose network is to be changed, has ended", self.id);
            return Err(Failure::new(FailureKind::InvalidRequest, message));
        }
        if let Some(serving) = network.replace(removed, self.init.pid())? {
            *self.resolver.lock().unwrap_or_else(PoisonError::into_inner) = Some(serving);
        }
        Ok(())
    }
}

impl Interface {
    fn move_to(&self, namespace: BorrowedFd<'_>, here: &Netlink) -> io::Result<()> {
        let found = here.find(self.device_mac)?;
        let index = found.ok_or_else(|| io::Error::other("the guest has no device of that address"))?;
        let (name, new_index, mtu) = (self.name.as_str(), Some(self.index), self.mtu);
        let address = Some(self.mac).filter(|mac| *mac != self.device_mac);
        here.move_link(&Move { index, namespace, name, new_index, address, mtu })?;
        within_network(namespace, || self.set_ipv6())?
    }

    /// Before it has an address, in the namespace that it is in.
    fn set_ipv6(&self) -> io::Result<()> {
        for (file, value) in &self.ipv6 {
            let path = format!("/proc/sys/net/ipv6/conf/{}/{file}", self.name);
            match std::fs::write(path, value.to_string()) {
                // The guest's kernel has no IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Makes it the guest's device again.
    fn return_to(&self, namespace: BorrowedFd<'_>, there: &Netlink) -> io::Result<()> {
        let address = Some(self.device_mac).filter(|mac| *mac != self.mac);
        let (index, name, mtu) = (self.index, SPARE, self.mtu);
        there.move_link(&Move { index, namespace, name, new_index: None, address, mtu })
    }
}

fn is_removal(kind: u16) -> bool {
    matches!(kind, libc::RTM_DELADDR | libc::RTM_DELROUTE | libc::RTM_DELNEIGH | libc::RTM_DELRULE)
}

/// What the kernel says of an address, a route, a neighbour or a rule that is not there, or of one's interface.
fn is_absence(error: &io::Error) -> bool {
    let codes = [libc::EADDRNOTAVAIL, libc::ESRCH, libc::ENOENT, libc::ENODEV];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

fn netlink_in(namespace: BorrowedFd<'_>) -> Result<Netlink, Failure> {
    within_network(namespace, Netlink::open)
        .and_then(|socket| socket)
        .map_err(failed("cannot enter the container's network namespace"))
}

fn namespace_of(pid: Pid) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat(CWD, format!("/proc/{}/ns/net", pid.as_raw_nonzero()), flags, Mode::empty())?)
}

fn failed(act: &str) -> impl FnOnce(io::Error) -> Failure + use<> {
    let act = act.to_owned();
    move |error| Failure::new(FailureKind::System, format!("{act}: {error}"))
}
