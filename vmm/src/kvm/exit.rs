//! What to do when a vCPU leaves the guest.

use std::ops::ControlFlow;

use kvm_ioctls::VcpuExit;

use crate::bus::{Bus, Flow};
use vmm::hypervisor::VmExit;

/// What the guest can reach by addresses.
#[derive(Default)]
pub(crate) struct Buses {
    /// Memory-mapped I/O.
    pub(crate) mmio: Bus,
    /// I/O ports.
    pub(crate) ports: Bus,
}

/// Why the guest cannot go on, where registers are needed to say more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// A device ended the machine.
    Exit(VmExit),
    /// Triple fault.
    TripleFault,
    /// An exit that cannot be handled, in words.
    Unhandled(String),
}

/// Handles one exit; continues when the vCPU is to be run again.
pub(crate) fn handle(exit: VcpuExit<'_>, buses: &Buses) -> ControlFlow<Halt> {
    match exit {
        VcpuExit::IoIn(port, data) => {
            // A string instruction reads the same port again and again; the width of an access is not told,
            // and all ports here are one byte wide.
            for byte in data {
                buses.ports.read(u64::from(port), std::slice::from_mut(byte));
            }
            ControlFlow::Continue(())
        }
        VcpuExit::IoOut(port, data) => {
            for byte in data {
                device_flow(buses.ports.write(u64::from(port), std::slice::from_ref(byte)))?;
            }
            ControlFlow::Continue(())
        }
        VcpuExit::MmioRead(address, data) => {
            buses.mmio.read(address, data);
            ControlFlow::Continue(())
        }
        VcpuExit::MmioWrite(address, data) => device_flow(buses.mmio.write(address, data)),
        // A signal for the thread, or nothing: the vCPU goes on.
        VcpuExit::Intr | VcpuExit::IrqWindowOpen => ControlFlow::Continue(()),
        VcpuExit::Shutdown => ControlFlow::Break(Halt::TripleFault),
        VcpuExit::FailEntry(reason, cpu) => {
            unhandled(format!("the processor refused to enter the guest: reason {reason:#x} on CPU {cpu}"))
        }
        VcpuExit::InternalError => {
            unhandled("KVM cannot emulate an instruction of the guest (KVM_EXIT_INTERNAL_ERROR)".to_owned())
        }
        VcpuExit::MemoryFault { gpa, size, .. } => {
            unhandled(format!("guest memory at {gpa:#x} ({size:#x} bytes) cannot be used"))
        }
        // With interrupt controllers in the kernel, HLT never comes here; the rest was not asked for.
        other => unhandled(format!("unexpected exit from the guest: {other:?}")),
    }
}

fn device_flow(flow: Flow) -> ControlFlow<Halt> {
    match flow {
        ControlFlow::Continue(()) => ControlFlow::Continue(()),
        ControlFlow::Break(exit) => ControlFlow::Break(Halt::Exit(exit)),
    }
}

fn unhandled(text: String) -> ControlFlow<Halt> {
    ControlFlow::Break(Halt::Unhandled(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_that_nobody_asked_for_end_the_machine_and_are_named() {
        let buses = Buses::default();
        for (exit, words) in [
            (VcpuExit::FailEntry(0x8000_0021, 3), "reason 0x80000021 on CPU 3"),
            (VcpuExit::InternalError, "KVM_EXIT_INTERNAL_ERROR"),
            (VcpuExit::MemoryFault { flags: 0, gpa: 0x1000, size: 0x2000 }, "0x1000 (0x2000 bytes)"),
            (VcpuExit::Hlt, "Hlt"),
            (VcpuExit::SystemEvent(2, &[1]), "SystemEvent(2"),
            (VcpuExit::Hyperv, "Hyperv"),
            (VcpuExit::Unsupported(77), "Unsupported(77)"),
        ] {
            match handle(exit, &buses) {
                ControlFlow::Break(Halt::Unhandled(text)) => assert!(text.contains(words), "{text}"),
                other => panic!("{words}: {other:?}"),
            }
        }
        assert_eq!(handle(VcpuExit::Shutdown, &buses), ControlFlow::Break(Halt::TripleFault));
        assert_eq!(handle(VcpuExit::Intr, &buses), ControlFlow::Continue(()));
    }
}
