//! Serves devices to vhost-user frontends. The only place that knows `vhost-user-backend`.
//!
//! Each device has two threads, both made by that library: one answers the frontend's requests, the other works
//! on the queues. A device that comes in parts has one of the other kind for each part, with the queues of that part. The worker
//! locks its part of the device, then its queues, in this order; the first thread locks one of them at a time.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::{Error as VhostUserError, Listener, VhostUserVirtioFeatures};
use vhost_user_backend::bitmap::BitmapMmapRegion;
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringMutex, VringT};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use crate::device::Device;
use crate::queue::{DeviceQueue, GuestRam};

type Memory = GuestMemoryAtomic<GuestRam>;

/// The most descriptors that a driver may ask for in a queue.
const MAX_QUEUE_SIZE: usize = 1024;

/// Why a device cannot be served, or is served no longer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message is the documentation")]
pub enum ServerError {
    #[error("cannot use the vhost-user socket of the {device} device")]
    Socket { device: &'static str, source: io::Error },
    // The library's error is neither a `std::error::Error` nor `Sync`, so it cannot be a source.
    #[error("cannot start the {device} device: {reason}")]
    Start { device: &'static str, reason: String },
    #[error("cannot watch the host's side of the {device} device")]
    Watch { device: &'static str, source: io::Error },
    #[error("the vhost-user connection of the {device} device failed: {reason}")]
    Connection { device: &'static str, reason: String },
}

/// A device that accepts its frontend.
pub trait Served {
    /// Returns when the frontend has closed the connection.
    ///
    /// # Errors
    /// The frontend broke the vhost-user protocol.
    fn wait(&mut self) -> Result<(), ServerError>;
}

struct Daemon<D: Device> {
    name: &'static str,
    daemon: VhostUserDaemon<Arc<Backend<D>>>,
}

/// Serves `device` to the one frontend whose connection is pending at `listener`.
///
/// # Errors
/// The connection cannot be accepted, or a thread cannot be started.
pub fn serve<D: Device>(
    name: &'static str,
    device: D,
    listener: OwnedFd,
) -> Result<Box<dyn Served>, ServerError> {
    serve_parts(name, vec![device], listener)
}

/// Serves a device that comes in parts, each with a thread of its own, and the queues that follow those of the part before.
/// What is asked of the device as a whole, the first part answers.
///
/// # Errors
/// The connection cannot be accepted, or a thread cannot be started.
pub fn serve_parts<D: Device>(
    name: &'static str,
    parts: Vec<D>,
    listener: OwnedFd,
) -> Result<Box<dyn Served>, ServerError> {
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(false).map_err(|source| ServerError::Socket { device: name, source })?;

    let start =
        |error: vhost_user_backend::Error| ServerError::Start { device: name, reason: error.to_string() };
    let memory = Memory::new(GuestRam::new());
    let event_fds: Vec<_> = parts.iter().map(|part| part.event_fd().map(|fd| fd.as_raw_fd())).collect();
    let backend = Arc::new(Backend::new(parts, memory.clone()));
    let event = event_id(backend.queue_count());
    let mut daemon = VhostUserDaemon::new(name.to_owned(), backend, memory).map_err(start)?;
    for (handler, event_fd) in daemon.get_epoll_handlers().into_iter().zip(event_fds) {
        let Some(event_fd) = event_fd else { continue };
        handler
            .register_listener(event_fd, EventSet::IN, event)
            .map_err(|source| ServerError::Watch { device: name, source })?;
    }
    daemon.start(&mut Listener::from(listener)).map_err(start)?;
    Ok(Box::new(Daemon { name, daemon }))
}

/// Queues have the events from 0; the next one is the library's own.
fn event_id(queue_count: usize) -> u64 {
    queue_count as u64 + 1
}

impl<D: Device> Served for Daemon<D> {
    fn wait(&mut self) -> Result<(), ServerError> {
        use vhost_user_backend::Error::HandleRequest;
        let result = self.daemon.wait();
        // Or else whoever drops the daemon waits for its worker for ever.
        for handler in self.daemon.get_epoll_handlers() {
            handler.send_exit_event();
        }
        match result {
            Ok(()) | Err(HandleRequest(VhostUserError::Disconnected | VhostUserError::PartialMessage)) => {
                Ok(())
            }
            Err(error) => Err(ServerError::Connection { device: self.name, reason: error.to_string() }),
        }
    }
}

/// Between a device and the library.
struct Backend<D> {
    parts: Vec<Part<D>>,
    has_config: bool,
    memory: Memory,
}

/// What one thread works on.
struct Part<D> {
    device: Mutex<D>,
    queue_count: usize,
}

impl<D> Part<D> {
    fn device(&self) -> MutexGuard<'_, D> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Device> Backend<D> {
    fn new(parts: Vec<D>, memory: Memory) -> Self {
        let has_config = parts.first().is_some_and(|part| !part.config().is_empty());
        let part = |device: D| Part { queue_count: device.queue_count(), device: Mutex::new(device) };
        Self { parts: parts.into_iter().map(part).collect(), has_config, memory }
    }

    fn queue_count(&self) -> usize {
        self.parts.iter().map(|part| part.queue_count).sum()
    }

    /// That which stands for the whole.
    fn first(&self) -> Option<MutexGuard<'_, D>> {
        self.parts.first().map(Part::device)
    }
}

impl<D: Device> VhostUserBackend for Backend<D> {
    type Bitmap = BitmapMmapRegion;
    type Vring = VringMutex<Memory>;

    fn num_queues(&self) -> usize {
        self.queue_count()
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        let mut first = 0;
        let mask = |part: &Part<D>| {
            let queues = (0..u64::BITS as usize).skip(first).take(part.queue_count);
            first += part.queue_count;
            queues.fold(0, |mask, queue| mask | 1 << queue)
        };
        self.parts.iter().map(mask).collect()
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_F_VERSION_1)
            | (1 << VIRTIO_RING_F_INDIRECT_DESC)
            | (1 << VIRTIO_RING_F_EVENT_IDX)
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
            | self.first().map_or(0, |device| device.features())
    }

    fn acked_features(&self, features: u64) {
        for part in &self.parts {
            let mut device = part.device();
            device.reset();
            device.set_features(features);
        }
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        // Frontends of devices that have nothing to configure (QEMU's rng) complain about it.
        let config = if self.has_config {
            VhostUserProtocolFeatures::CONFIG
        } else {
            VhostUserProtocolFeatures::empty()
        };
        // QEMU (7.2 to 10) adds each region of memory once for each pair of queues of a network device, which is an error; a table
        // of all of them it sends once.
        let slots = if self.parts.len() > 1 {
            VhostUserProtocolFeatures::empty()
        } else {
            VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        };
        config
            | slots
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn reset_device(&self) {
        self.parts.iter().for_each(|part| part.device().reset());
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        // What lies behind a device's configuration space reads as zero (virtio 1.2 section 2.5.1 leaves it open).
        let config = self.first().map_or_else(Vec::new, |device| device.config());
        config.into_iter().chain(std::iter::repeat(0)).skip(offset as usize).take(size as usize).collect()
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        // Without one, the process ends nonetheless, but not in order.
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn update_memory(&self, _memory: Memory) -> io::Result<()> {
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _events: EventSet,
        vrings: &[Self::Vring],
        thread: usize,
    ) -> io::Result<()> {
        let Some(part) = self.parts.get(thread) else { return Ok(()) };
        let mut device = part.device();
        let memory = self.memory.memory();
        let mut states: Vec<_> = vrings.iter().map(VringT::get_mut).collect();
        let mut queues: Vec<_> = states
            .iter_mut()
            .map(|state| {
                let active = state.is_enabled() && state.get_queue().ready();
                DeviceQueue::new(state.get_queue_mut(), &memory, active)
            })
            .collect();
        if usize::from(event) < part.queue_count {
            device.process_queue(event.into(), &mut queues);
        } else {
            device.process_events(&mut queues);
        }
        let signals: Vec<_> = queues.iter_mut().map(DeviceQueue::take_signal).collect();
        for (state, signal) in states.iter().zip(signals) {
            if signal {
                // An eventfd whose counter is full has its reader woken already.
                let _ = state.signal_used_queue();
            }
        }
        Ok(())
    }
}
