//! A virtqueue as a device sees it, and the drain loop (virtio 1.2 section 2.7), once for all devices.
//!
//! The driver owns the rings' memory and may put anything there. The policy for what cannot be right (an index
//! that jumps, a ring outside memory) is to treat the queue as empty: the driver harms only itself.

use std::sync::atomic::Ordering;

use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

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
}

impl<'a> DeviceQueue<'a> {
    /// `active` says whether the driver has set the queue up and enabled it.
    pub fn new(queue: &'a mut Queue, memory: &'a GuestRam, active: bool) -> Self {
        Self { queue, memory, active, used_any: false }
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
        self.queue.needs_notification(self.memory).unwrap_or(true)
    }

    /// How many chains can be popped. With an index that jumps, which makes more than the queue holds, that is
    /// none: a loop that believed it would never end.
    fn available(&self) -> u16 {
        let Ok(index) = self.queue.avail_idx(self.memory, Ordering::Acquire) else { return 0 };
        let count = index.0.wrapping_sub(self.queue.next_avail());
        if count <= self.queue.size() { count } else { 0 }
    }
}
