//! Who the workload is and what it may do.

pub mod sysctl;
pub mod user;
