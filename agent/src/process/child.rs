//! The container's init between its birth and execve: it builds the container around itself.
//!
//! It runs on a copy of the agent's memory. It must not touch the agent's event loop, and it leaves by execve
//! or `_exit` only. All else is ordinary code: see `sys::clone3` on why that is sound.

#![allow(unsafe_code, reason = "close_range and _exit between fork and execve")]

use std::convert::Infallible;
use std::error::Error;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{FileType, Mode, fchown};
use rustix::process::{Uid, chdir, ioctl_tiocsctty, setsid, umask};

use crate::container::namespaces::Namespaces;
use crate::failure::{Failure, FailureKind};
use crate::process::console::Console;
use crate::process::control::InitEnd;
use crate::process::{ProcessSpec, executable};
use crate::rootfs::masks::Masks;
use crate::rootfs::mounts::{Mount, Origins, Source};
use crate::rootfs::nodes::Node;
use crate::rootfs::path::{ensure_directory, file_type};
use crate::rootfs::propagation::Propagation;
use crate::rootfs::{devices, pivot};
use crate::security::sysctl::{self, Sysctl};
use crate::security::user::{Identity, UserError};
use crate::sys::mount_api::{MountAttributes, UNCHANGED, set_attributes};
use crate::sys::{network, signals};

/// All that the init needs to know, made before it is born.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The workload.
    pub process: ProcessSpec,
    /// The root file system, below the share.
    pub root: String,
    /// Whether it is read-only for the workload.
    pub readonly: bool,
    /// In the order of the bundle.
    pub mounts: Vec<Mount>,
    /// Unless empty.
    pub hostname: String,
    /// Unless empty.
    pub domainname: String,
    /// Which are new.
    pub namespaces: Namespaces,
    /// Of the root mount.
    pub propagation: Option<Propagation>,
    /// Besides the default ones.
    pub devices: Vec<Node>,
    /// What of the root the workload must not see or write.
    pub masks: Masks,
    /// For the namespaces.
    pub sysctl: Vec<Sysctl>,
    /// Where things are in the guest.
    pub places: Places,
}

/// Paths of the guest that a container is made from.
#[derive(Clone, Debug)]
pub struct Places {
    /// The mounted share.
    pub share: PathBuf,
    /// An empty directory, on which each container mounts its root in its own mount namespace.
    pub root: PathBuf,
    /// The container's cgroup.
    pub cgroup: PathBuf,
}

/// The whole life of the init up to the workload's first instruction. What fails is reported, then it ends.
pub fn run(plan: &Plan, control: &InitEnd, stdio: &[OwnedFd; 3]) -> Infallible {
    match become_workload(plan, control, stdio) {
        Ok(never) => match never {},
        Err(failure) => {
            // The agent may have gone; there is nobody else to tell.
            let _ = control.report_failure(&failure);
            exit()
        }
    }
}

fn become_workload(plan: &Plan, control: &InitEnd, stdio: &[OwnedFd; 3]) -> Result<Infallible, Failure> {
    let [stdin, stdout, stderr] = stdio;
    close_all_but(&[stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), control.as_fd()]);
    signals::reset();
    setsid().map_err(system("cannot start a session"))?;
    umask(Mode::empty());
    enter_namespaces(plan)?;
    let console = build_root(plan)?;
    let terminal = console.as_ref().map(|console| &console.terminal);
    connect_stdio(stdio, terminal)?;
    let mut env = plan.process.env.clone();
    let identity = plan.process.user.identify().map_err(|error| {
        let kind = match error {
            UserError::Unknown(_) => FailureKind::UnknownUser,
            _ => FailureKind::System,
        };
        Failure::from_error(kind, &error)
    })?;
    set_home(&mut env, &identity);
    own_stdio(identity.uid())?;
    umask(Mode::from_raw_mode(plan.process.umask));
    become_user(&identity, &plan.process.cwd)?;
    let [name, ..] = plan.process.args.as_slice() else {
        return Err(Failure::new(FailureKind::InvalidRequest, "args must not be empty"));
    };
    let program = executable::find(name, &env)?;
    control
        .report_ready(console.as_ref().map(|console| console.master.as_fd()))
        .map_err(|error| Failure::from_error(FailureKind::System, &error))?;
    if !control.wait_for_go() {
        exit();
    }
    // Every descriptor but 0, 1 and 2 closes itself on execve.
    let Err(error) = nix::unistd::execve(&program, &plan.process.args, &env);
    Err(executable::explain_execve(&program, &error.into()))
}

