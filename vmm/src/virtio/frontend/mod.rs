//! The frontend of a vhost-user backend: negotiates, hands over memory, rings and eventfds.
//!
//! Setting up a device sends many messages and waits for none of their answers: a backend that refuses one
//! closes the connection, which the event loop sees and which ends the machine. Only stopping waits, because
//! the guest may reuse the memory of the rings right after it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};
use virtio_bindings::virtio_config::{VIRTIO_F_IN_ORDER, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_INT_VRING, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_QUEUE_NOTIFY,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::mmio::{Backend, BackendFailure, StartFault};
use super::queue::{Queue, QueueFault};
use crate::memory::Memory;

/// A backend that does not answer for so long is taken for dead.
const PATIENCE: Duration = Duration::from_secs(30);

/// Feature bits of the kinds of device themselves, virtio 1.2 section 2.2.
const DEVICE_FEATURES: u64 = (1 << 24) - 1;
/// Features that a driver may see: those of the device, and those of transport and rings that need no more
/// of this process than to pass them on. Others would change rings, notifications or addresses under it.
const OFFERABLE: u64 = DEVICE_FEATURES
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_F_IN_ORDER;

/// A backend cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot {step} of the connection")]
    Socket {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("the backend failed: cannot {step}")]
    Negotiate {
        step: &'static str,
        #[source]
        source: vhost::Error,
    },
    #[error("the backend does not offer {0}")]
    Lacks(&'static str),
}

/// The connection to one device's backend.
pub(crate) struct VhostUser {
    frontend: Frontend,
    memory: Arc<Memory>,
    /// Signalled by the guest's kicks, one for each queue.
    kicks: Vec<EventFd>,
    /// Signalled by the backend for used buffers; raises the device's interrupt.
    call: EventFd,
    /// Signalled by the guest's acknowledgements of used buffers.
    acknowledged: EventFd,
    /// What the backend offers, vhost-user's own bit included.
    offered: u64,
    /// Numbers of the queues that it serves.
    serving: Vec<usize>,
}

impl VhostUser {
    /// Negotiates with the backend at the other end of `socket`, for a device of `queues` queues.
    pub(crate) fn connect(
        socket: UnixStream,
        queues: usize,
        memory: Arc<Memory>,
        call: EventFd,
    ) -> Result<Self, ConnectError> {
        let at_socket = |step| move |source| ConnectError::Socket { step, source };
        socket.set_read_timeout(Some(PATIENCE)).map_err(at_socket("limit the waiting"))?;
        socket.set_write_timeout(Some(PATIENCE)).map_err(at_socket("limit the waiting"))?;
        let kicks = (0..queues)
            .map(|_| EventFd::new(EFD_NONBLOCK))
            .collect::<Result<_, _>>()
            .map_err(at_socket("make the eventfds"))?;
        let acknowledged = EventFd::new(EFD_NONBLOCK).map_err(at_socket("make the eventfds"))?;
        let mut frontend = Frontend::from_stream(socket, queues as u64);
        let offered = negotiate(&mut frontend)?;
        Ok(Self { frontend, memory, kicks, call, acknowledged, offered, serving: Vec::new() })
    }

    /// The registers whose writing with a certain value is to signal an eventfd and not to leave the guest:
    /// (register, value, eventfd).
    ///
    /// Beside the kicks that is the acknowledgement of used buffers alone. It has no effect, as the device
    /// never knows whether there are any, and with each interrupt comes one; so nobody reads the eventfd.
    pub(crate) fn event_registers(&self) -> impl Iterator<Item = (u32, u32, &EventFd)> {
        let kicks = (0..).zip(&self.kicks).map(|(queue, kick)| (VIRTIO_MMIO_QUEUE_NOTIFY, queue, kick));
        kicks.chain([(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING, &self.acknowledged)])
    }

    /// Tells the backend of one ring and lets it go.
    fn start_ring(&mut self, queue: &Queue) -> Result<(), StartFault> {
        let ring = self.ring(queue).map_err(StartFault::Queue)?;
        let Queue { index, size, .. } = *queue;
        let kick = self.kicks.get(index).ok_or(StartFault::Queue(QueueFault::Size { index, size: 0 }))?;
        let frontend = &mut self.frontend;
        at("set the size of a ring", frontend.set_vring_num(index, size))?;
        at("set the address of a ring", frontend.set_vring_addr(index, &ring))?;
        at("set the position in a ring", frontend.set_vring_base(index, 0))?;
        at("hand over an interrupt", frontend.set_vring_call(index, &self.call))?;
        at("hand over a kick", frontend.set_vring_kick(index, kick))?;
        at("enable a ring", frontend.set_vring_enable(index, true))?;
        self.serving.push(index);
        Ok(())
    }

    /// The ring in addresses of this process, as vhost-user wants them.
    fn ring(&self, queue: &Queue) -> Result<VringConfigData, QueueFault> {
        let index = queue.index;
        let host = |(address, size)| {
            self.memory.host_address(address, size).ok_or(QueueFault::Address { index, address })
        };
        let [descriptors, available, used] = queue.parts();
        Ok(VringConfigData {
            queue_max_size: queue.size,
            queue_size: queue.size,
            flags: 0,
            desc_table_addr: host(descriptors)?,
            used_ring_addr: host(used)?,
            avail_ring_addr: host(available)?,
            log_addr: None,
        })
    }
}

impl Backend for VhostUser {
    fn features(&self) -> u64 {
        self.offered & OFFERABLE
    }

    fn start(&mut self, features: u64, queues: &[Queue]) -> Result<(), StartFault> {
        // Before anything is sent, so that a driver's mistake leaves the backend as it was.
        for queue in queues {
            self.ring(queue).map_err(StartFault::Queue)?;
        }
        let features = features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        at("set the features", self.frontend.set_features(features))?;
        let regions = at("describe guest memory", self.memory.backend_regions())?;
        at("share guest memory", self.frontend.set_mem_table(&regions))?;
        for queue in queues {
            self.start_ring(queue)?;
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), BackendFailure> {
        for index in std::mem::take(&mut self.serving) {
            let failed = |step| move |source| BackendFailure { step, source };
            self.frontend.set_vring_enable(index, false).map_err(failed("disable a ring"))?;
            // The answer comes when the ring has stopped.
            self.frontend.get_vring_base(index).map_err(failed("stop a ring"))?;
        }
        Ok(())
    }
}

/// Makes a fault of a step out of vhost's error.
fn at<T>(step: &'static str, result: vhost::Result<T>) -> Result<T, StartFault> {
    result.map_err(|source| StartFault::Backend(BackendFailure { step, source }))
}

/// Takes the session and settles vhost-user's own features; returns the virtio features on offer.
///
/// None of the protocol features is needed: what `CONFIG` would tell is in the machine's configuration, the
/// queues of each kind of device are known, and nothing waits for `REPLY_ACK`. But the bit must be there,
/// because rings can be enabled and disabled only with it.
fn negotiate(frontend: &mut Frontend) -> Result<u64, ConnectError> {
    let at = |step| move |source| ConnectError::Negotiate { step, source };
    frontend.set_owner().map_err(at("take the session"))?;
    let offered = frontend.get_features().map_err(at("read the features"))?;
    if offered & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
        return Err(ConnectError::Lacks("vhost-user protocol features"));
    }
    if offered & 1 << VIRTIO_F_VERSION_1 == 0 {
        return Err(ConnectError::Lacks("virtio version 1"));
    }
    frontend
        .set_protocol_features(VhostUserProtocolFeatures::empty())
        .map_err(at("set the protocol features"))?;
    Ok(offered)
}

/// The socket as the vhost library wants it.
pub(crate) fn stream(socket: OwnedFd) -> UnixStream {
    UnixStream::from(socket)
}

#[cfg(test)]
mod tests;
