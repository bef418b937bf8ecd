//! The registers of one virtqueue, and the queue that they describe when the device starts.

/// What the driver has set so far. A reset makes it all zero.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct QueueRegisters {
    /// Number of descriptors.
    pub(crate) size: u32,
    /// The driver has finished with this queue.
    pub(crate) ready: bool,
    /// Guest-physical address of the descriptor table.
    pub(crate) descriptors: u64,
    /// Guest-physical address of the available ring.
    pub(crate) available: u64,
    /// Guest-physical address of the used ring.
    pub(crate) used: u64,
}

/// A queue that a backend is to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queue {
    /// Its number in the device.
    pub(crate) index: usize,
    /// Number of descriptors, a power of two.
    pub(crate) size: u16,
    /// Guest-physical address of the descriptor table.
    pub(crate) descriptors: u64,
    /// Guest-physical address of the available ring.
    pub(crate) available: u64,
    /// Guest-physical address of the used ring.
    pub(crate) used: u64,
}

/// A driver set up a queue that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueueFault {
    #[error("queue {index} has {size} descriptors")]
    Size { index: usize, size: u32 },
    #[error("a part of queue {index} at {address:#x} is not aligned")]
    Alignment { index: usize, address: u64 },
    #[error("a part of queue {index} at {address:#x} is not in guest memory")]
    Address { index: usize, address: u64 },
}

impl QueueRegisters {
    /// The queue that these registers describe, for a device that allows `max_size` descriptors. Alignment is
    /// that of virtio 1.2 section 2.7; whether the addresses are memory is not looked at.
    pub(crate) fn queue(&self, index: usize, max_size: u16) -> Result<Queue, QueueFault> {
        let size = u16::try_from(self.size).ok().filter(|size| size.is_power_of_two() && *size <= max_size);
        let size = size.ok_or(QueueFault::Size { index, size: self.size })?;
        for (address, alignment) in [(self.descriptors, 16), (self.available, 2), (self.used, 4)] {
            if address % alignment != 0 {
                return Err(QueueFault::Alignment { index, address });
            }
        }
        Ok(Queue { index, size, descriptors: self.descriptors, available: self.available, used: self.used })
    }
}

impl Queue {
    /// The three parts as (address, bytes): virtio 1.2 sections 2.7.5, 2.7.6 and 2.7.8, each with the event
    /// field of `VIRTIO_F_EVENT_IDX`.
    pub(crate) fn parts(&self) -> [(u64, u64); 3] {
        let size = u64::from(self.size);
        [(self.descriptors, 16 * size), (self.available, 6 + 2 * size), (self.used, 6 + 8 * size)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_alignments_are_checked() {
        let good =
            QueueRegisters { size: 256, ready: true, descriptors: 0x1000, available: 0x2002, used: 0x3004 };
        assert!(good.queue(0, 256).is_ok());
        for size in [0, 3, 512, 0x1_0000, u32::MAX] {
            let result = QueueRegisters { size, ..good }.queue(1, 256);
            assert_eq!(result, Err(QueueFault::Size { index: 1, size }));
        }
        let misaligned = [
            QueueRegisters { descriptors: 0x1008, ..good },
            QueueRegisters { available: 0x2001, ..good },
            QueueRegisters { used: 0x3002, ..good },
        ];
        for registers in misaligned {
            assert!(matches!(registers.queue(0, 256), Err(QueueFault::Alignment { .. })));
        }
    }

    #[test]
    fn parts_have_the_sizes_of_the_specification() {
        let queue = Queue { index: 0, size: 4, descriptors: 0, available: 0x100, used: 0x200 };
        assert_eq!(queue.parts(), [(0, 64), (0x100, 14), (0x200, 38)]);
    }
}
