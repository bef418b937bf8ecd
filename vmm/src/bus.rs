//! Which device answers at which address. There is one bus for memory-mapped I/O and one for I/O ports.
//!
//! A bus is complete before the first vCPU runs and does not change then, so vCPU threads read it without a
//! lock; each device has one of its own, and no device calls another, so locks never nest.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::arch::x86_64::boot_params::Range;
use vmm::hypervisor::VmExit;

/// What a device's answer to a write means to the vCPU that wrote: break when it ends the machine.
pub(crate) type Flow = ControlFlow<VmExit>;

/// Something that vCPUs read from and write to. Called by vCPU threads, several at a time.
pub(crate) trait BusDevice: Send + Sync {
    /// Answers a read of `data.len()` bytes, `offset` bytes after the device's first address.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes a write.
    fn write(&self, offset: u64, data: &[u8]) -> Flow;
}

/// A device was given addresses that it cannot have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BusError {
    #[error("device addresses {start:#x}+{size:#x} overlap those of another device")]
    Overlap { start: u64, size: u64 },
    #[error("device addresses {start:#x}+{size:#x} are empty or beyond the address space")]
    Range { start: u64, size: u64 },
}

/// Devices by address.
#[derive(Default)]
pub(crate) struct Bus {
    /// Sorted by address, without overlap.
    devices: Vec<(Range, Arc<dyn BusDevice>)>,
}

impl Bus {
    /// Gives `size` addresses from `start` to `device`.
    pub(crate) fn insert(
        &mut self,
        start: u64,
        size: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), BusError> {
        let end = start.checked_add(size).filter(|end| *end > start);
        let end = end.ok_or(BusError::Range { start, size })?;
        let position = self.devices.partition_point(|(range, _)| range.start < start);
        let follows = self.devices.get(position).is_none_or(|(next, _)| next.start >= end);
        let before = position.checked_sub(1).and_then(|before| self.devices.get(before));
        let precedes = before.is_none_or(|(range, _)| range.start + range.size <= start);
        if !(follows && precedes) {
            return Err(BusError::Overlap { start, size });
        }
        self.devices.insert(position, (Range { start, size }, device));
        Ok(())
    }

    /// Reads; addresses that nobody has read as all ones, as on a bus without a driver.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((offset, device)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes; what goes to addresses that nobody has is lost.
    pub(crate) fn write(&self, address: u64, data: &[u8]) -> Flow {
        match self.find(address, data.len()) {
            Some((offset, device)) => device.write(offset, data),
            None => Flow::Continue(()),
        }
    }

    /// The device that has all of `length` addresses from `address`, and the offset in it.
    fn find(&self, address: u64, length: usize) -> Option<(u64, &dyn BusDevice)> {
        let after = self.devices.partition_point(|(range, _)| range.start <= address);
        let (range, device) = self.devices.get(after.checked_sub(1)?)?;
        let offset = address - range.start;
        let end = offset.checked_add(length as u64)?;
        (end <= range.size).then(|| (offset, device.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap());
        }

        fn write(&self, offset: u64, data: &[u8]) -> Flow {
            self.0.lock().unwrap().push((offset, data.to_vec()));
            if data == [0xff] { Flow::Break(VmExit::Reset) } else { Flow::Continue(()) }
        }
    }

    #[test]
    fn accesses_reach_the_device_that_has_the_whole_range() {
        let device = Arc::new(Recorder::default());
        let mut bus = Bus::default();
        bus.insert(0x100, 8, Arc::clone(&device) as Arc<dyn BusDevice>).unwrap();
        let read = |address, length| {
            let mut data = vec![0; length];
            bus.read(address, &mut data);
            data
        };
        assert_eq!(read(0x104, 4), [4; 4]);
        assert_eq!(read(0x106, 4), [0xff; 4], "crosses the end");
        assert_eq!(read(0xff, 1), [0xff]);
        assert_eq!(read(0x108, 1), [0xff]);
        assert_eq!(read(u64::MAX, 8), [0xff; 8]);
        assert_eq!(bus.write(0x101, &[1, 2]), Flow::Continue(()));
        assert_eq!(bus.write(0x200, &[0xff]), Flow::Continue(()));
        assert_eq!(bus.write(0x100, &[0xff]), Flow::Break(VmExit::Reset));
        assert_eq!(*device.0.lock().unwrap(), [(1, vec![1, 2]), (0, vec![0xff])]);
    }

    #[test]
    fn overlapping_and_impossible_ranges_are_refused() {
        let mut bus = Bus::default();
        let mut insert = |start, size| bus.insert(start, size, Arc::new(Recorder::default()));
        insert(0x100, 0x10).unwrap();
        insert(0x110, 0x10).unwrap();
        insert(0xf0, 0x10).unwrap();
        for (start, size) in [(0x100, 1), (0x10f, 2), (0xff, 2), (0x0, 0x1000), (0x11f, 1)] {
            assert_eq!(insert(start, size), Err(BusError::Overlap { start, size }));
        }
        for (start, size) in [(0x200, 0), (u64::MAX, 2)] {
            assert_eq!(insert(start, size), Err(BusError::Range { start, size }));
        }
    }
}
