//! The register layout of virtio over MMIO, virtio 1.2 section 4.2.2.
//!
//! Used buffers are announced by the backend through an irqfd, past this process. So the device cannot tell
//! whether there was one when the guest asks why it was interrupted: the used-buffer bit of the interrupt
//! status reads as set as long as the device runs. A driver that looks at its queues in vain loses a little
//! time; the configuration-change bit is exact, as only this process raises it.

use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES,
    VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING,
    VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_MAGIC_VALUE,
    VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH,
    VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY,
    VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW,
    VIRTIO_MMIO_SHM_BASE_HIGH, VIRTIO_MMIO_SHM_BASE_LOW, VIRTIO_MMIO_SHM_LEN_HIGH, VIRTIO_MMIO_SHM_LEN_LOW,
    VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use vmm_sys_util::eventfd::EventFd;

use super::config_space::Model;
use super::queue::{Queue, QueueFault, QueueRegisters};
use super::status::{DeviceStatus, Phase, Transition};
use crate::bus::{BusDevice, Flow};
use vmm::hypervisor::VmExit;

/// "virt" in little-endian ASCII.
const MAGIC: u32 = 0x7472_6976;
/// Register layout version 2.
const VERSION: u32 = 2;
/// "RUNV" in little-endian ASCII; drivers do not care.
const VENDOR: u32 = 0x564e_5552;

/// Who serves the queues.
pub(crate) trait Backend: Send {
    /// The features that it offers to a driver.
    fn features(&self) -> u64;

    /// Starts to serve `queues` with the features that the driver accepted.
    fn start(&mut self, features: u64, queues: &[Queue]) -> Result<(), StartFault>;

    /// Stops; when this returns, no queue is touched any more.
    fn stop(&mut self) -> Result<(), BackendFailure>;
}

/// The backend does not do its work: the end of the machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub(crate) struct BackendFailure {
    pub(crate) step: &'static str,
    #[source]
    pub(crate) source: vhost::Error,
}

