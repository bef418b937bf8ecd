//! Harness of the end-to-end tests: bundles made in milliseconds, the built programs run on them, and what
//! must not be left behind.
//!
//! It knows the programs by their command line alone and links none of their code. The same test binary runs
//! on this machine (driver `qemu`) and in the nested KVM host (driver `builtin`); [`Setup`] says where it is.
//! Nothing here sleeps: waits are for an event or a condition, until a deadline.

mod bundle;
mod census;
mod console_socket;
pub mod crowd;
mod deadline;
pub mod descriptors;
pub mod exchange;
pub mod network;
mod output;
pub mod pattern;
mod processes;
mod runtime;
mod sandbox;
mod setup;
mod steps;
mod terminal;

pub use bundle::Bundle;
pub use census::{Census, alone, together};
pub use console_socket::ConsoleSocket;
pub use deadline::Deadline;
pub use output::Output;
pub use processes::{Process, Role};
pub use runtime::{Answer, Program, Runtime};
pub use sandbox::{Finished, Running, Sandbox};
pub use setup::{Hypervisor, Setup};
pub use steps::{Traced, trace};
pub use terminal::Terminal;
