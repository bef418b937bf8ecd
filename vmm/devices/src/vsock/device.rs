//! The device: which queue is which.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::device::Device;
use crate::queue::DeviceQueue;

use super::VsockError;
use super::muxer::Muxer;
use super::packet::TxPacket;

/// Receive, transmit, event (virtio 1.2 section 5.10.2). The event queue is for migration, which we do not tell
/// the guest of; frontends that keep it to themselves (QEMU) are served as well.
const QUEUE_COUNT: usize = 3;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// A socket device with its host side in unix sockets.
#[derive(Debug)]
pub struct VsockDevice {
    guest_cid: u32,
    muxer: Muxer,
}

impl VsockDevice {
    /// `host_listener` is the listening socket `vsock.sock`, in `directory` are the services' `vsock.sock_<port>`.
    ///
    /// # Errors
    /// The context id is a reserved one, or the host's sockets cannot be watched.
    pub fn new(guest_cid: u32, host_listener: OwnedFd, directory: OwnedFd) -> Result<Self, VsockError> {
        if guest_cid <= 2 || guest_cid == u32::MAX {
            return Err(VsockError::Cid(guest_cid));
        }
        let muxer = Muxer::new(guest_cid, host_listener, directory).map_err(VsockError::Watch)?;
        Ok(Self { guest_cid, muxer })
    }

    fn transmit(&mut self, queue: &mut DeviceQueue<'_>) {
        queue.drain(|memory, chain| {
            match TxPacket::parse(memory, chain) {
                Ok(packet) => self.muxer.receive(&packet),
                Err(_) => self.muxer.count_fault(),
            }
            0
        });
    }
}

impl Device for VsockDevice {
    fn queue_count(&self) -> usize {
        QUEUE_COUNT
    }

    /// The guest's context id (virtio 1.2 section 5.10.4).
    fn config(&self) -> Vec<u8> {
        u64::from(self.guest_cid).to_le_bytes().to_vec()
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.muxer.event_fd())
    }

    fn process_queue(&mut self, index: usize, queues: &mut [DeviceQueue<'_>]) {
        if index == TRANSMIT
            && let Some(queue) = queues.get_mut(TRANSMIT)
        {
            self.transmit(queue);
        }
        if let Some(queue) = queues.get_mut(RECEIVE) {
            self.muxer.fill(queue);
        }
    }

    fn process_events(&mut self, queues: &mut [DeviceQueue<'_>]) {
        if let Some(queue) = queues.get_mut(RECEIVE) {
            self.muxer.poll_host(queue.is_active());
            self.muxer.fill(queue);
        }
    }

    fn reset(&mut self) {
        self.muxer.reset();
    }
}
