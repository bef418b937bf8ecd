//! The machine: owner of guest memory, vCPUs and devices, and its life from the first instruction to the end.
//!
//! Threads: the main thread puts the machine together ([`assemble`]), then waits in the event loop; each vCPU
//! has a thread. Pages of guest memory outlive all of them: the process ends with the machine.

pub(crate) mod assemble;
pub(crate) mod event_loop;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::kvm::exit::Buses;
use crate::kvm::vcpu::Vcpu;
use crate::kvm::vm::Vm;
use crate::memory::Memory;
use crate::platform::serial::SerialPort;

/// A complete machine whose guest has not run yet.
pub(crate) struct Machine {
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) buses: Arc<Buses>,
    pub(crate) serial: Arc<SerialPort>,
    /// To see when a backend closes its connection.
    pub(crate) backends: Vec<BackendWatch>,
    /// Closing it would disconnect all interrupts, though vCPUs go on without it.
    pub(crate) vm: Vm,
    /// KVM refers to it as long as vCPUs run, and the devices share it.
    pub(crate) memory: Arc<Memory>,
}

/// A second descriptor of the connection to a backend.
pub(crate) struct BackendWatch {
    /// The device's name.
    pub(crate) name: &'static str,
    pub(crate) socket: OwnedFd,
}