/// What clone3 could not do, and what has to be set in the new namespaces.
fn enter_namespaces(plan: &Plan) -> Result<(), Failure> {
    if plan.namespaces.cgroup {
        // The root of a cgroup namespace is its maker's cgroup, and during clone3 that is still the agent's.
        unshare(CloneFlags::CLONE_NEWCGROUP).map_err(system("cannot make a cgroup namespace"))?;
    }
    if plan.namespaces.network {
        network::bring_loopback_up().map_err(system("cannot bring the loopback interface up"))?;
    }
    if !plan.hostname.is_empty() {
        rustix::system::sethostname(plan.hostname.as_bytes()).map_err(system("cannot set the hostname"))?;
    }
    if !plan.domainname.is_empty() {
        rustix::system::setdomainname(plan.domainname.as_bytes())
            .map_err(system("cannot set the domainname"))?;
    }
    sysctl::set(&plan.sysctl).map_err(|error| Failure::from_error(FailureKind::System, &error))
}

/// Builds the root file system and enters it.
fn build_root(plan: &Plan) -> Result<Option<Console>, Failure> {
    let mount = |error: &dyn Error| Failure::from_error(FailureKind::Mount, error);
    let root = pivot::mount_root(&plan.places.share, &plan.root, &plan.places.root)
        .map_err(|error| mount(&error))?;
    let origins = Origins {
        share: &plan.places.share,
        cgroup: &plan.places.cgroup,
        cgroup_namespace: plan.namespaces.cgroup,
    };
    let mut readonly: Vec<OwnedFd> = Vec::new();
    for one in &plan.mounts {
        readonly.extend(one.make(root.as_fd(), origins).map_err(|error| mount(&error))?);
    }
    if !dev_is_bound(&plan.mounts) {
        for device in &plan.devices {
            device.make(root.as_fd()).map_err(|error| mount(&error))?;
        }
        devices::populate(root.as_fd(), &plan.devices).map_err(|error| mount(&error))?;
    }
    let console = match plan.process.terminal {
        Some(size) => {
            let console = Console::open(root.as_fd(), size).map_err(|error| mount(&error))?;
            devices::mount_console(root.as_fd(), &console.terminal).map_err(|error| mount(&error))?;
            Some(console)
        }
        None => None,
    };
    make_cwd(root.as_fd(), plan)?;
    plan.masks.apply(root.as_fd()).map_err(|error| mount(&error))?;
    for complete in readonly.iter().chain(plan.readonly.then_some(&root)) {
        let attributes = MountAttributes { attr_set: libc::MOUNT_ATTR_RDONLY, ..UNCHANGED };
        set_attributes(complete, &attributes, false)
            .map_err(system("cannot make the root file system or a tmpfs read-only"))?;
    }
    pivot::enter(&root).map_err(|error| mount(&error))?;
    if let Some(propagation) = plan.propagation {
        let attributes = MountAttributes { propagation: propagation.kind, ..UNCHANGED };
        set_attributes(&root, &attributes, propagation.recursive)
            .map_err(system("cannot set the propagation of the root file system"))?;
    }
    Ok(console)
}

/// A /dev that comes from the host as a whole is left as it is (as runc does).
fn dev_is_bound(mounts: &[Mount]) -> bool {
    mounts
        .iter()
        .any(|mount| mount.destination == Path::new("/dev") && matches!(mount.source, Source::Share(_)))
}

