//! The network of a container that runs: interfaces that come into its network namespace get a spare device of the guest,
//! those that go give theirs back, and so do addresses, routes, rules and neighbours.
//!
//! A thread of the monitor, in the namespace, waits for rtnetlink(7) to tell of changes, and looks at all of it again: what is
//! there no more goes in the guest too. With an address, a kernel takes what depends on it, and who puts the address back puts
//! that back as well; so where something has gone, what is there is made once more.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{self, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use agent_protocol::AGENT_PORT;
use agent_protocol::agent as proto;
use rustix::event::Timespec;

use super::NetworkError;
use super::netlink::Socket;
use super::redirect::Redirect;
use super::resolver;
use super::survey::{self, Link};
use super::tap::{self, Tap};
use crate::control::agent::{Agent, CallError};
use crate::io::poll::readable_within;
use crate::report;
use crate::sandbox::directory::SandboxDirectory;
use crate::sandbox::vsock::{ConnectError, Connecting};

/// Engines make an interface in several steps, and this is longer than any of them takes.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// So many such times at most.
const MOST_CHANGES: u32 = 200;

/// How long the guest may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// The thread calls little more than the system.
const STACK: usize = 256 << 10;

/// A change could not be passed on.
#[derive(Debug, thiserror::Error)]
enum UpdateError {
    #[error("cannot look at the interfaces of the container's network namespace")]
    Survey(#[source] io::Error),
    #[error("cannot join the interface {0} to the guest")]
    Join(String, #[source] io::Error),
    #[error("cannot part the interface {0} from the guest")]
    Part(String, #[source] io::Error),
    #[error("cannot connect the guest to the resolver that has come")]
    Resolver(#[source] io::Error),
    #[error(transparent)]
    Serve(#[from] NetworkError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the guest does not accept a connection")]
    Unresponsive,
    #[error("{0}")]
    Refused(String),
}

/// A device of the guest and its tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    tap: (String, u32),
    /// With which the machine was made.
    pub(super) device_mac: [u8; 6],
    /// Whose it is.
    used_by: Option<u32>,
}

impl Slot {
    /// For an interface that is there.
    pub(super) fn of(link: &Link, tap: &Tap) -> Self {
        Self { tap: (tap.name.clone(), tap.index), device_mac: link.mac, used_by: Some(link.index) }
    }

    /// For one that may come.
    pub(super) fn spare(number: usize, tap: &Tap) -> Self {
        let number = u8::try_from(number).unwrap_or(u8::MAX);
        // Locally administered; only the guest ever sees it.
        let device_mac = [2, b'r', b'u', b'n', b'v', number];
        Self { tap: (tap.name.clone(), tap.index), device_mac, used_by: None }
    }
}

/// What the guest has of the namespace. The way between them goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Live {
    redirect: Redirect,
    slots: Vec<Slot>,
    /// Interfaces that have a slot, and those for which there was none.
    known: Vec<Link>,
    /// What the agent has been asked for, in that order.
    requests: Vec<Vec<u8>>,
    /// Whether it may not have done all of it.
    is_behind: bool,
}

/// Interfaces that are to be taken from the guest, and given to it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    gone: Vec<Link>,
    come: Vec<Link>,
}

/// One that has another name, address or MTU than before has gone and come. One that is not up is not ready.
fn difference(known: &[Link], now: &[Link]) -> Difference {
    let same = |one: &Link, other: &Link| {
        Link { is_up: true, ..one.clone() } == Link { is_up: true, ..other.clone() }
    };
    let is_in = |link: &&Link, links: &[Link]| links.iter().any(|other| same(link, other));
    Difference {
        gone: known.iter().filter(|link| !is_in(link, now)).cloned().collect(),
        come: now.iter().filter(|link| link.is_up && !is_in(link, known)).cloned().collect(),
    }
}

/// What makes `now` of what `before` has made, as far as nothing `is_behind`, where the interfaces `away` have gone, though others
/// may have their numbers.
fn changes(before: &[Vec<u8>], now: &[Vec<u8>], away: &[u32], is_behind: bool) -> Vec<Vec<u8>> {
    let subjects: HashSet<_> = now.iter().map(|request| survey::subject(request)).collect();
    let is_gone = |request: &&Vec<u8>| {
        !subjects.contains(&survey::subject(request))
            && survey::brought_up(request).is_none_or(|index| !away.contains(&index))
    };
    // What was made last may depend on what was made first.
    let mut requests: Vec<_> =
        before.iter().rev().filter(is_gone).filter_map(|request| survey::undo(request)).collect();
    let is_whole = requests.is_empty() && away.is_empty() && !is_behind;
    let is_new = |request: &&Vec<u8>| !before.contains(*request) || !is_whole && !survey::is_rule(request);
    requests.extend(now.iter().filter(is_new).cloned());
    requests
}

/// A network whose changes are passed on.
#[derive(Debug)]
pub(crate) struct Watched(Sender<SyncSender<()>>);

impl Watched {
    /// Returns when the guest has what is there now.
    pub(crate) fn catch_up(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        // A thread that has ended has told of it.
        if self.0.send(done).is_ok() {
            let _ = wait.recv();
        }
    }
}

/// What the threads that pass changes on have in common. Each of them is in the container's network namespace, and in the
/// mount namespace in which the monitor began: the sandbox directory has no path in that which the monitor's first
/// thread shows as the container's.
#[derive(Debug)]
struct Watch {
    live: Live,
    directory: SandboxDirectory,
    container_id: String,
}

impl Watch {
    fn catch_up(watch: &Mutex<Self>) {
        let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
        let Self { live, directory, container_id } = &mut *watch;
        if let Err(error) = live.update(directory, container_id) {
            report::late_warning(&format!("a change of the network is lost: {}", report::chain(&error)));
        }
    }
}

impl Live {
    pub(super) fn new(redirect: Redirect, slots: Vec<Slot>, known: Vec<Link>, requests: &[Vec<u8>]) -> Self {
        Self { redirect, slots, known, requests: requests.to_vec(), is_behind: false }
    }

    /// Passes changes of the calling thread's network namespace on to the guest's container, for as long as this process lives.
    pub(crate) fn watch(self, directory: SandboxDirectory, container_id: String) -> io::Result<Watched> {
        let changes = Socket::of_changes()?;
        let watch = Arc::new(Mutex::new(Watch { live: self, directory, container_id }));
        let (ask, asked) = mpsc::channel::<SyncSender<()>>();
        let of_asked = Arc::clone(&watch);
        spawn(move || {
            for done in asked {
                Watch::catch_up(&of_asked);
                // Who has asked may have gone.
                let _ = done.send(());
            }
        })?;
        spawn(move || {
            loop {
                Watch::catch_up(&watch);
                if let Err(error) = changes.wait_for_changes(QUIET, MOST_CHANGES) {
                    return report::late_warning(&format!(
                        "changes of the network are not seen any more: {error}"
                    ));
                }
            }
        })?;
        Ok(Watched(ask))
    }

    /// What has changed since the last time.
    fn update(&mut self, directory: &SandboxDirectory, container_id: &str) -> Result<(), UpdateError> {
        let resolver = self.resolver_that_has_come(directory)?;
        let mut now = survey::links().map_err(UpdateError::Survey)?;
        now.retain(|link| self.slots.iter().all(|slot| slot.tap.1 != link.index));
        let Difference { gone, come } = difference(&self.known, &now);
        let removed = gone.iter().map(|link| self.release(link)).collect::<Result<Vec<_>, _>>()?;
        let mut interfaces = Vec::new();
        let waiting = self.waiting_for_a_device(come.len());
        self.known.retain(|link| !waiting.contains(link));
        for link in come.into_iter().chain(waiting) {
            interfaces.extend(self.assign(&link)?);
            self.known.push(link);
        }
        let of_guest = |link: &Link| self.slots.iter().any(|slot| slot.used_by == Some(link.index));
        now.retain(of_guest);
        let all = survey::requests(&now).map_err(UpdateError::Survey)?;
        let removed: Vec<_> = removed.into_iter().flatten().collect();
        let away: Vec<_> = removed.iter().map(|interface| interface.index).collect();
        let requests = changes(&self.requests, &all, &away, self.is_behind);
        self.requests = all;
        if removed.is_empty() && interfaces.is_empty() && requests.is_empty() && resolver.is_none() {
            return Ok(());
        }
        let network =
            proto::Network { interfaces, requests, resolver: resolver.into(), ..Default::default() };
        let container_id = container_id.to_owned();
        self.is_behind = true;
        ask(
            directory,
            &proto::UpdateNetworkRequest {
                container_id,
                removed,
                network: Some(network).into(),
                ..Default::default()
            },
        )?;
        self.is_behind = false;
        Ok(())
    }

    /// Interfaces for which there was no device, as far as there are some now, but for `wanted` of them.
    fn waiting_for_a_device(&self, wanted: usize) -> Vec<Link> {
        let free = self.slots.iter().filter(|slot| slot.used_by.is_none()).count();
        let has_none = |link: &&Link| self.slots.iter().all(|slot| slot.used_by != Some(link.index));
        self.known.iter().filter(has_none).take(free.saturating_sub(wanted)).cloned().collect()
    }

    /// docker has one in the namespace as soon as the container is on a network of one's own.
    fn resolver_that_has_come(
        &mut self,
        directory: &SandboxDirectory,
    ) -> Result<Option<proto::Resolver>, UpdateError> {
        if self.redirect.has_resolver() || !resolver::is_there().map_err(UpdateError::Resolver)? {
            return Ok(None);
        }
        resolver::set_ports_apart().map_err(UpdateError::Resolver)?;
        let joined = |slot: &Slot| {
            let link = self.known.iter().find(|link| slot.used_by == Some(link.index))?;
            Some([(link.name.clone(), link.index), slot.tap.clone()])
        };
        let pairs: Vec<_> = self.slots.iter().filter_map(joined).collect();
        self.redirect.let_resolver_ask(&pairs).map_err(UpdateError::Resolver)?;
        resolver::serve(directory)?;
        Ok(Some(resolver::configuration()))
    }

    /// Forgets an interface; tells what the guest has of it.
    fn release(&mut self, link: &Link) -> Result<Option<proto::NetworkInterface>, UpdateError> {
        self.known.retain(|known| known.index != link.index);
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.used_by == Some(link.index)) else {
            return Ok(None);
        };
        slot.used_by = None;
        let interface = interface(link, slot);
        let parted = self.redirect.part(link.index, slot.tap.1);
        parted.map_err(|error| UpdateError::Part(link.name.clone(), error))?;
        Ok(Some(interface))
    }

    /// Gives an interface a slot, if there is one; tells what the guest is to make of it.
    fn assign(&mut self, link: &Link) -> Result<Option<proto::NetworkInterface>, UpdateError> {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.used_by.is_none()) else {
            report::late_warning(&format!(
                "the interface {} has come while the container runs, and its machine has no device for it; the key \
                 network.spare_interfaces of the configuration says how many it has",
                link.name
            ));
            return Ok(None);
        };
        let failed = |error| UpdateError::Join(link.name.clone(), error);
        self.redirect.join(&[[(link.name.clone(), link.index), slot.tap.clone()]]).map_err(failed)?;
        slot.used_by = Some(link.index);
        tap::bring_up(slot.tap.1, link.mtu).map_err(failed)?;
        Ok(Some(interface(link, slot)))
    }
}

