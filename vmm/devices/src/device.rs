//! What a device is here: something that works on virtqueues and guest memory and says whether the driver must
//! be told. It does not know who drives it; [`crate::server`] does.

use std::os::fd::BorrowedFd;

use crate::queue::DeviceQueue;

/// A virtio device. Exactly one thread works in it at a time.
///
/// Whatever the driver does wrong is absorbed: nothing here returns an error to the server, whose library would
/// end the device's thread for good.
pub trait Device: Send + 'static {
    /// How many virtqueues it has, in the order of its section of the specification.
    fn queue_count(&self) -> usize;

    /// Feature bits of the device type; those of the transport and of virtqueues are the server's.
    fn features(&self) -> u64 {
        0
    }

    /// The configuration space, little-endian.
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    /// The driver added buffers to queue `index`.
    fn process_queue(&mut self, index: usize, queues: &mut [DeviceQueue<'_>]);

    /// Readable when [`Device::process_events`] has work from the host's side.
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The driver has acknowledged `features`, of those of the device, the transport and virtqueues. Comes after
    /// [`Device::reset`].
    fn set_features(&mut self, _features: u64) {}

    /// Something happened on the host's side.
    fn process_events(&mut self, _queues: &mut [DeviceQueue<'_>]) {}

    /// A driver begins anew: nothing of what an earlier one did remains.
    fn reset(&mut self) {}
}
