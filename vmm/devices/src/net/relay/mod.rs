//! A network device whose frames the host's kernel moves (vhost-net): what a vhost-user frontend says of memory, rings and
//! eventfds is handed on to `/dev/vhost-net`, and no frame is seen here. The control queue alone is served here, as the
//! kernel knows nothing of it.
//!
//! One thread for each device: it answers the frontend and serves the control queue. The kernel adds one for each pair.

mod kernel;
mod requests;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use vhost::VhostBackend;
use vhost::vhost_user::{BackendReqHandler, Error as VhostUserError};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::{VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestAddressSpace};

use super::control::{self, Patience};
use super::tap::Tap;
use super::{FEATURES, SEVERAL};
use crate::queue::{DeviceQueue, GuestRam};
use crate::server::{Served, ServerError};
use kernel::{Kernel, Memory, Ring, failed};

/// The most descriptors that a driver may ask for in a queue.
const MAX_QUEUE_SIZE: u16 = 1024;

/// Features of rings, which whoever serves them must have.
const OF_RINGS: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_NET_F_MRG_RXBUF;

/// Serves a device on the queues of one tap, each with an open `/dev/vhost-net`, to the frontend whose connection is pending
/// at `listener`.
///
/// # Errors
/// The connection cannot be accepted, the kernel's device cannot be used, or a thread cannot be started.
pub fn serve(
    taps: Vec<OwnedFd>,
    vhosts: Vec<OwnedFd>,
    listener: OwnedFd,
) -> Result<Box<dyn Served>, ServerError> {
    let start = |error: io::Error| ServerError::Start { device: "net", reason: error.to_string() };
    let relay = Relay::new(taps, vhosts).map_err(start)?;
    let at_socket = |source| ServerError::Socket { device: "net", source };
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(false).map_err(at_socket)?;
    let (stream, _) = listener.accept().map_err(at_socket)?;
    let body = move || relay_all(&Arc::new(Mutex::new(relay)), stream);
    let thread = std::thread::Builder::new().name("vhost".to_owned()).spawn(body).map_err(start)?;
    Ok(Box::new(Relaying(Some(thread))))
}

struct Relaying(Option<JoinHandle<Result<(), VhostUserError>>>);

impl Served for Relaying {
    fn wait(&mut self) -> Result<(), ServerError> {
        let failed = |reason| Err(ServerError::Connection { device: "net", reason });
        match self.0.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()) | Err(VhostUserError::Disconnected | VhostUserError::PartialMessage))) => {
                Ok(())
            }
            Some(Ok(Err(error))) => failed(error.to_string()),
            Some(Err(_)) => failed("its thread ended".to_owned()),
        }
    }
}

/// Returns when the frontend has closed the connection, with that or another error.
fn relay_all(relay: &Arc<Mutex<Relay>>, stream: UnixStream) -> Result<(), VhostUserError> {
    let socket = stream.try_clone().map_err(VhostUserError::SocketError)?;
    let mut handler = BackendReqHandler::from_stream(stream, Arc::clone(relay));
    let lock = || relay.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        // Of its own, as the frontend may take its back.
        let kick = lock().control_kick().map_err(VhostUserError::ReqHandlerError)?;
        let fds = [Some(socket.as_fd()), kick.as_ref().map(AsFd::as_fd)];
        let mut fds: Vec<_> =
            fds.into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other.map_err(|error| VhostUserError::SocketError(error.into()))?,
        };
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        if is_ready(1) {
            lock().control().map_err(VhostUserError::ReqHandlerError)?;
        }
        if is_ready(0) {
            handler.handle_request()?;
        }
    }
}

/// Where the frontend has a region of the guest's memory.
#[derive(Debug, Clone, Copy)]
struct Mapping {
    frontend: u64,
    size: u64,
    guest: u64,
}

/// A device. What is set of it takes effect by [`Relay::settle`].
#[derive(Debug)]
struct Relay {
    taps: Vec<Tap>,
    /// One for each pair, and so for each of `taps`.
    kernels: Vec<Kernel>,
    memory: Memory,
    mappings: Vec<Mapping>,
    offered: u64,
    acknowledged: u64,
    /// Of all pairs, and that of the control queue.
    rings: Vec<Ring>,
    /// Whether the kernel serves a ring.
    is_served: Vec<bool>,
    /// Pairs of which the driver makes use.
    in_use: usize,
    patience: Patience,
    control: Queue,
}

impl Relay {
    fn new(taps: Vec<OwnedFd>, vhosts: Vec<OwnedFd>) -> io::Result<Self> {
        let taps = taps.into_iter().map(Tap::new).collect::<io::Result<Vec<_>>>()?;
        let memory = Memory::new(GuestRam::new());
        let kernels: Vec<_> = vhosts.into_iter().map(|vhost| Kernel::new(vhost, memory.clone())).collect();
        let kernel = kernels.first().filter(|_| kernels.len() == taps.len());
        let kernel = kernel.ok_or(io::ErrorKind::InvalidInput)?;
        let of_kernel = kernel.get_features().map_err(failed)?;
        Self::of(taps, kernels, memory, of_kernel)
    }