fn spawn(body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name("network".to_owned()).stack_size(STACK);
    thread.spawn(body).map(drop)
}

fn interface(link: &Link, slot: &Slot) -> proto::NetworkInterface {
    proto::NetworkInterface {
        mac: link.mac.to_vec(),
        name: link.name.clone(),
        index: link.index,
        mtu: link.mtu,
        ipv6: survey::ipv6_settings(&link.name),
        device_mac: slot.device_mac.to_vec(),
        ..Default::default()
    }
}

fn ask(directory: &SandboxDirectory, request: &proto::UpdateNetworkRequest) -> Result<(), UpdateError> {
    let connecting = Connecting::request(directory, AGENT_PORT)?;
    if !readable_within(connecting.socket.as_fd(), PATIENCE).unwrap_or(false) {
        return Err(UpdateError::Unresponsive);
    }
    let answer = Agent::over(connecting.finish()?)?.call(request)?;
    answer.failure.into_option().map_or(Ok(()), |failure| Err(UpdateError::Refused(failure.message)))
}

#[cfg(test)]
mod tests {
    use super::super::netlink::message;
    use super::*;

    fn link(index: u32, name: &str, is_up: bool) -> Link {
        Link { index, name: name.to_owned(), mac: [2, 0, 0, 0, 0, 1], mtu: 1500, is_up }
    }

