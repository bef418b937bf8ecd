//! How this program calls itself.

use std::ffi::OsString;

use clap::Args;

use crate::failure::Failure;
use crate::monitor::{detached, proxy};
use crate::sandbox::inherited_fds::take_inherited_fd;

/// Watch a container or a process of one (started by `create` and `exec`)
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[arg(long)]
    plan_fd: i32,
    #[arg(long)]
    socket_fd: i32,
    /// What runs in the guest; for whoever looks at the process
    #[arg(last = true)]
    _shown: Vec<OsString>,
}

pub(super) fn monitor(arguments: &Arguments) -> Result<u8, Failure> {
    let plan = take_inherited_fd(arguments.plan_fd)?;
    let socket = take_inherited_fd(arguments.socket_fd)?;
    Ok(detached::main(plan, socket))
}

pub(super) fn proxy(arguments: &Arguments) -> Result<u8, Failure> {
    let plan = take_inherited_fd(arguments.plan_fd)?;
    let socket = take_inherited_fd(arguments.socket_fd)?;
    Ok(proxy::main(plan, socket))
}
