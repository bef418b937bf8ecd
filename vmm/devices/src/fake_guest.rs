//! A driver without a machine: lays out virtqueues in guest memory and plays the guest's half of them.

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::device::Device;
use crate::queue::{DeviceQueue, GuestRam};

/// `VRING_DESC_F_*`.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Memory is two regions with a hole between them.
pub(crate) const LOW: u64 = 0;
pub(crate) const LOW_SIZE: usize = 8 << 20;
pub(crate) const HIGH: u64 = 1 << 30;
pub(crate) const HIGH_SIZE: usize = 1 << 20;

/// Address, length and flags of a descriptor.
pub(crate) type Buffer = (u64, u32, u16);

/// One descriptor as it lies in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Desc {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// The driver's half of a queue, and the device's.
pub(crate) struct FakeQueue {
    base: u64,
    size: u16,
    next_desc: u16,
    avail: u16,
    used: u16,
    queue: Queue,
    active: bool,
}

impl FakeQueue {
    fn new(base: u64, size: u16) -> Self {
        let mut queue = Queue::new(size).unwrap();
        queue.set_size(size);
        queue.try_set_desc_table_address(GuestAddress(base)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(base + 0x8000)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(base + 0xc000)).unwrap();
        queue.set_event_idx(true);
        queue.set_ready(true);
        Self { base, size, next_desc: 0, avail: 0, used: 0, queue, active: true }
    }

    /// Where its rings are, unless [`FakeQueue::set_rings`] says otherwise.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// As a driver that lies about where its rings are: descriptors, available, used.
    pub(crate) fn set_rings(&mut self, [desc, avail, used]: [u64; 3]) {
        // What is not aligned stays where it was.
        let _ = self.queue.try_set_desc_table_address(GuestAddress(desc));
        let _ = self.queue.try_set_avail_ring_address(GuestAddress(avail));
        let _ = self.queue.try_set_used_ring_address(GuestAddress(used));
    }

    /// How many descriptors it has from now on, of those that it began with.
    pub(crate) fn set_size(&mut self, size: u16) {
        self.queue.set_size(size);
        self.size = size;
    }

    /// Where the device goes on.
    pub(crate) fn set_next(&mut self, avail: u16, used: u16) {
        self.queue.set_next_avail(avail);
        self.queue.set_next_used(used);
    }

    /// Descriptors that follow each other, each with `NEXT` but the last; returns the head.
    pub(crate) fn add(&mut self, ram: &GuestRam, buffers: &[Buffer]) -> u16 {
        let head = self.next_desc;
        for (index, &(address, length, flags)) in buffers.iter().enumerate() {
            let at = self.next_desc;
            self.next_desc = (at + 1) % self.size;
            let last = index + 1 == buffers.len();
            let flags = if last { flags } else { flags | NEXT };
            self.write_desc(ram, at, Desc { address, length, flags, next: self.next_desc });
        }
        self.offer(ram, head);
        head
    }

    pub(crate) fn write_desc(&mut self, ram: &GuestRam, index: u16, desc: Desc) {
        write_desc_at(ram, self.base + 16 * u64::from(index), desc);
    }

    /// Makes a head available.
    pub(crate) fn offer(&mut self, ram: &GuestRam, head: u16) {
        let ring = self.base + 0x8000;
        let slot = u64::from(self.avail % self.size);
        ram.write_obj(head, GuestAddress(ring + 4 + 2 * slot)).unwrap();
        self.avail = self.avail.wrapping_add(1);
        self.set_avail_index(ram, self.avail);
    }

    pub(crate) fn set_avail_index(&mut self, ram: &GuestRam, index: u16) {
        ram.write_obj(index, GuestAddress(self.base + 0x8000 + 2)).unwrap();
    }

    /// The next chain that came back, with its length.
    pub(crate) fn take_used(&mut self, ram: &GuestRam) -> Option<(u16, u32)> {
        let ring = self.base + 0xc000;
        let index: u16 = ram.read_obj(GuestAddress(ring + 2)).unwrap();
        if index == self.used {
            return None;
        }
        let slot = u64::from(self.used % self.size);
        let head: u32 = ram.read_obj(GuestAddress(ring + 4 + 8 * slot)).unwrap();
        let length: u32 = ram.read_obj(GuestAddress(ring + 8 + 8 * slot)).unwrap();
        self.used = self.used.wrapping_add(1);
        Some((u16::try_from(head).unwrap(), length))
    }
}

pub(crate) fn write_desc_at(ram: &GuestRam, address: u64, desc: Desc) {
    ram.write_obj(desc.address, GuestAddress(address)).unwrap();
    ram.write_obj(desc.length, GuestAddress(address + 8)).unwrap();
    ram.write_obj(desc.flags, GuestAddress(address + 12)).unwrap();
    ram.write_obj(desc.next, GuestAddress(address + 14)).unwrap();
}

/// A device with a driver at its queues.
pub(crate) struct FakeGuest<D> {
    pub(crate) ram: GuestRam,
    pub(crate) device: D,
    pub(crate) queues: Vec<FakeQueue>,
    /// Interrupts so far.
    pub(crate) signals: u64,
}

impl<D: Device> FakeGuest<D> {
    /// Queues of `size` descriptors, in the first 64 KiB each of low memory; what follows them is free.
    pub(crate) fn new(device: D, size: u16) -> Self {
        let ranges = [(GuestAddress(LOW), LOW_SIZE), (GuestAddress(HIGH), HIGH_SIZE)];
        let ram = GuestRam::from_ranges(&ranges).unwrap();
        let queues =
            (0..device.queue_count()).map(|index| FakeQueue::new(0x1_0000 * index as u64, size)).collect();
        Self { ram, device, queues, signals: 0 }
    }

    /// A driver that begins anew, with other queues in the same memory.
    pub(crate) fn renew(&mut self, size: u16) {
        for queue in &mut self.queues {
            *queue = FakeQueue::new(queue.base, size);
            // Of what was there, indices alone matter.
            for ring in [0x8000, 0xc000] {
                self.ram.write_obj(0u32, GuestAddress(queue.base + ring)).unwrap();
            }
        }
        self.device.reset();
    }

    /// As if the driver had not set the queues up yet.
    pub(crate) fn deactivate(&mut self) {
        self.queues.iter_mut().for_each(|queue| queue.active = false);
    }

    /// The frontend has disabled them, and enables them again.
    pub(crate) fn activate(&mut self) {
        self.queues.iter_mut().for_each(|queue| queue.active = true);
    }

    pub(crate) fn kick(&mut self, index: usize) {
        self.with_queues(|device, queues| device.process_queue(index, queues));
    }

    pub(crate) fn poll_host(&mut self) {
        self.with_queues(|device, queues| device.process_events(queues));
    }

    fn with_queues(&mut self, act: impl FnOnce(&mut D, &mut [DeviceQueue<'_>])) {
        let ram = &self.ram;
        let mut queues: Vec<_> = self
            .queues
            .iter_mut()
            .map(|queue| DeviceQueue::new(&mut queue.queue, ram, queue.active))
            .collect();
        act(&mut self.device, &mut queues);
        self.signals += queues.iter_mut().map(|queue| u64::from(queue.take_signal())).sum::<u64>();
    }
}
