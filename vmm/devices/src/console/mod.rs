//! virtio-console (virtio 1.2 section 5.3) for output only: what the guest writes goes to a descriptor.
//!
//! Not a terminal of a container (those go over vsock). Nothing is ever read for the guest: its buffers in the
//! receive queue stay where they are.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use crate::device::Device;
use crate::queue::{Chain, DeviceQueue, GuestRam};

/// Queue numbers of a console without multiport (virtio 1.2 section 5.3.2).
const TRANSMIT_QUEUE: usize = 1;

/// The most bytes that are taken from one request. Descriptors may overlap, so a chain could otherwise make this
/// process write gigabytes out of one page.
const MAX_REQUEST: usize = 64 * 1024;

/// The device.
#[derive(Debug)]
pub struct ConsoleDevice {
    output: File,
}

impl ConsoleDevice {
    /// A console that writes to `output`. When that blocks, the guest's console does, and nothing else.
    #[must_use]
    pub fn new(output: OwnedFd) -> Self {
        Self { output: output.into() }
    }

    fn transmit(&mut self, memory: &GuestRam, chain: Chain<'_>) {
        let Ok(reader) = chain.reader(memory) else { return };
        let mut reader = reader.take(MAX_REQUEST as u64);
        let mut block = [0; 1024];
        while let Ok(length @ 1..) = reader.read(&mut block) {
            // Without a reader the output is lost, as on a serial line with nothing plugged in.
            let _ = block.get(..length).map(|bytes| self.output.write_all(bytes));
        }
    }
}

impl Device for ConsoleDevice {
    fn queue_count(&self) -> usize {
        2
    }

    fn process_queue(&mut self, index: usize, queues: &mut [DeviceQueue<'_>]) {
        if index != TRANSMIT_QUEUE {
            return;
        }
        if let Some(queue) = queues.get_mut(index) {
            queue.drain(|memory, chain| {
                self.transmit(memory, chain);
                0
            });
        }
    }
}

#[cfg(test)]
mod tests;
