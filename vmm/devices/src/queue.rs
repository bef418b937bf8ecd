//! A virtqueue as a device sees it, and the drain loop (virtio 1.2 section 2.7), once for all devices.
//!
//! The driver owns the rings' memory and may put anything there. The policy for what cannot be right (an index
//! that jumps, a ring outside memory) is to treat the queue as empty: the driver harms only itself.

use std::sync::atomic::Ordering;

use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// The guest's memory, with the (here idle) log of dirtied pages that virtiofsd's types ask for.
pub type GuestRam = GuestMemoryMmap<BitmapMmapRegion>;

/// A chain of descriptors, not yet checked.
pub type Chain<'a> = DescriptorChain<&'a GuestRam>;

/// A virtqueue, borrowed for the time of one event.
#[derive(Debug)]
pub struct DeviceQueue<'a> {
    queue: &'a mut Queue,
    memory: &'a GuestRam,
    active: bool,
    used_any: bool,
    /// Several chains were returned together: the driver's index before the first of them.
    together_since: Option<u16>,
}

impl<'a> DeviceQueue<'a> {
    /// `active` says whether the driver has set the queue up and enabled it.
    pub fn new(queue: &'a mut Queue, memory: &'a GuestRam, active: bool) -> Self {
        Self { queue, memory, active, used_any: false, together_since: None }
    }

    /// Whether the driver has set the queue up.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// Guest memory, valid longer than this borrow of the queue.
    #[must_use]
    pub fn memory(&self) -> &'a GuestRam {
        self.memory
    }

    /// The next chain that the driver made available.
    pub fn pop(&mut self) -> Option<Chain<'a>> {
        if !self.active {
            return None;
        }
        self.queue.pop_descriptor_chain(self.memory)
    }

    /// Gives back the chain that was popped last; calling it n times gives back the last n.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Returns a chain to the driver, `written` bytes of it filled.
    pub fn add_used(&mut self, head: u16, written: u32) {
        // An error means that the used ring is not in guest memory: there is no one to tell.
        if self.queue.add_used(self.memory, head, written).is_ok() {
            self.used_any = true;
        }
    }

    /// Returns several chains of which the driver must not see one without the others (virtio 1.2 section 5.1.6.4: the
    /// buffers of one frame).
    pub fn add_used_together(&mut self, chains: &[(u16, u32)]) {
        let Some(((last, written), first)) = chains.split_last() else { return };
        if !first.is_empty() {
            let (mut next, ring) = (self.queue.next_used(), self.queue.used_ring());
            self.together_since.get_or_insert(next);
            for (head, written) in first {
                let slot = u64::from(next % self.queue.size().max(1));
                let element = (u64::from(*written) << 32 | u64::from(*head)).to_le();
                // As in `add_used`.
                let _ = self.memory.write_obj(element, GuestAddress(ring.saturating_add(4 + 8 * slot)));
                next = next.wrapping_add(1);
            }
            self.queue.set_next_used(next);
        }
        // Only this moves the index that the driver reads.
        self.add_used(*last, *written);
    }

    /// Hands each available chain, with the memory it points into, to `handle`, which returns how many bytes it wrote there.
    pub fn drain(&mut self, mut handle: impl FnMut(&'a GuestRam, Chain<'a>) -> u32) {
        loop {
            self.suppress_kicks();
            while let Some(chain) = self.pop() {
                let head = chain.head_index();
                let written = handle(self.memory, chain);
                self.add_used(head, written);
            }
            if !self.request_kick() {
                return;
            }
        }
    }

    /// Asks the driver not to kick for a while.
    pub fn suppress_kicks(&mut self) {
        if self.active {
            // Only a hint: an unwanted kick costs time, nothing else.
            let _ = self.queue.disable_notification(self.memory);
        }
    }

    /// Asks for a kick when the next buffer comes. True when one has come meanwhile, for which there will be no
    /// kick.
    pub fn request_kick(&mut self) -> bool {
        self.active && self.queue.enable_notification(self.memory).unwrap_or(false) && self.available() > 0
    }

    /// Whether the driver wants to hear of what was returned since the last call.
    pub fn take_signal(&mut self) -> bool {
        if !std::mem::take(&mut self.used_any) {
            return false;
        }
        // Not knowing what the driver wants, tell it.
        let wanted = self.queue.needs_notification(self.memory).unwrap_or(true);
        // The queue has counted only one of those that were returned together.
        let Some(since) = self.together_since.take() else { return wanted };
        wanted
            || self.used_event().is_none_or(|event| {
                let now = self.queue.next_used();
                now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(since)
            })
    }

    /// The index at whose passing the driver wants to hear of it (virtio 1.2 section 2.7.10).
    fn used_event(&self) -> Option<u16> {
        let address = self.queue.avail_ring().checked_add(4 + 2 * u64::from(self.queue.size()))?;
        self.memory.load(GuestAddress(address), Ordering::Relaxed).ok().map(u16::from_le)
    }

    /// How many chains can be popped. With an index that jumps, which makes more than the queue holds, that is
    /// none: a loop that believed it would never end.
    fn available(&self) -> u16 {
        let Ok(index) = self.queue.avail_idx(self.memory, Ordering::Acquire) else { return 0 };
        let count = index.0.wrapping_sub(self.queue.next_avail());
        if count <= self.queue.size() { count } else { 0 }
    }
}
