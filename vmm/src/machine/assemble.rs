//! Puts a machine together from its configuration: one call for each step.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use vmm::config::DeviceKind;
use vmm::control::{BootFile, DeviceSocket, InheritError, ProcessConfig, inherit};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{BackendWatch, Machine};
use crate::arch::x86_64::boot_params::{Range, zero_page};
use crate::arch::x86_64::layout::{self, VirtioSlot};
use crate::arch::x86_64::{mp_table, registers};
use crate::boot::cmdline::{self, CommandLineError};
use crate::boot::initrd::{self, InitrdError};
use crate::boot::kernel::{self, Kernel, KernelError};
use crate::bus::{BusDevice, BusError};
use crate::kvm::capabilities::{self, KvmError};
use crate::kvm::exit::Buses;
use crate::kvm::vcpu::{Vcpu, VcpuError};
use crate::kvm::vm::{Vm, VmError};
use crate::memory::{Memory, MemoryError};
use crate::platform::console::Console;
use crate::platform::reset::{DebugExit, I8042};
use crate::platform::serial::SerialPort;
use crate::virtio::config_space::{self, DeviceKindError, Model};
use crate::virtio::frontend::{self, ConnectError, VhostUser};
use crate::virtio::mmio::VirtioMmio;

/// A step of putting the machine together failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssembleError {
    #[error("cannot use the configuration")]
    Inherit(#[source] InheritError),
    #[error("cannot use KVM")]
    Kvm(#[source] KvmError),
    #[error("cannot make the virtual machine")]
    Vm(#[source] VmError),
    #[error("cannot make a vCPU")]
    Vcpu(#[source] VcpuError),
    #[error("cannot set up guest memory")]
    Memory(#[source] MemoryError),
    #[error("cannot use the guest kernel {}", path.display())]
    Kernel {
        path: PathBuf,
        #[source]
        source: KernelError,
    },
    #[error("cannot use the initrd {}", path.display())]
    Initrd {
        path: PathBuf,
        #[source]
        source: InitrdError,
    },
    #[error("cannot use the kernel parameters")]
    CommandLine(#[source] CommandLineError),
    #[error("cannot describe a device")]
    Device(#[source] DeviceKindError),
    #[error("the machine has no place for device number {0}")]
    TooManyDevices(usize),
    #[error("cannot connect virtio-{name}")]
    Connect {
        name: &'static str,
        #[source]
        source: ConnectError,
    },
    #[error("cannot make an eventfd")]
    EventFd(#[source] io::Error),
    #[error("cannot place a device")]
    Bus(#[source] BusError),
}

/// Puts the machine together.
pub(crate) fn assemble(config: &ProcessConfig) -> Result<Machine, AssembleError> {
    let inherited = Inherited::take(config).map_err(AssembleError::Inherit)?;
    let cpus = config.cpus.get();
    let kvm = capabilities::open(cpus).map_err(AssembleError::Kvm)?;
    let memory = Arc::new(Memory::new(config.memory_mib).map_err(AssembleError::Memory)?);
    let kernel = load_boot_files(config, inherited.kernel, inherited.initrd, &memory)?;
    let vm = Vm::new(&kvm, cpus, &memory).map_err(AssembleError::Vm)?;

    let mut buses = Buses::default();
    let serial = add_platform(&mut buses, &vm, inherited.console)?;
    let mut backends = Vec::with_capacity(inherited.devices.len());
    for (index, (device, socket)) in config.devices.iter().zip(inherited.devices).enumerate() {
        backends.push(add_device(&mut buses, &vm, &memory, index, device, socket)?);
    }
    let vcpus = create_vcpus(&vm, cpus, &kernel)?;
    Ok(Machine { vcpus, buses: Arc::new(buses), serial, backends, vm, memory })
}

/// The descriptors that the configuration names.
struct Inherited {
    kernel: OwnedFd,
    initrd: OwnedFd,
    console: OwnedFd,
    devices: Vec<OwnedFd>,
}

impl Inherited {
    /// Takes all of them, before this process opens any of its own.
    fn take(config: &ProcessConfig) -> Result<Self, InheritError> {
        Ok(Self {
            kernel: inherit(config.kernel.fd)?,
            initrd: inherit(config.initrd.fd)?,
            console: inherit(config.console_fd)?,
            devices: config.devices.iter().map(|device| inherit(device.fd)).collect::<Result<_, _>>()?,
        })
    }
}

/// Fills guest memory: kernel, initrd, and what they are told.
fn load_boot_files(
    config: &ProcessConfig,
    kernel: OwnedFd,
    initrd: OwnedFd,
    memory: &Memory,
) -> Result<Kernel, AssembleError> {
    let path = |file: &BootFile| file.path.clone();
    let kernel = kernel::load(memory, &File::from(kernel))
        .map_err(|source| AssembleError::Kernel { path: path(&config.kernel), source })?;
    let initrd = initrd::load(memory, &File::from(initrd), kernel.end)
        .map_err(|source| AssembleError::Initrd { path: path(&config.initrd), source })?;
    write_start(config, memory, initrd)?;
    Ok(kernel)
}

/// Writes the structures by which the kernel starts and finds the machine.
fn write_start(config: &ProcessConfig, memory: &Memory, initrd: Range) -> Result<(), AssembleError> {
    let slots: Vec<_> = (0..config.devices.len()).map_while(layout::virtio_slot).collect();
    let boot = cmdline::Boot {
        verbose: config.verbose_console,
        virtio_console: config.devices.iter().any(|device| device.kind == DeviceKind::Console),
        slots: &slots,
        parameters: &config.kernel_parameters,
    };
    let line = cmdline::command_line(&boot).map_err(AssembleError::CommandLine)?;
    let ram: Vec<_> = memory.regions().map(|region| region.guest).collect();
    let write = |address, bytes: &[u8]| memory.write(address, bytes).map_err(AssembleError::Memory);
    write(layout::COMMAND_LINE, line.as_bytes())?;
    write(layout::ZERO_PAGE, vm_memory::ByteValued::as_slice(&zero_page(&ram, initrd)))?;
    let lines: Vec<_> = [layout::TIMER_LINE, layout::SERIAL_LINE]
        .into_iter()
        .chain(slots.iter().map(|slot| slot.line))
        .filter_map(|line| u8::try_from(line).ok())
        .collect();
    write(layout::MP_TABLE, &mp_table::mp_table(config.cpus.get(), &lines))?;
    for table in registers::start_tables() {
        write(table.address, &table.bytes)?;
    }
    Ok(())
}

/// Adds the serial port and the ports that end the machine.
fn add_platform(buses: &mut Buses, vm: &Vm, console: OwnedFd) -> Result<Arc<SerialPort>, AssembleError> {
    let interrupt = EventFd::new(EFD_NONBLOCK).map_err(AssembleError::EventFd)?;
    vm.connect_interrupt(&interrupt, layout::SERIAL_LINE).map_err(AssembleError::Vm)?;
    let serial = Arc::new(SerialPort::new(Console::new(console), interrupt));
    let mut add = |port: u16, count: u16, device: Arc<dyn BusDevice>| {
        buses.ports.insert(u64::from(port), u64::from(count), device).map_err(AssembleError::Bus)
    };
    add(layout::SERIAL_PORT, layout::SERIAL_PORTS, Arc::clone(&serial) as _)?;
    add(layout::I8042_COMMAND_PORT, 1, Arc::new(I8042))?;
    add(layout::DEBUG_EXIT_PORT, 1, Arc::new(DebugExit))?;
    Ok(serial)
}

/// Adds the `index`th virtio device.
fn add_device(
    buses: &mut Buses,
    vm: &Vm,
    memory: &Arc<Memory>,
    index: usize,
    device: &DeviceSocket,
    socket: OwnedFd,
) -> Result<BackendWatch, AssembleError> {
    let slot = layout::virtio_slot(index).ok_or(AssembleError::TooManyDevices(index))?;
    let model = config_space::model(&device.kind).map_err(AssembleError::Device)?;
    let name = model.name;
    let watch = socket.as_fd().try_clone_to_owned().map_err(AssembleError::EventFd)?;
    let device = virtio_device(vm, memory, slot, model, socket)?;
    buses.mmio.insert(slot.base, layout::VIRTIO_SIZE, Arc::new(device)).map_err(AssembleError::Bus)?;
    Ok(BackendWatch { name, socket: watch })
}

/// Connects a device's backend, kicks and interrupt.
fn virtio_device(
    vm: &Vm,
    memory: &Arc<Memory>,
    slot: VirtioSlot,
    model: Model,
    socket: OwnedFd,
) -> Result<VirtioMmio, AssembleError> {
    let name = model.name;
    let interrupt = EventFd::new(EFD_NONBLOCK).map_err(AssembleError::EventFd)?;
    vm.connect_interrupt(&interrupt, slot.line).map_err(AssembleError::Vm)?;
    let call = interrupt.try_clone().map_err(AssembleError::EventFd)?;
    let queues = model.queue_sizes.len();
    let backend = VhostUser::connect(frontend::stream(socket), queues, Arc::clone(memory), call)
        .map_err(|source| AssembleError::Connect { name, source })?;
    for (register, value, event) in backend.event_registers() {
        let address = slot.base + u64::from(register);
        vm.connect_write(event, address, value).map_err(AssembleError::Vm)?;
    }
    Ok(VirtioMmio::new(model, Box::new(backend), interrupt))
}

/// Makes the vCPUs; the first one starts the kernel, which starts the others.
fn create_vcpus(vm: &Vm, cpus: u8, kernel: &Kernel) -> Result<Vec<Vcpu>, AssembleError> {
    let vcpus = (0..cpus).map(|id| vm.create_vcpu(id)).collect::<Result<Vec<_>, _>>();
    let vcpus = vcpus.map_err(AssembleError::Vcpu)?;
    if let Some(first) = vcpus.first() {
        first.set_entry(kernel.entry).map_err(AssembleError::Vcpu)?;
    }
    Ok(vcpus)
}
