//! Child processes of a sandbox: tied to their parent's life ([`BoundProcess`]), given file descriptors by number
//! ([`Inherited`]), configured by a file without a name ([`sealed_file`]), in a security context of their own ([`ExecLabel`]),
//! in which those that need it are tied once more ([`tied_by`]).
//!
//! Knows neither machines nor devices. The shim starts the device process with it, the hypervisor drivers their
//! machines.

mod bound;
mod exec_label;
mod inherited;
mod sealed;
mod tie;

pub use bound::BoundProcess;
pub use exec_label::ExecLabel;
pub use inherited::Inherited;
pub use sealed::sealed_file;
pub use tie::{TIED_TO, TieError, execute_tied, tied_by};
