//! Drivers that run virtual machines: `builtin` (the embedded VMM on KVM) and `qemu`.
//!
//! A driver is a frontend of vhost-user backends that somebody else started; it never makes a device. It
//! must be called from a thread that lives as long as the machine, because the machine's process is tied
//! to that thread by `PR_SET_PDEATHSIG`. A SELinux label takes that tie away: QEMU is given it once more (`child::tied_by`);
//! the embedded VMM ends when its control socket closes.

use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use crate::config::VmConfig;

pub mod builtin;
mod error;
pub mod probe;
pub mod qemu;
pub mod select;

pub use error::{StartError, VmError};

/// Starts virtual machines.
pub trait Hypervisor {
    /// Starts a machine; the guest's first instruction is about to run when this returns.
    ///
    /// # Errors
    /// When the machine could not be made. No process is left then.
    fn start(&self, config: VmConfig) -> Result<Box<dyn Vm>, StartError>;
}

/// A started virtual machine. Dropping it kills the machine's process and reaps it.
pub trait Vm: Send {
    /// Process id of the process whose threads are the vCPUs.
    fn pid(&self) -> u32;

    /// A descriptor that polls readable once the machine's process has ended (a pidfd).
    fn ended(&self) -> BorrowedFd<'_>;

    /// Waits for the machine's end and says how it came.
    ///
    /// # Errors
    /// When the process could not be waited for.
    fn wait(&mut self) -> Result<VmExit, VmError>;

    /// Stops all vCPUs until [`Vm::resume`].
    ///
    /// # Errors
    /// When the machine's process does not obey.
    fn pause(&mut self) -> Result<(), VmError>;

    /// Lets the vCPUs go on.
    ///
    /// # Errors
    /// When the machine's process does not obey.
    fn resume(&mut self) -> Result<(), VmError>;

    /// Kills the machine at once; [`Vm::wait`] then tells [`VmExit::Killed`].
    ///
    /// # Errors
    /// When the process could not be signalled.
    fn stop(&mut self) -> Result<(), VmError>;
}

/// How a virtual machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmExit {
    /// The agent powered the guest off (debug exit port).
    Shutdown,
    /// The guest asked for a reset: its kernel panicked or somebody in it rebooted.
    Reset,
    /// A vCPU triple-faulted.
    TripleFault {
        /// The vCPU's registers, for people.
        registers: String,
    },
    /// The machine's process was ended by a signal.
    Killed {
        /// Signal number.
        signal: i32,
    },
    /// The VMM gave up, e.g. at a KVM exit that it cannot handle.
    Failed {
        /// One line with the cause.
        message: String,
    },
}
