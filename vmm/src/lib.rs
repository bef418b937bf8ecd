//! Virtual machines for sandboxes: what a machine is made of ([`config`]) and the drivers that run one
//! ([`hypervisor`]).
//!
//! Knows nothing of OCI, containers or agents. The embedded VMM itself is the program `runv-vmm` of this
//! package; callers reach it through the driver `builtin` only, so none of it is exported here, but for the
//! wire between the two (`control`) and what both drivers make a machine of (`memory_file`), which are nobody else's
//! business.

pub mod config;
#[doc(hidden)]
pub mod control;
pub mod hypervisor;
#[doc(hidden)]
pub mod memory_file;