/// As runc: the working directory is made if it is missing. Where that fails, chdir will say why.
fn make_cwd(root: BorrowedFd<'_>, plan: &Plan) -> Result<(), Failure> {
    match ensure_directory(root, &plan.process.cwd) {
        Err(error) if error.kind() != io::ErrorKind::ReadOnlyFilesystem => {
            let act = format!("cannot make the working directory {:?}", plan.process.cwd);
            Err(Failure::new(FailureKind::System, format!("{act}: {error}")))
        }
        _ => Ok(()),
    }
}

/// Puts the three files, or the terminal, at 0, 1 and 2; the terminal becomes the controlling one.
fn connect_stdio(stdio: &[OwnedFd; 3], terminal: Option<&OwnedFd>) -> Result<(), Failure> {
    let [stdin, stdout, stderr] = stdio.each_ref().map(|file| terminal.unwrap_or(file));
    rustix::stdio::dup2_stdin(stdin).map_err(system("cannot connect stdin"))?;
    rustix::stdio::dup2_stdout(stdout).map_err(system("cannot connect stdout"))?;
    rustix::stdio::dup2_stderr(stderr).map_err(system("cannot connect stderr"))?;
    if terminal.is_some() {
        ioctl_tiocsctty(rustix::stdio::stdin())
            .map_err(system("cannot make the terminal the controlling one"))?;
    }
    Ok(())
}

/// The workload's user owns its pipes and its terminal, or it could not open /dev/stdout.
fn own_stdio(uid: u32) -> Result<(), Failure> {
    for file in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let is_pipe = file_type(file).map_err(system("cannot examine stdio"))? == FileType::Fifo;
        if uid != 0 && (is_pipe || rustix::termios::isatty(file)) {
            fchown(file, Some(Uid::from_raw(uid)), None).map_err(system("cannot give stdio to the user"))?;
        }
    }
    Ok(())
}

/// HOME as runc sets it: the user's of /etc/passwd, unless the bundle says something else.
fn set_home(env: &mut Vec<CString>, identity: &Identity) {
    env.retain(|variable| variable.to_bytes() != b"HOME=");
    if !env.iter().any(|variable| variable.to_bytes().starts_with(b"HOME=")) {
        env.extend(CString::new(format!("HOME={}", identity.home())));
    }
}

/// Enters the working directory, if need be with the rights of the user only, and becomes the user.
fn become_user(identity: &Identity, cwd: &Path) -> Result<(), Failure> {
    let act = format!("chdir to cwd ({:?}) set in config.json failed", cwd.as_os_str());
    let entered = match chdir(cwd) {
        Err(rustix::io::Errno::ACCESS) => false,
        other => {
            other.map_err(system(&act))?;
            true
        }
    };
    identity.assume().map_err(|error| Failure::from_error(FailureKind::System, &error))?;
    if !entered {
        chdir(cwd).map_err(system(&act))?;
    }
    // A path that begins with "(unreachable)" is outside of the root (getcwd(3), CVE-2024-21626).
    let real = rustix::process::getcwd(Vec::new()).map_err(system(&act))?;
    if Path::new(std::ffi::OsStr::from_bytes(real.as_bytes())).is_absolute() {
        Ok(())
    } else {
        Err(Failure::new(FailureKind::System, format!("{act}: it is outside of the root file system")))
    }
}

/// Closes what the agent's copy has open, so that an init that waits holds no connection of others.
fn close_all_but(keep: &[BorrowedFd<'_>]) {
    let mut keep: Vec<u32> = keep.iter().map(|file| file.as_raw_fd().unsigned_abs()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1);
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: closes descriptors whose owners, in this copy of the agent's memory, are never used or dropped
    // again: this process leaves by execve or _exit only.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

fn exit() -> ! {
    // SAFETY: ends the process at once, without running what the agent registered for its own end.
    unsafe { libc::_exit(1) }
}

fn system<E: Error>(act: &str) -> impl Fn(E) -> Failure {
    move |error| Failure::new(FailureKind::System, format!("{act}: {error}"))
}
