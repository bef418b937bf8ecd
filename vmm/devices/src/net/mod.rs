//! virtio-net (virtio 1.2 section 5.1): frames between the guest and a tap of the host.
//!
//! A device has one pair of queues, or several, each with a queue of the tap and a thread of its own ([`NetPair`]). Several come
//! with a control queue, on which the driver says of how many it makes use; frontends may serve that queue themselves, and
//! enable and disable rings instead. Filters of addresses are not offered: they would only spare the guest frames that its own
//! stack ignores. Checksums and the cutting of large TCP packets are left to whoever is last to need them: both directions
//! carry the header by which Linux's tap and virtio-net agree on that, and the guest's is checked (`header`).
//!
//! Not a switch and not a filter: what may pass is the business of the host's network namespace.

mod control;
mod events;
mod header;
pub mod relay;
mod tap;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF,
};

use crate::device::Device;
use crate::queue::{Chain, DeviceQueue, GuestRam};
use control::Patience;
use events::{Events, Waker};
use header::{MAX_PACKET, MIN_PACKET};
use tap::Tap;

/// Queue numbers of a pair (virtio 1.2 section 5.1.2), and that of the control queue, which comes after the last pair.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL: usize = 2;

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

/// Features of a device of several pairs.
const SEVERAL: u64 = 1 << VIRTIO_NET_F_MQ | 1 << VIRTIO_NET_F_CTRL_VQ;

/// What the pairs of a device have in common.
#[derive(Debug)]
struct Common {
    /// The queues of the tap, one for each pair.
    taps: Vec<Tap>,
    /// What is offered.
    offered: u64,
    /// Of how many pairs the driver makes use. Each pair reads it for as long as it moves frames, so that no more come to a
    /// pair once its number has become too large.
    in_use: RwLock<usize>,
    /// Of all pairs.
    wakers: Vec<Waker>,
}

/// A pair of queues of a network device, on a queue of its tap.
#[derive(Debug)]
pub struct NetPair {
    number: usize,
    common: Arc<Common>,
    events: Events,
    /// Whether frames come to this queue of the tap.
    is_attached: bool,
    patience: Patience,
    /// What the driver has acknowledged of what is offered.
    acknowledged: u64,
    /// A frame from the tap with its header, and how much of this is one that waits for the guest's buffers.
    received: Box<[u8]>,
    waiting: Option<usize>,
    /// Room for a frame of the guest.
    sent: Box<[u8]>,
}

impl NetPair {
    /// The pairs of a device. `queues` are those of one tap, which has headers of 12 bytes; all but the first are detached.
    ///
    /// # Errors
    /// The tap cannot be watched.
    pub fn of(queues: Vec<OwnedFd>) -> io::Result<Vec<Self>> {
        let taps = queues.into_iter().map(Tap::new).collect::<io::Result<Vec<_>>>()?;
        let events = taps.iter().map(|tap| Events::new(tap.as_fd())).collect::<io::Result<Vec<_>>>()?;
        let several = if taps.len() > 1 { SEVERAL } else { 0 };
        let common = Arc::new(Common {
            offered: FEATURES | several | taps.first().map_or(0, Tap::features),
            in_use: RwLock::new(1),
            wakers: events.iter().map(Events::waker).collect::<io::Result<_>>()?,
            taps,
        });
        let now = Instant::now();
        let pair = |(number, events)| Self::new(number, Arc::clone(&common), events, now);
        Ok(events.into_iter().enumerate().map(pair).collect())
    }

    fn new(number: usize, common: Arc<Common>, events: Events, now: Instant) -> Self {
        let room = || vec![0; MAX_PACKET].into_boxed_slice();
        let is_attached = number == 0;
        let mut pair = Self {
            number,
            common,
            events,
            is_attached,
            patience: Patience::new(now),
            acknowledged: 0,
            received: room(),
            waiting: None,
            sent: room(),
        };
        pair.listen(is_attached);
        pair
    }

    fn has(&self, feature: u32) -> bool {
        self.acknowledged & 1 << feature != 0
    }

    /// The queue of the tap by which frames leave: its own, or as long as that is detached the first one.
    fn outlet(&self) -> usize {
        if self.is_attached { self.number } else { 0 }
    }

    fn is_last(&self) -> bool {
        self.number + 1 == self.common.taps.len()
    }

    /// Which of this pair's queues the driver takes for the control queue. Without several pairs it is that after the first.
    fn control_queue(&self) -> Option<usize> {
        match (self.has(VIRTIO_NET_F_CTRL_VQ), self.has(VIRTIO_NET_F_MQ)) {
            (true, true) => self.is_last().then_some(CONTROL),
            (true, false) => (self.number == 1).then_some(RECEIVE),
            (false, _) => None,
        }
    }

