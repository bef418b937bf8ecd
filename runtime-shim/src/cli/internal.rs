//! How this program calls itself.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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
    shown: Vec<OsString>,
}

impl Arguments {
    /// The kernel's name for this process is that of the program for which it stands.
    fn set_name(&self) {
        let program = self.shown.first().and_then(|program| Path::new(program).file_name());
        // A name that it does not take is not worth a container.
        if let Some(name) = program.and_then(|name| CString::new(name.as_bytes()).ok()) {
            let _ = nix::sys::prctl::set_name(&name);
        }
    }
}

pub(super) fn monitor(arguments: &Arguments) -> Result<u8, Failure> {
    arguments.set_name();
    let plan = take_inherited_fd(arguments.plan_fd)?;
    let socket = take_inherited_fd(arguments.socket_fd)?;
    Ok(detached::main(plan, socket))
}

pub(super) fn proxy(arguments: &Arguments) -> Result<u8, Failure> {
    arguments.set_name();
    let plan = take_inherited_fd(arguments.plan_fd)?;
    let socket = take_inherited_fd(arguments.socket_fd)?;
    Ok(proxy::main(plan, socket))
}