    #[test]
    fn what_has_come_is_up_and_what_has_changed_has_gone_and_come() {
        let known = [link(7, "eth0", true), link(8, "eth1", true)];
        assert_eq!(difference(&known, &known), Difference::default());
        // Down is no reason to take it away; not yet up is one to wait.
        let now = [link(7, "eth0", false), link(8, "eth1", true), link(9, "veth1", false)];
        assert_eq!(difference(&known, &now), Difference::default());
        let now = [link(7, "eth0", true), link(8, "eth2", true), link(9, "eth1", true)];
        let expected = Difference {
            gone: vec![link(8, "eth1", true)],
            come: vec![link(8, "eth2", true), link(9, "eth1", true)],
        };
        assert_eq!(difference(&known, &now), expected);
        assert_eq!(difference(&known, &[]).gone, known);
    }

    /// A request of `kind` about the interface 7.
    fn request(kind: u16, byte: u8) -> Vec<u8> {
        message(kind, 5, &[[0; 4], [7, 0, 0, 0], [byte; 4], [byte; 4]].concat())
    }

    #[test]
    fn what_has_gone_is_taken_back_in_reverse_and_what_is_there_is_made_again() {
        let [up, address, route, other, rule] =
            [request(16, 1), request(20, 1), request(24, 1), request(24, 2), request(32, 1)];
        let taken_back = |request: &[u8]| survey::undo(request).unwrap();
        let before = [address.clone(), up.clone(), route.clone(), rule.clone()];
        assert_eq!(changes(&before, &before, &[], false), Vec::<Vec<u8>>::new());
        // What is new does not touch what is there.
        let now = [address.clone(), up.clone(), route.clone(), other.clone(), rule.clone()];
        assert_eq!(changes(&before, &now, &[], false), std::slice::from_ref(&other));
        // A rule is made once.
        let now = [up.clone(), other.clone(), rule.clone()];
        let expected = [taken_back(&route), taken_back(&address), up.clone(), other];
        assert_eq!(changes(&before, &now, &[], false), expected);
        // An interface that has gone need not be brought down; what depends on it may be there still.
        assert_eq!(
            changes(&before, std::slice::from_ref(&rule), &[7], false),
            [taken_back(&route), taken_back(&address)]
        );
        assert_eq!(changes(&before, &before, &[7], false), [address.clone(), up.clone(), route.clone()]);
        // What may not have been done is done once more.
        assert_eq!(changes(&before, &before, &[], true), [address, up, route]);
    }
}
