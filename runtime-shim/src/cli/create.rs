//! `create`: makes a container, all but the execution of its workload. Boots its machine.

use clap::Args;

use super::flags::{Global, Making};
use crate::container::make::{self, Made, Order};
use crate::failure::Failure;
use crate::monitor::launch::Parent;
use crate::preserved::Preserved;

/// Create a container
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) making: Making,
}

pub(super) fn main(
    arguments: &Arguments,
    global: &Global,
    taken: Result<Preserved, Failure>,
) -> Result<u8, Failure> {
    taken
        .and_then(|preserved| make(&arguments.making, global, preserved, Parent::Subreaper))
        .map(|_made| 0)
        .map_err(|failure| failure.context("runv create failed"))
}

/// The same for `run`.
pub(super) fn make(
    making: &Making,
    global: &Global,
    preserved: Preserved,
    parent: Parent,
) -> Result<Made, Failure> {
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
        preserved,
    )
}
