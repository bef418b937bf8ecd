//! Who the workload is and what it may do.

pub mod capabilities;
pub mod seccomp;
pub mod sysctl;
pub mod user;
