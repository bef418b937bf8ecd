//! A process of a container that exists, between its birth and execve: it joins the container, then goes the way of
//! all processes (`workload`).

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};

use crate::container::namespaces::Namespaces;
use crate::failure::{Failure, FailureKind};
use crate::process::console::Console;
use crate::process::control::ChildEnd;
use crate::process::files::Files;
use crate::process::workload::{Workload, begin, execute, system};
use crate::process::{Confinement, ProcessSpec};
use crate::rootfs::path::Descriptors;
use crate::security::user;
use crate::sys::namespaces;

/// All that the process needs to know, made before it is born.
pub struct Join<'a> {
    /// What is executed.
    pub process: &'a ProcessSpec,
    /// What it is under.
    pub confinement: &'a Confinement,
    /// Names the container's init.
    pub init: &'a OwnedFd,
    /// The container's own.
    pub namespaces: Namespaces,
}

/// The whole life of the process up to its program's first instruction.
///
/// # Errors
///
/// A [`Failure`], to be reported.
pub fn run(join: &Join<'_>, control: &ChildEnd, files: &Files) -> Result<Infallible, Failure> {
    begin(control, files, [join.init.as_fd()])?;
    // Taken along: the container's own /proc proves nothing.
    let descriptors = Descriptors::open().map_err(system("cannot open the guest's /proc"))?;
    namespaces::join(join.init.as_fd(), join.namespaces.joined_flags())
        .map_err(system("cannot join the container's namespaces"))?;
    if join.namespaces.user {
        user::become_root().map_err(system("cannot become root of the user namespace"))?;
    }
    let console = match join.process.terminal {
        Some(size) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::openat(CWD, "/", flags, Mode::empty())
                .map_err(system("cannot open the container's root"))?;
            let console = Console::open(root.as_fd(), &descriptors, size)
                .map_err(|error| Failure::from_error(FailureKind::System, &error))?;
            Some(console)
        }
        None => None,
    };
    let workload = Workload { process: join.process, confinement: join.confinement, hooks: None };
    execute(&workload, control, files, console.as_ref())
}
