//! The virtual machine as KVM sees it: memory slots, interrupt controllers, eventfds.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::vcpu::{Vcpu, VcpuError};
use crate::arch::x86_64::cpuid::{self, Processor};
use crate::arch::x86_64::layout;
use crate::memory::Memory;

/// A step of making the virtual machine failed.
#[derive(Debug, thiserror::Error)]
#[error("KVM cannot {step}")]
pub(crate) struct VmError {
    step: &'static str,
    #[source]
    source: kvm_ioctls::Error,
}

/// Makes an error of a step out of KVM's.
fn at(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> VmError {
    move |source| VmError { step, source }
}

/// A virtual machine without vCPUs.
pub(crate) struct Vm {
    fd: VmFd,
    processor: Processor,
    cpuid: kvm_bindings::CpuId,
}

impl Vm {
    /// Makes a machine with interrupt controllers and with `memory`, which must outlive it and its vCPUs:
    /// see [`Vm::add_memory`].
    pub(crate) fn new(kvm: &Kvm, cpus: u8, memory: &Memory) -> Result<Self, VmError> {
        let processor = Processor { cpus, tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer) };
        let cpuid = supported_cpuid(kvm)?;
        let fd = kvm.create_vm().map_err(at("make a virtual machine"))?;
        fd.set_tss_address(layout::KVM_TSS).map_err(at("place its real-mode pages"))?;
        let vm = Self { fd, processor, cpuid };
        // One step each: every change of slots waits for all readers of the old ones.
        vm.add_memory(memory)?;
        vm.fd.create_irq_chip().map_err(at("make interrupt controllers"))?;
        Ok(vm)
    }

    fn add_memory(&self, memory: &Memory) -> Result<(), VmError> {
        for (slot, region) in (0..).zip(memory.regions()) {
            let slot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.guest.start,
                memory_size: region.guest.size,
                userspace_addr: region.host_address,
            };
            // SAFETY: the range is a mapping that `memory` owns. If it were unmapped while the machine
            // runs, KVM would find no page and stop the vCPU: it takes references to pages, not addresses.
            unsafe { self.fd.set_user_memory_region(slot) }.map_err(at("add guest memory"))?;
        }
        Ok(())
    }

    /// Makes the vCPU with APIC id `id`, with CPUID and MSRs set.
    pub(crate) fn create_vcpu(&self, id: u8) -> Result<Vcpu, VcpuError> {
        let mut cpuid = self.cpuid.clone();
        cpuid::adapt(cpuid.as_mut_slice(), self.processor, id);
        Vcpu::new(&self.fd, id, &cpuid)
    }

    /// Lets a write to `event` raise interrupt line `line` for an instant (edge-triggered).
    pub(crate) fn connect_interrupt(&self, event: &EventFd, line: u32) -> Result<(), VmError> {
        self.fd.register_irqfd(event, line).map_err(at("connect an interrupt to an eventfd"))
    }

    /// Lets the guest's 32-bit write of `value` to `address` signal `event` instead of leaving the guest.
    pub(crate) fn connect_write(&self, event: &EventFd, address: u64, value: u32) -> Result<(), VmError> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Mmio(address), value)
            .map_err(at("connect a register to an eventfd"))
    }
}

/// What KVM can show of the host's processor, with room for the topology of this machine.
fn supported_cpuid(kvm: &Kvm) -> Result<kvm_bindings::CpuId, VmError> {
    let step = "tell what the processor can do";
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(at(step))?;
    for entry in cpuid::missing_topology_levels(cpuid.as_slice()) {
        cpuid.push(entry).map_err(|_full| VmError { step, source: kvm_ioctls::Error::new(libc::E2BIG) })?;
    }
    Ok(cpuid)
}
