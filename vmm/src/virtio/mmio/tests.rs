//! The registers as a driver sees them, with a backend that only remembers what it is told.

use std::sync::Arc;

use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;

const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << 29 | 0b11;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Start(u64, Vec<Queue>),
    Stop,
}

#[derive(Default, Clone)]
struct Recorder {
    calls: Arc<Mutex<Vec<Call>>>,
    fault: Option<QueueFault>,
}

impl Backend for Recorder {
    fn features(&self) -> u64 {
        FEATURES
    }

    fn start(&mut self, features: u64, queues: &[Queue]) -> Result<(), StartFault> {
        self.calls.lock().unwrap().push(Call::Start(features, queues.to_vec()));
        self.fault.map_or(Ok(()), |fault| Err(StartFault::Queue(fault)))
    }

    fn stop(&mut self) -> Result<(), BackendFailure> {
        self.calls.lock().unwrap().push(Call::Stop);
        Ok(())
    }
}

/// A driver of a device with two queues, of at most 16 and 256 descriptors.
struct Driver {
    device: VirtioMmio,
    recorder: Recorder,
    interrupt: EventFd,
}

impl Driver {
    fn new() -> Self {
        Self::with(Recorder::default())
    }

    fn with(recorder: Recorder) -> Self {
        let model =
            Model { name: "test", device_id: 42, queue_sizes: vec![16, 256], config: (1..=10).collect() };
        let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
        let line = interrupt.try_clone().unwrap();
        Self { device: VirtioMmio::new(model, Box::new(recorder.clone()), line), recorder, interrupt }
    }

    fn read(&self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.device.read(u64::from(register), &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, register: u32, value: u32) {
        assert_eq!(self.device.write(u64::from(register), &value.to_le_bytes()), Flow::Continue(()));
    }

    fn calls(&self) -> Vec<Call> {
        self.recorder.calls.lock().unwrap().clone()
    }

    /// Up to `FEATURES_OK`, accepting all that is offered.
    fn negotiate(&self) {
        self.write(VIRTIO_MMIO_STATUS, 1);
        self.write(VIRTIO_MMIO_STATUS, 3);
        for select in [0, 1] {
            self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, self.read(VIRTIO_MMIO_DEVICE_FEATURES));
        }
        self.write(VIRTIO_MMIO_STATUS, 11);
        assert_eq!(self.read(VIRTIO_MMIO_STATUS), 11);
    }

    fn set_up_queue(&self, index: u32) {
        self.write(VIRTIO_MMIO_QUEUE_SEL, index);
        self.write(VIRTIO_MMIO_QUEUE_NUM, 8);
        self.write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000);
        self.write(VIRTIO_MMIO_QUEUE_DESC_HIGH, 0x1);
        self.write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0x2000);
        self.write(VIRTIO_MMIO_QUEUE_USED_LOW, 0x3000);
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
    }

    fn run(&self) {
        self.negotiate();
        self.set_up_queue(1);
        self.write(VIRTIO_MMIO_STATUS, 15);
    }
}

fn queue_1() -> Queue {
    Queue { index: 1, size: 8, descriptors: 0x1_0000_1000, available: 0x2000, used: 0x3000 }
}

#[test]
fn a_device_says_what_it_is() {
    let driver = Driver::new();
    let registers = [
        VIRTIO_MMIO_MAGIC_VALUE,
        VIRTIO_MMIO_VERSION,
        VIRTIO_MMIO_DEVICE_ID,
        VIRTIO_MMIO_STATUS,
        VIRTIO_MMIO_SHM_LEN_LOW,
        VIRTIO_MMIO_SHM_LEN_HIGH,
        VIRTIO_MMIO_CONFIG_GENERATION,
    ];
    let values = registers.map(|register| driver.read(register));
    assert_eq!(values, [0x7472_6976, 2, 42, 0, u32::MAX, u32::MAX, 0]);
    for (queue, size) in [(0, 16), (1, 256), (2, 0), (u32::MAX, 0)] {
        driver.write(VIRTIO_MMIO_QUEUE_SEL, queue);
        assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_NUM_MAX), size);
    }
}

