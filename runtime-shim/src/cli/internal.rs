//! How this program calls itself.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;
use clap::Args;

use crate::failure::Failure;
use crate::host_cgroup::systemd::Systemd;
use crate::monitor::{detached, proxy};
use crate::report;
use crate::sandbox::inherited_fds::take_inherited_fd;

/// Watch a container or a process of one (started by `create` and `exec`)
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[arg(long)]
    plan_fd: i32,
    #[arg(long)]
    socket_fd: i32,
    /// What the workload gets from 3 on
    #[arg(long)]
    descriptor_fd: Vec<i32>,
    /// What runs in the guest; for whoever looks at the process
    #[arg(last = true)]
    shown: Vec<OsString>,
}

impl Arguments {
    fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        self.descriptor_fd.iter().map(|&number| take_inherited_fd(number)).collect()
    }

    /// The kernel's name for this process is that of the program for which it stands.
    fn set_name(&self) {
        let program = self.shown.first().and_then(|program| Path::new(program).file_name());
        // A name that it does not take is not worth a container.
        if let Some(name) = program.and_then(|name| CString::new(name.as_bytes()).ok()) {
            let _ = nix::sys::prctl::set_name(&name);
        }
    }
}

/// Have systemd start or change a scope (for the monitor)
#[derive(Debug, Args)]
pub(super) struct ScopeArguments {
    #[arg(long)]
    plan_fd: i32,
}

/// What goes wrong is for the monitor to tell: one line on stderr, whatever the engine wants.
pub(super) fn scope(arguments: &ScopeArguments) -> u8 {
    let started = || -> Result<(), Failure> {
        let request = serde_json::from_reader(File::from(take_inherited_fd(arguments.plan_fd)?))?;
        let answer = Systemd::connect()?.follow(&request)?;
        Ok(io::stdout().write_all(&answer).and_then(|()| io::stdout().flush()).context("cannot answer")?)
    };
    match started() {
        Ok(()) => 0,
        Err(failure) => {
            // Nobody to tell when it fails.
            let _ = writeln!(io::stderr(), "{}", report::chain(failure.error.as_ref()));
            failure.exit_code
        }
    }
}

pub(super) fn monitor(arguments: &Arguments) -> Result<u8, Failure> {
    arguments.set_name();
    let plan = take_inherited_fd(arguments.plan_fd)?;
    let socket = take_inherited_fd(arguments.socket_fd)?;
    Ok(detached::main(plan, socket, arguments.descriptors()?))
}

pub(super) fn proxy(arguments: &Arguments) -> Result<u8, Failure> {
    arguments.set_name();
    let plan = take_inherited_fd(arguments.plan_fd)?;
    let socket = take_inherited_fd(arguments.socket_fd)?;
    Ok(proxy::main(plan, socket, arguments.descriptors()?))
}