/// A device did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartFault {
    /// The driver's fault: the device needs a reset.
    #[error("the driver set up an impossible queue")]
    Queue(#[source] QueueFault),
    /// The end of the machine.
    #[error("the backend failed")]
    Backend(#[source] BackendFailure),
}

/// A virtio device on the memory-mapped bus.
pub(crate) struct VirtioMmio {
    transport: Mutex<Transport>,
}

impl VirtioMmio {
    /// A device like `model`, served by `backend`, which interrupts the guest by `interrupt`.
    pub(crate) fn new(model: Model, backend: Box<dyn Backend>, interrupt: EventFd) -> Self {
        let transport = Transport {
            offered: backend.features(),
            registers: Registers::new(model.queue_sizes.len()),
            model,
            backend,
            interrupt,
        };
        Self { transport: Mutex::new(transport) }
    }

    fn lock(&self) -> MutexGuard<'_, Transport> {
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for VirtioMmio {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let transport = self.lock();
        if let Some(offset) = offset.checked_sub(u64::from(VIRTIO_MMIO_CONFIG)) {
            transport.read_config(offset, data);
            return;
        }
        // Section 4.2.2.2: the registers are read and written by aligned 32-bit accesses only.
        match (u32::try_from(offset), data.len()) {
            (Ok(offset), 4) if offset % 4 == 0 => {
                data.copy_from_slice(&transport.read_register(offset).to_le_bytes());
            }
            _ => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Flow {
        match (u32::try_from(offset), <[u8; 4]>::try_from(data)) {
            // No device of ours has configuration that a driver may write.
            (Ok(offset), Ok(bytes)) if offset % 4 == 0 && offset < VIRTIO_MMIO_CONFIG => {
                self.lock().write_register(offset, u32::from_le_bytes(bytes))
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// What a reset sets back.
struct Registers {
    status: DeviceStatus,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    queues: Vec<QueueRegisters>,
    /// The configuration-change interrupt is pending.
    config_changed: bool,
}

impl Registers {
    fn new(queues: usize) -> Self {
        Self {
            status: DeviceStatus::default(),
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues: vec![QueueRegisters::default(); queues],
            config_changed: false,
        }
    }
}

struct Transport {
    model: Model,
    offered: u64,
    registers: Registers,
    backend: Box<dyn Backend>,
    interrupt: EventFd,
}

impl Transport {
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (byte, index) in data.iter_mut().zip(offset..) {
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            *byte = self.model.config.get(index).copied().unwrap_or(0);
        }
    }

    fn read_register(&self, offset: u32) -> u32 {
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.model.device_id,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.offered, self.registers.device_features_select),
            VIRTIO_MMIO_QUEUE_NUM_MAX => self.selected_size().map_or(0, u32::from),
            VIRTIO_MMIO_QUEUE_READY => self.selected().map_or(0, |queue| u32::from(queue.ready)),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt_status(),
            VIRTIO_MMIO_STATUS => self.registers.status.bits(),
            // Section 4.2.2.1: a shared memory region that is not there has length and base -1.
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            // The configuration never changes.
            VIRTIO_MMIO_CONFIG_GENERATION => 0,
            // Reserved and write-only registers.
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) -> Flow {
        let registers = &mut self.registers;
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => registers.device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => registers.driver_features_select = value,
            VIRTIO_MMIO_QUEUE_SEL => registers.queue_select = value,
            VIRTIO_MMIO_INTERRUPT_ACK => {
                registers.config_changed &= value & VIRTIO_MMIO_INT_CONFIG == 0;
            }
            VIRTIO_MMIO_STATUS => return self.write_status(value),
            VIRTIO_MMIO_DRIVER_FEATURES if registers.status.phase() == Phase::Negotiating => {
                let select = registers.driver_features_select;
                set_half(&mut registers.driver_features, select, value);
            }
            // Kicks are caught by ioeventfds; one that comes here is for a queue that does not exist. All
            // else is read-only or reserved, or belongs to a queue.
            _ => self.write_queue_register(offset, value),
        }
        ControlFlow::Continue(())
    }

    /// Queues can be set up while the driver configures the device and at no other time: once the backend
    /// works with them, changes are ignored.
    fn write_queue_register(&mut self, offset: u32, value: u32) {
        if self.registers.status.phase() != Phase::Configuring {
            return;
        }
        let Some(queue) = self.selected_mut() else { return };
        if offset == VIRTIO_MMIO_QUEUE_READY {
            queue.ready = value == 1;
            return;
        }
        if queue.ready {
            return;
        }
        match offset {
            VIRTIO_MMIO_QUEUE_NUM => queue.size = value,
            VIRTIO_MMIO_QUEUE_DESC_LOW => set_half(&mut queue.descriptors, 0, value),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => set_half(&mut queue.descriptors, 1, value),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_half(&mut queue.available, 0, value),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_half(&mut queue.available, 1, value),
            VIRTIO_MMIO_QUEUE_USED_LOW => set_half(&mut queue.used, 0, value),
            VIRTIO_MMIO_QUEUE_USED_HIGH => set_half(&mut queue.used, 1, value),
            _ => {}
        }
    }

    fn write_status(&mut self, value: u32) -> Flow {
        let accepted = self.registers.driver_features;
        let features_fit = accepted & !self.offered == 0 && accepted & 1 << VIRTIO_F_VERSION_1 != 0;
        let before = self.registers.status.phase();
        match self.registers.status.write(value, features_fit) {
            Transition::None => ControlFlow::Continue(()),
            Transition::Start => self.start(),
            Transition::Reset => {
                self.registers = Registers::new(self.model.queue_sizes.len());
                // A device that failed may have been started before.
                if matches!(before, Phase::Running | Phase::Failed) {
                    self.stop()
                } else {
                    ControlFlow::Continue(())
                }
            }
        }
    }

    fn start(&mut self) -> Flow {
        let started = self.ready_queues().map_err(StartFault::Queue);
        let started = started.and_then(|queues| self.backend.start(self.registers.driver_features, &queues));
        match started {
            Ok(()) => ControlFlow::Continue(()),
            Err(StartFault::Queue(fault)) => {
                log::warn!("virtio-{}: {fault}; it needs a reset", self.model.name);
                self.need_reset();
                ControlFlow::Continue(())
            }
            Err(StartFault::Backend(failure)) => self.end_machine(&failure),
        }
    }

    fn stop(&mut self) -> Flow {
        match self.backend.stop() {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => self.end_machine(&failure),
        }
    }

    /// Section 2.1.2: the device sets the bit and tells the driver by a configuration-change interrupt.
    fn need_reset(&mut self) {
        self.registers.status.fail();
        self.registers.config_changed = true;
        if let Err(error) = self.interrupt.write(1) {
            log::warn!("virtio-{}: cannot interrupt the guest: {error}", self.model.name);
        }
    }

    fn end_machine(&self, failure: &BackendFailure) -> Flow {
        let message =
            format!("the backend of virtio-{} failed: {failure}: {}", self.model.name, failure.source);
        ControlFlow::Break(VmExit::Failed { message })
    }

    fn ready_queues(&self) -> Result<Vec<Queue>, QueueFault> {
        let queues = self.registers.queues.iter().zip(&self.model.queue_sizes).enumerate();
        queues
            .filter(|(_, (registers, _))| registers.ready)
            .map(|(index, (registers, max_size))| registers.queue(index, *max_size))
            .collect()
    }

    fn interrupt_status(&self) -> u32 {
        let mut status = 0;
        if self.registers.status.phase() == Phase::Running {
            status |= VIRTIO_MMIO_INT_VRING;
        }
        if self.registers.config_changed {
            status |= VIRTIO_MMIO_INT_CONFIG;
        }
        status
    }

    fn selected_index(&self) -> Option<usize> {
        usize::try_from(self.registers.queue_select).ok()
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.registers.queues.get(self.selected_index()?)
    }

    fn selected_mut(&mut self) -> Option<&mut QueueRegisters> {
        let index = self.selected_index()?;
        self.registers.queues.get_mut(index)
    }

    fn selected_size(&self) -> Option<u16> {
        self.model.queue_sizes.get(self.selected_index()?).copied()
    }
}

/// The lower (`select` 0) or upper (1) half of `value`; there are no more.
fn half(value: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

/// Sets the half of `value` that [`half`] reads.
fn set_half(value: &mut u64, select: u32, part: u32) {
    match select {
        0 => *value = *value & !0xffff_ffff | u64::from(part),
        1 => *value = *value & 0xffff_ffff | u64::from(part) << 32,
        _ => {}
    }
}

#[cfg(test)]
mod tests;
