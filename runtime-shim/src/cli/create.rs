//! `create`: makes a container, all but the execution of its workload. Boots its machine.

use anyhow::anyhow;
use clap::Args;

use super::flags::{Global, Making};
use crate::container::make::{self, Made, Order};
use crate::failure::Failure;
use crate::monitor::launch::Parent;

/// Create a container
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    making: Making,
}

pub(super) fn main(arguments: &Arguments, global: &Global) -> Result<u8, Failure> {
    make(&arguments.making, global, Parent::Subreaper)
        .map(|_made| 0)
        .map_err(|failure| failure.context("runv create failed"))
}

/// The same for `run`.
pub(super) fn make(making: &Making, global: &Global, parent: Parent) -> Result<Made, Failure> {
    refuse_descriptors(making.preserve_fds)?;
    make::make(
        &global.store(),
        &Order {
            id: &making.id,
            bundle: &making.bundle,
            console_socket: making.console_socket.as_deref(),
            pid_file: making.pid_file.as_deref(),
            config: global.config.as_deref(),
            log: global.log.as_deref(),
            log_format: global.log_format,
            cgroups: global.cgroup_manager.as_deref() != Some("disabled"),
            systemd: global.systemd_cgroup,
            parent,
        },
    )
}

/// A descriptor is of this kernel, and the workload has another.
pub(super) fn refuse_descriptors(preserve_fds: u32) -> Result<(), Failure> {
    const REASON: &str = "descriptors of the host cannot be handed to a virtual machine";
    let listen_fds = std::env::var("LISTEN_FDS").unwrap_or_default();
    if preserve_fds > 0 {
        return Err(anyhow!("--preserve-fds {preserve_fds} is not supported: {REASON}").into());
    }
    if !["", "0"].contains(&listen_fds.as_str()) {
        return Err(anyhow!("LISTEN_FDS={listen_fds} is not supported: {REASON}").into());
    }
    Ok(())
}
