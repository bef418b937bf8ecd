//! A sandbox: one device process, one virtual machine and the agent in it.
//!
//! Knows nothing of OCI bundles beyond the request that it passes on, nor of signals and streams, which are
//! the monitor's. All functions are for the main thread: the children are tied to the thread that starts them.

pub(crate) mod agent_client;
pub(crate) mod devices;
pub(crate) mod directory;
pub(crate) mod driver;
pub(crate) mod early_rings;
pub(crate) mod guest_files;
pub(crate) mod host;
pub(crate) mod inherited_fds;
pub(crate) mod installation;
mod kernel_directories;
pub(crate) mod kernel_parameters;
pub(crate) mod mount_points;
pub(crate) mod prepare;
pub(crate) mod socket_relay;
pub(crate) mod start;
pub(crate) mod vsock;
