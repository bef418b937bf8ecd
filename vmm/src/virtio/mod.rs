//! virtio over MMIO with devices in other processes.
//!
//! ```text
//!  guest's driver --registers--> mmio.rs --phase--> status.rs
//!        |                          | at DRIVER_OK
//!        | kick: ioeventfd          v
//!        +-----------------> frontend.rs --vhost-user--> backend process --call: irqfd--> guest
//! ```
//!
//! Once a device runs, this process is not involved in its data path. Registers are written by vCPU threads
//! under the device's lock.

pub(crate) mod config_space;
pub(crate) mod frontend;
pub(crate) mod mmio;
pub(crate) mod queue;
pub(crate) mod status;