    /// With a kernel that has those features.
    fn of(taps: Vec<Tap>, kernels: Vec<Kernel>, memory: Memory, of_kernel: u64) -> io::Result<Self> {
        let several = if taps.len() > 1 { SEVERAL } else { 0 };
        let of_tap = taps.first().map_or(0, Tap::features);
        let offered = FEATURES & !OF_RINGS | of_kernel & OF_RINGS | of_tap | several;
        let rings = 2 * taps.len() + usize::from(taps.len() > 1);
        Ok(Self {
            rings: (0..rings).map(|_| Ring::default()).collect(),
            is_served: vec![false; 2 * taps.len()],
            control: Queue::new(MAX_QUEUE_SIZE).map_err(io::Error::other)?,
            taps,
            kernels,
            memory,
            mappings: Vec::new(),
            offered,
            acknowledged: 0,
            in_use: 1,
            patience: Patience::new(Instant::now()),
        })
    }

    fn has(&self, feature: u32) -> bool {
        self.acknowledged & 1 << feature != 0
    }

    /// Whether frames are to pass by a pair.
    fn is_in_use(&self, pair: usize) -> bool {
        pair == 0 || self.has(VIRTIO_NET_F_MQ) && (!self.has(VIRTIO_NET_F_CTRL_VQ) || pair < self.in_use)
    }

    /// Has the kernel serve those rings that the frontend has set up and enabled, and no others.
    fn settle(&mut self) -> io::Result<()> {
        for index in 0..self.is_served.len() {
            let is_ready = self.rings.get(index).is_some_and(Ring::is_ready);
            self.serve(index, is_ready && self.is_in_use(index / 2))?;
        }
        Ok(())
    }

    /// Has the kernel serve a ring, or leave it.
    fn serve(&mut self, index: usize, wanted: bool) -> io::Result<()> {
        let features = self.acknowledged & OF_RINGS;
        let (pair, number) = (index / 2, index % 2);
        let (Some(ring), Some(is_served), Some(kernel), Some(tap)) = (
            self.rings.get_mut(index),
            self.is_served.get_mut(index),
            self.kernels.get_mut(pair),
            self.taps.get(pair),
        ) else {
            return Ok(());
        };
        if *is_served == wanted {
            return Ok(());
        }
        // With the ring to which its frames go, a queue of the tap is one of those among which it chooses.
        let attaches = pair > 0 && number == super::RECEIVE;
        if attaches && wanted {
            tap.attach(true);
        }
        if wanted {
            kernel.start(number, ring, features, tap)?;
        } else {
            ring.base = kernel.stop(number)?;
        }
        *is_served = wanted;
        if attaches && !wanted {
            tap.attach(false);
        }
        Ok(())
    }

    /// The kernel leaves all rings.
    fn leave(&mut self) -> io::Result<()> {
        (0..self.is_served.len()).try_for_each(|index| self.serve(index, false))
    }

    /// Which ring is the control queue. Without several pairs it is that after the first.
    fn control_index(&self) -> Option<usize> {
        match (self.has(VIRTIO_NET_F_CTRL_VQ), self.has(VIRTIO_NET_F_MQ)) {
            (true, true) => Some(self.is_served.len()),
            (true, false) => Some(2),
            (false, _) => None,
        }
    }

    fn control_ring(&self) -> Option<&Ring> {
        self.rings.get(self.control_index()?).filter(|ring| ring.is_ready())
    }

    /// What becomes readable with a command.
    fn control_kick(&self) -> io::Result<Option<File>> {
        self.control_ring().and_then(|ring| ring.kick.as_ref()).map(File::try_clone).transpose()
    }

    /// Answers the driver's commands.
    fn control(&mut self) -> io::Result<()> {
        let Some(ring) = self.control_ring() else { return Ok(()) };
        if let Some(mut kick) = ring.kick.as_ref() {
            // It may be another's kick that has come meanwhile, and none is lost.
            let _ = kick.read(&mut [0; 8]);
        }
        let (place, size) = ([ring.descriptors, ring.available, ring.used].map(GuestAddress), ring.size);
        let queue = &mut self.control;
        queue.set_size(size);
        queue.set_event_idx(self.acknowledged & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
        let [descriptors, available, used] = place;
        let placed = queue
            .try_set_desc_table_address(descriptors)
            .and_then(|()| queue.try_set_avail_ring_address(available))
            .and_then(|()| queue.try_set_used_ring_address(used));
        placed.map_err(io::Error::other)?;
        queue.set_ready(true);
        let mut wanted = self.in_use;
        let (most, knows) = (self.taps.len(), self.has(VIRTIO_NET_F_MQ));
        let patience = &mut self.patience;
        let memory = self.memory.memory();
        let mut queue = DeviceQueue::new(&mut self.control, &memory, true);
        queue.drain(|memory, chain| {
            control::execute(memory, chain, |pairs| {
                let may = knows && (1..=most).contains(&pairs.into()) && patience.take(Instant::now());
                if may {
                    wanted = pairs.into();
                }
                may
            })
        });
        let tells = queue.take_signal();
        self.in_use = wanted;
        self.settle()?;
        if let Some(mut call) = self.control_ring().filter(|_| tells).and_then(|ring| ring.call.as_ref()) {
            // A counter that is full has its reader woken already.
            let _ = call.write(&1u64.to_ne_bytes());
        }
        Ok(())
    }

    /// The guest's address of what the frontend has there.
    fn guest_address(&self, frontend: u64) -> Option<u64> {
        let inside = |mapping: &&Mapping| {
            frontend.checked_sub(mapping.frontend).is_some_and(|offset| offset < mapping.size)
        };
        let mapping = self.mappings.iter().find(inside)?;
        mapping.guest.checked_add(frontend - mapping.frontend)
    }

    /// A driver begins anew.
    fn reset(&mut self) -> io::Result<()> {
        self.acknowledged = 0;
        self.in_use = 1;
        self.leave()
    }
}

#[cfg(test)]
mod tests;
