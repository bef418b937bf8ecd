//! virtio-rng (virtio 1.2 section 5.4): fills the guest's buffers from the host kernel's random generator.
//!
//! Not a source for anyone but the guest, and no thread of its own: `getrandom` does not block once the host is
//! up.

use std::io::Write;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::device::Device;
use crate::queue::{Chain, DeviceQueue, GuestRam};

/// The most bytes that one request gets. Descriptors may overlap, so a chain of them over the same few pages
/// could ask for gigabytes while the guest holds almost no memory; a driver gets less than it asked for and
/// asks again (Linux asks for 64 bytes at a time).
pub const MAX_REQUEST: usize = 64 * 1024;

/// Bytes that pass through our stack at a time: one call for all that Linux asks for.
const BLOCK: usize = 256;

/// The device. It has no state.
#[derive(Debug, Default)]
pub struct RngDevice;

impl Device for RngDevice {
    fn queue_count(&self) -> usize {
        1
    }

    fn process_queue(&mut self, index: usize, queues: &mut [DeviceQueue<'_>]) {
        if let Some(queue) = queues.get_mut(index) {
            queue.drain(fill);
        }
    }
}

/// Fills what the device may write to, up to [`MAX_REQUEST`] bytes; returns how many.
fn fill(memory: &GuestRam, chain: Chain<'_>) -> u32 {
    let Ok(mut writer) = chain.writer(memory) else { return 0 };
    let mut left = writer.available_bytes().min(MAX_REQUEST);
    while left > 0 {
        let mut block = [0; BLOCK];
        let Ok(got) = getrandom(&mut block, GetRandomFlags::empty()) else { break };
        let Some(random) = block.get(..got.min(left)) else { break };
        if writer.write_all(random).is_err() {
            break;
        }
        left -= random.len();
    }
    u32::try_from(writer.bytes_written()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
