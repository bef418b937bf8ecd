//! What can go wrong between a driver and its machine, the same for every driver.

use std::io;
use std::path::PathBuf;

/// A machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A program that the driver runs is not there or cannot be executed.
    #[error("cannot run {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the guest (kernel, initrd) cannot be used.
    #[error("cannot use the {what} {}", path.display())]
    GuestFile {
        /// "guest kernel" or "initrd".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The configuration cannot work.
    #[error("invalid machine: {0}")]
    Config(String),
    /// A step on the host failed.
    #[error("cannot {step}")]
    Host {
        /// What was tried.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The machine's process reported a failure before the guest ran.
    #[error("{hypervisor} failed: {message}")]
    Machine {
        /// The driver's name.
        hypervisor: &'static str,
        /// The process's own words, one line.
        message: String,
    },
}

/// A started machine did not obey or could not be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} the virtual machine")]
pub struct VmError {
    /// What was tried.
    pub step: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}
