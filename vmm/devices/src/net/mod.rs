//! virtio-net (virtio 1.2 section 5.1): frames between the guest and a tap of the host.
//!
//! One pair of queues and no control queue: filters of addresses would only spare the guest frames that its own stack
//! ignores. Checksums and the cutting of large TCP packets are left to whoever is last to need them: both directions
//! carry the header by which Linux's tap and virtio-net agree on that, and the guest's is checked (`header`).
//!
//! Not a switch and not a filter: what may pass is the business of the host's network namespace.

mod events;
mod header;
mod tap;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
};

use crate::device::Device;
use crate::queue::{Chain, DeviceQueue, GuestRam};
use events::Events;
use header::{MAX_PACKET, MIN_PACKET};
use tap::Tap;

/// Queue numbers (virtio 1.2 section 5.1.2).
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// Frames of one direction that are moved before the other gets its turn, and the frontend its answer.
const BUDGET: usize = 128;

/// The most buffers that one frame is put into: Linux's have at least 1,500 bytes.
const MAX_BUFFERS: usize = 64;

/// Features that do not depend on the tap.
const FEATURES: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_MAC
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN
    | 1 << VIRTIO_NET_F_MRG_RXBUF;

/// Where a chain of the guest's can be written to.
type Writer<'a> = virtio_queue::Writer<'a, vm_memory::bitmap::BS<'a, BitmapMmapRegion>>;

/// A network device on a tap.
#[derive(Debug)]
pub struct NetDevice {
    tap: Tap,
    events: Events,
    /// What is offered.
    offered: u64,
    /// What the driver has acknowledged of it.
    acknowledged: u64,
    /// A frame from the tap with its header, and how much of this is one that waits for the guest's buffers.
    received: Box<[u8]>,
    waiting: Option<usize>,
    /// Room for a frame of the guest.
    sent: Box<[u8]>,
}

impl NetDevice {
    /// `tap` has headers of 12 bytes.
    ///
    /// # Errors
    /// The tap cannot be watched.
    pub fn new(tap: OwnedFd) -> io::Result<Self> {
        let tap = Tap::new(tap)?;
        let events = Events::new(tap.as_fd())?;
        let offered = FEATURES | tap.features();
        let room = || vec![0; MAX_PACKET].into_boxed_slice();
        Ok(Self { tap, events, offered, acknowledged: 0, received: room(), waiting: None, sent: room() })
    }

    /// From the guest to the tap.
    fn transmit(&mut self, queue: &mut DeviceQueue<'_>) {
        queue.suppress_kicks();
        for _ in 0..BUDGET {
            match queue.pop() {
                Some(chain) => {
                    let head = chain.head_index();
                    self.send(queue.memory(), chain);
                    queue.add_used(head, 0);
                }
                None if queue.request_kick() => queue.suppress_kicks(),
                None => return,
            }
        }
        self.events.again();
    }

    /// What is no frame is dropped: the guest harms itself.
    fn send(&mut self, memory: &GuestRam, chain: Chain<'_>) {
        let Ok(mut reader) = chain.reader(memory) else { return };
        let length = reader.available_bytes();
        if length < MIN_PACKET {
            return;
        }
        let Some(packet) = self.sent.get_mut(..length) else { return };
        if reader.read_exact(packet).is_ok() && header::check(packet, self.acknowledged).is_some() {
            self.tap.send(packet);
        }
    }

    /// From the tap to the guest.
    fn receive(&mut self, queue: &mut DeviceQueue<'_>) {
        for _ in 0..BUDGET {
            let Some(length) = self.waiting.take().or_else(|| self.tap.receive(&mut self.received)) else {
                return self.events.listen(self.tap.as_fd(), true);
            };
            if self.deliver(queue, length) {
                continue;
            }
            self.waiting = Some(length);
            if !queue.request_kick() {
                // The guest's next buffer goes on.
                return self.events.listen(self.tap.as_fd(), false);
            }
        }
        self.events.again();
    }

    /// Puts a frame into the guest's buffers; false when they are too few.
    fn deliver(&mut self, queue: &mut DeviceQueue<'_>, length: usize) -> bool {
        let Some(packet) = self.received.get_mut(..length) else { return true };
        let mergeable = self.acknowledged & (1 << VIRTIO_NET_F_MRG_RXBUF) != 0;
        let most = if mergeable { MAX_BUFFERS } else { 1 };
        let mut buffers: Vec<(u16, Option<Writer<'_>>)> = Vec::new();
        let mut room = 0;
        while room < length && buffers.len() < most {
            let Some(chain) = queue.pop() else {
                buffers.iter().for_each(|_| queue.undo_pop());
                return false;
            };
            let head = chain.head_index();
            // What cannot be written to is a buffer of no length.
            let writer = chain.writer(queue.memory()).ok();
            room += writer.as_ref().map_or(0, Writer::available_bytes);
            buffers.push((head, writer));
        }
        // A frame that fits nowhere is lost.
        let mut rest: &[u8] = &[];
        if room >= length {
            header::set_buffers(packet, u16::try_from(buffers.len()).unwrap_or(0));
            rest = packet;
        }
        let filled: Vec<_> =
            buffers.into_iter().map(|(head, writer)| (head, fill(writer, &mut rest))).collect();
        queue.add_used_together(&filled);
        true
    }
}

/// Moves what fits; returns how much that was.
fn fill(writer: Option<Writer<'_>>, rest: &mut &[u8]) -> u32 {
    let Some(mut writer) = writer else { return 0 };
    let (now, later) = rest.split_at(writer.available_bytes().min(rest.len()));
    *rest = later;
    // It has the room; what it cannot do shows in what it has written.
    let _ = writer.write_all(now);
    u32::try_from(writer.bytes_written()).unwrap_or(0)
}

impl Device for NetDevice {
    fn queue_count(&self) -> usize {
        2
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn set_features(&mut self, features: u64) {
        self.acknowledged = features & self.offered;
        self.tap.set_features(self.acknowledged);
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.events.as_fd())
    }

    fn process_queue(&mut self, index: usize, queues: &mut [DeviceQueue<'_>]) {
        match (index, queues.get_mut(index)) {
            (RECEIVE, Some(queue)) => self.receive(queue),
            (TRANSMIT, Some(queue)) => self.transmit(queue),
            _ => {}
        }
    }

    fn process_events(&mut self, queues: &mut [DeviceQueue<'_>]) {
        if self.events.take_again()
            && let Some(queue) = queues.get_mut(TRANSMIT)
        {
            self.transmit(queue);
        }
        if let Some(queue) = queues.get_mut(RECEIVE) {
            self.receive(queue);
        }
    }

    fn reset(&mut self) {
        self.acknowledged = 0;
        self.waiting = None;
        self.events.listen(self.tap.as_fd(), true);
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
