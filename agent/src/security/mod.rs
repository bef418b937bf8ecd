//! Who the workload is and what it may do.

pub mod capabilities;
pub mod identity_map;
pub mod seccomp;
pub mod sysctl;
pub mod user;
