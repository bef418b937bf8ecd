//! The vhost-user device backends of a sandbox.
//!
//! ```text
//!   frontend (VMM or QEMU)              one device process per sandbox, jailed
//!   ┌───────────────┐  vhost-user       ┌──────────────────────────────────────────┐
//!   │ virtio-mmio   │<───────socket────>│ server ── queue ── fs      ── /share     │
//!   │ guest memory  │<═══════memfd═════>│                 ├─ vsock   ── unix sockets│
//!   │ kick, call    │<──────eventfds───>│                 ├─ rng     ── getrandom  │
//!   │               │                   │                 ├─ balloon ── the memfd  │
//!   └───────────────┘                   │                 ├─ console ── a descriptor│
//!                                       │                 └─ net     ── a tap       │
//!                                       └──────────────────────────────────────────┘
//! ```
//!
//! A device ([`device::Device`]) sees queues ([`queue::DeviceQueue`]) and guest memory; that a frontend drives it
//! over a socket only [`server`] knows. Everything that a device reads from a queue is hostile: it is checked,
//! bounded, and at worst ignored.
//!
//! The binary beside this library is the process that serves them.
#![deny(clippy::indexing_slicing)]

pub mod balloon;
pub mod console;
pub mod device;
#[cfg(test)]
mod fake_guest;
pub mod fs;
pub mod net;
pub mod queue;
pub mod rng;
pub mod server;
pub mod vsock;
#[cfg(test)]
mod wild;