    /// Answers the driver's commands.
    fn control(&self, queue: &mut DeviceQueue<'_>) {
        queue.drain(|memory, chain| control::execute(memory, chain, |pairs| self.set_in_use(pairs.into())));
    }

    /// From now on no frame comes to the pairs behind those.
    fn set_in_use(&self, pairs: usize) -> bool {
        let common = &self.common;
        if !self.has(VIRTIO_NET_F_MQ) || pairs == 0 || pairs > common.taps.len() {
            return false;
        }
        let before =
            std::mem::replace(&mut *common.in_use.write().unwrap_or_else(PoisonError::into_inner), pairs);
        let changed = common.wakers.iter().take(pairs.max(before)).skip(pairs.min(before));
        changed.for_each(Waker::wake);
        true
    }

    /// Has frames come to this queue of the tap if it is one of `in_use`, and not otherwise. With a frontend that serves the
    /// control queue itself those are in use whose rings it has enabled.
    fn follow(&mut self, in_use: usize, queues: &[DeviceQueue<'_>]) {
        let Some(tap) = self.common.taps.get(self.number).filter(|_| self.number > 0) else { return };
        let is_meant = !self.has(VIRTIO_NET_F_CTRL_VQ) || self.number < in_use;
        let is_ready = queues.get(RECEIVE).is_some_and(DeviceQueue::is_active);
        let wanted = self.has(VIRTIO_NET_F_MQ) && is_meant && is_ready;
        // Until it may be attached, its frames take the first queue.
        if wanted == self.is_attached || wanted && !self.patience.take(Instant::now()) {
            return;
        }
        self.is_attached = tap.attach(wanted) && wanted;
        self.waiting = None;
        if self.is_attached {
            // It may have been woken for one of its queues alone: from now on there is something to do for both.
            self.events.again();
        }
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
        let Some(tap) = self.common.taps.get(self.outlet()) else { return };
        let Some(packet) = self.sent.get_mut(..length) else { return };
        if reader.read_exact(packet).is_ok() && header::check(packet, self.acknowledged).is_some() {
            tap.send(packet);
        }
    }

    /// From the tap to the guest.
    fn receive(&mut self, queue: &mut DeviceQueue<'_>) {
        if !self.is_attached {
            return self.listen(false);
        }
        for _ in 0..BUDGET {
            let tap = self.common.taps.get(self.number);
            let next = || tap.and_then(|tap| tap.receive(&mut self.received));
            let Some(length) = self.waiting.take().or_else(next) else {
                return self.listen(true);
            };
            if self.deliver(queue, length) {
                continue;
            }
            self.waiting = Some(length);
            if !queue.request_kick() {
                // The guest's next buffer goes on.
                return self.listen(false);
            }
        }
        self.events.again();
    }

    /// Whether frames of the tap wake this pair.
    fn listen(&mut self, listening: bool) {
        if let Some(tap) = self.common.taps.get(self.number) {
            self.events.listen(tap.as_fd(), listening);
        }
    }

    /// Puts a frame into the guest's buffers; false when they are too few.
    fn deliver(&mut self, queue: &mut DeviceQueue<'_>, length: usize) -> bool {
        let Some(packet) = self.received.get_mut(..length) else { return true };
        let mergeable = self.acknowledged & 1 << VIRTIO_NET_F_MRG_RXBUF != 0;
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

impl Device for NetPair {
    fn queue_count(&self) -> usize {
        if self.is_last() && self.number > 0 { CONTROL + 1 } else { CONTROL }
    }

    fn features(&self) -> u64 {
        self.common.offered
    }

    fn set_features(&mut self, features: u64) {
        self.acknowledged = features & self.common.offered;
        // They are those of the tap as a whole.
        if let Some(tap) = self.common.taps.first().filter(|_| self.number == 0) {
            tap.set_features(self.acknowledged);
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.events.as_fd())
    }

    fn process_queue(&mut self, index: usize, queues: &mut [DeviceQueue<'_>]) {
        if self.control_queue() == Some(index) {
            return queues.get_mut(index).into_iter().for_each(|queue| self.control(queue));
        }
        let common = Arc::clone(&self.common);
        let in_use = common.in_use.read().unwrap_or_else(PoisonError::into_inner);
        self.follow(*in_use, queues);
        match (index, queues.get_mut(index)) {
            (RECEIVE, Some(queue)) => self.receive(queue),
            (TRANSMIT, Some(queue)) => self.transmit(queue),
            _ => {}
        }
    }

    fn process_events(&mut self, queues: &mut [DeviceQueue<'_>]) {
        let common = Arc::clone(&self.common);
        let in_use = common.in_use.read().unwrap_or_else(PoisonError::into_inner);
        self.follow(*in_use, queues);
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
        *self.common.in_use.write().unwrap_or_else(PoisonError::into_inner) = 1;
        self.listen(self.is_attached);
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_several;