#[test]
fn the_configuration_space_takes_any_width_and_no_writes() {
    let driver = Driver::new();
    let mut data = [0; 8];
    driver.device.read(0x101, &mut data[..1]);
    assert_eq!(data[0], 2);
    assert_eq!(driver.device.write(0x101, &[9]), Flow::Continue(()));
    driver.device.read(0x100, &mut data);
    assert_eq!(data, [1, 2, 3, 4, 5, 6, 7, 8]);
    driver.device.read(0x108, &mut data);
    assert_eq!(data, [9, 10, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn registers_are_accessed_by_aligned_words_only() {
    let driver = Driver::new();
    for (offset, length) in [(0, 1), (0, 2), (0, 8), (2, 4), (1, 1)] {
        let mut data = vec![0; length];
        driver.device.read(offset, &mut data);
        assert!(data.iter().all(|byte| *byte == 0xff), "{offset} {length}");
    }
    assert_eq!(driver.device.write(u64::from(VIRTIO_MMIO_STATUS), &[1]), Flow::Continue(()));
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn driver_ok_starts_the_ready_queues_with_the_accepted_features() {
    let driver = Driver::new();
    driver.run();
    assert_eq!(driver.calls(), [Call::Start(FEATURES, vec![queue_1()])]);
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 15);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
    driver.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING, "an irqfd may have fired");
}

#[test]
fn features_that_were_not_offered_are_refused() {
    for (low, high) in [(0b100, 1), (0, 0), (0, 0b11)] {
        let driver = Driver::new();
        driver.write(VIRTIO_MMIO_STATUS, 3);
        for (select, value) in [(0, low), (1, high)] {
            driver.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            driver.write(VIRTIO_MMIO_DRIVER_FEATURES, value);
        }
        driver.write(VIRTIO_MMIO_STATUS, 11);
        assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 3, "{low:#x} {high:#x}");
    }
}

#[test]
fn a_running_device_ignores_every_write_to_its_set_up() {
    let driver = Driver::new();
    driver.run();
    for register in (0..0x200).step_by(4).filter(|register| *register != VIRTIO_MMIO_STATUS) {
        for value in [0, 1, 3, 0x8000, u32::MAX] {
            driver.write(register, value);
            driver.write(VIRTIO_MMIO_QUEUE_SEL, 1);
        }
    }
    let transport = driver.device.lock();
    assert_eq!(transport.registers.driver_features, FEATURES);
    assert_eq!(transport.ready_queues().unwrap(), [queue_1()]);
    drop(transport);
    assert_eq!(driver.calls().len(), 1);
}

#[test]
fn queues_are_set_up_only_after_features_and_before_ready() {
    let driver = Driver::new();
    driver.set_up_queue(0);
    driver.write(VIRTIO_MMIO_STATUS, 3);
    driver.set_up_queue(0);
    driver.negotiate();
    assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_READY), 0);
    driver.set_up_queue(1);
    driver.write(VIRTIO_MMIO_QUEUE_NUM, 16);
    driver.write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0x9000);
    driver.write(VIRTIO_MMIO_STATUS, 15);
    assert_eq!(driver.calls(), [Call::Start(FEATURES, vec![queue_1()])]);
}

#[test]
fn a_reset_stops_the_backend_and_the_device_can_be_used_again() {
    let driver = Driver::new();
    driver.run();
    driver.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 0);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    driver.write(VIRTIO_MMIO_STATUS, 0);
    driver.run();
    let start = Call::Start(FEATURES, vec![queue_1()]);
    assert_eq!(driver.calls(), [start.clone(), Call::Stop, start]);
}

#[test]
fn an_impossible_queue_makes_the_device_need_a_reset() {
    let set_ups: [(u32, u32); 4] = [
        (VIRTIO_MMIO_QUEUE_NUM, 3),
        (VIRTIO_MMIO_QUEUE_NUM, 512),
        (VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1008),
        (VIRTIO_MMIO_QUEUE_USED_LOW, 0x3001),
    ];
    for (register, value) in set_ups {
        let driver = Driver::new();
        driver.negotiate();
        driver.set_up_queue(1);
        driver.write(VIRTIO_MMIO_QUEUE_READY, 0);
        driver.write(register, value);
        driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
        driver.write(VIRTIO_MMIO_STATUS, 15);
        assert_needs_reset(&driver);
        assert_eq!(driver.calls(), []);
    }
}

#[test]
fn a_queue_outside_memory_makes_the_device_need_a_reset() {
    let fault = QueueFault::Address { index: 1, address: 0x1_0000_1000 };
    let driver = Driver::with(Recorder { fault: Some(fault), ..Recorder::default() });
    driver.run();
    assert_needs_reset(&driver);
    driver.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 0);
}

fn assert_needs_reset(driver: &Driver) {
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 15 | 0x40);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
    assert_eq!(driver.interrupt.read().unwrap(), 1, "the driver is told");
    driver.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_CONFIG);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn random_accesses_never_panic_nor_start_an_impossible_queue() {
    let driver = Driver::new();
    let mut state = 3_u64;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let values = [0, 1, 3, 8, 11, 15, 16, 0x1000, 0x8000_0000, u32::MAX];
    for _ in 0..200_000 {
        let register = u32::try_from(below(0x48) * 4).unwrap();
        let value = values[usize::try_from(below(10)).unwrap()];
        if below(4) == 0 {
            driver.read(register);
        } else {
            driver.write(register, value);
        }
    }
    for call in driver.calls() {
        if let Call::Start(features, queues) = call {
            assert_eq!(features & !FEATURES, 0);
            for queue in queues {
                assert!(queue.size.is_power_of_two() && queue.size <= [16, 256][queue.index]);
            }
        }
    }
}
