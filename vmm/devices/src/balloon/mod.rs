//! virtio-balloon (virtio 1.2 section 5.5): memory that the guest has freed goes back to the host.
//!
//! Only by free page reporting (section 5.5.6.7): the guest tells of blocks of pages that nobody uses, and they are
//! punched out of the file that is its memory; a page of them that the guest touches again reads as zero. The device
//! never asks the guest to inflate, so whatever comes on those queues is returned as it is.
//!
//! Nothing here is trusted: a guest that reports pages which it uses loses what is in them, and no one else does.

use rustix::fs::{FallocateFlags, fallocate};
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryRegion, GuestUsize};

use crate::device::Device;
use crate::queue::{Chain, DeviceQueue, GuestRam};

/// Inflate, deflate and reporting queue. Linux counts only the queues whose feature was negotiated, unlike section
/// 5.5.2: without statistics and hints the third one is for reports.
const QUEUE_COUNT: usize = 3;
const REPORTING_QUEUE: usize = 2;

/// `VIRTIO_BALLOON_F_DEFLATE_ON_OOM`: the guest may take pages back without being told (section 5.5.3).
const DEFLATE_ON_OOM: u64 = 1 << 2;
/// `VIRTIO_BALLOON_F_PAGE_REPORTING`.
const PAGE_REPORTING: u64 = 1 << 5;

/// Pages are given back whole.
const PAGE_SIZE: u64 = 4096;

/// The device. It has no state.
#[derive(Debug, Default)]
pub struct BalloonDevice;

impl Device for BalloonDevice {
    fn queue_count(&self) -> usize {
        QUEUE_COUNT
    }

    fn features(&self) -> u64 {
        DEFLATE_ON_OOM | PAGE_REPORTING
    }

    fn process_queue(&mut self, index: usize, queues: &mut [DeviceQueue<'_>]) {
        if let Some(queue) = queues.get_mut(index) {
            queue.drain(|memory, chain| {
                if index == REPORTING_QUEUE {
                    give_back(memory, chain);
                }
                0
            });
        }
    }
}

/// Gives the reported blocks back. What is no memory of the guest's is passed over, and so is what the device may only
/// read: a report is of buffers that the device may write to.
fn give_back(memory: &GuestRam, chain: Chain<'_>) {
    for descriptor in chain.writable() {
        punch(memory, descriptor.addr(), descriptor.len().into());
    }
}

/// Makes a hole of the whole pages in `length` bytes at `address`, as far as they lie in one region.
fn punch(memory: &GuestRam, address: GuestAddress, length: u64) -> Option<()> {
    let start = address.0.checked_next_multiple_of(PAGE_SIZE)?;
    let end = address.checked_add(length)?.0 / PAGE_SIZE * PAGE_SIZE;
    let region = memory.find_region(GuestAddress(start))?;
    let (first, region_length): (GuestAddress, GuestUsize) = (region.start_addr(), region.len());
    let end = end.min(first.checked_add(region_length)?.0);
    let length = end.checked_sub(start).filter(|length| *length > 0)?;
    let file = region.file_offset()?;
    let offset = file.start().checked_add(start.checked_sub(first.0)?)?;
    // A file that has no holes keeps its pages: no harm is done.
    fallocate(file.file(), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length).ok()
}

#[cfg(test)]
mod tests;
