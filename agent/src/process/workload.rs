//! What every process of a container goes through between its birth and execve: the init once it has built the
//! container (`child`), any other once it has joined it (`join`).
//!
//! It runs on a copy of the agent's memory. It must not touch the agent's event loop, and it leaves by execve
//! or `_exit` only. All else is ordinary code: see `sys::clone3` on why that is sound.

#![allow(unsafe_code, reason = "close_range and _exit between fork and execve")]

use std::convert::Infallible;
use std::error::Error;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::personality::Persona;
use rustix::fs::{FileType, Mode, fchown};
use rustix::process::{DumpableBehavior, Uid, chdir, ioctl_tiocsctty, set_dumpable_behavior, setsid, umask};

use rustix::thread::set_no_new_privs;

use crate::failure::{Failure, FailureKind};
use crate::kernel::{Lacking, missing_for_filter};
use crate::process::console::Console;
use crate::process::control::ChildEnd;
use crate::process::files::Files;
use crate::process::hooks::Hooks;
use crate::process::{Confinement, ProcessSpec, executable};
use crate::rootfs::path::file_type;
use crate::security::user::{Identity, UserError};
use crate::sys::{keyring, signals};

/// Runs the whole life of a child, whose failure is reported.
pub fn report(control: &ChildEnd, life: impl FnOnce() -> Result<Infallible, Failure>) -> Infallible {
    match life() {
        Ok(never) => never,
        Err(failure) => {
            // The agent may have gone; there is nobody else to tell.
            let _ = control.report_failure(&failure);
            exit()
        }
    }
}

/// Sheds what the child has inherited of the agent, but for its files, the control socket and what else is to be kept.
pub(super) fn begin<'a>(
    control: &'a ChildEnd,
    files: &'a Files,
    keep: impl IntoIterator<Item = BorrowedFd<'a>>,
) -> Result<(), Failure> {
    // The container's processes may see this one before it executes its program. None of them, privileged ones
    // apart, may trace it or use its descriptors (CVE-2016-9962).
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(system("cannot hide from the container's processes"))?;
    close_all_but(files.all().chain([control.as_fd()]).chain(keep));
    signals::reset();
    setsid().map_err(system("cannot start a session"))?;
    Ok(())
}

/// What is executed, and under what.
pub(super) struct Workload<'a> {
    pub(super) process: &'a ProcessSpec,
    pub(super) confinement: &'a Confinement,
    /// The init's.
    pub(super) hooks: Option<&'a Hooks>,
}

/// From a process in its container to the program's first instruction.
///
/// The order is runc's. A filter may only be set with CAP_SYS_ADMIN or after `no_new_privs`: without the latter, it
/// is in force while the process gives up its rights; with it, from just before execve.
pub(super) fn execute(
    Workload { process, confinement, hooks }: &Workload<'_>,
    control: &ChildEnd,
    files: &Files,
    console: Option<&Console>,
) -> Result<Infallible, Failure> {
    connect_stdio(&files.stdio, console.map(|console| &console.terminal))?;
    let mut env = process.env.clone();
    let identity = process.user.identify().map_err(|error| {
        let kind = match error {
            UserError::Unknown(_) => FailureKind::UnknownUser,
            _ => FailureKind::System,
        };
        Failure::from_error(kind, &error)
    })?;
    set_home(&mut env, &identity);
    own_stdio(identity.uid())?;
    umask(Mode::from_raw_mode(process.umask));
    keyring::join_session(&confinement.keyring)
        .map_err(system("cannot join the container's session keyring"))?;
    if let Some(console) = console {
        control.report_terminal(console.master.as_fd()).map_err(system("cannot hand over the terminal"))?;
    }
    // Before a filter might forbid it. Nothing at these numbers is needed any more.
    files.place_more().map_err(system("cannot place the descriptors from 3 on"))?;
    confine(process, confinement)?;
    become_user(process, &identity)?;
    let [name, ..] = process.args.as_slice() else {
        return Err(Failure::new(FailureKind::InvalidRequest, "args must not be empty"));
    };
    let program = executable::find(name, &env)?;
    executable::refuse_own(&program)?;
    control.report_ready().map_err(system("cannot report to the agent"))?;
    if !control.wait_for_go() {
        exit();
    }
    hooks.map_or(Ok(()), Hooks::run)?;
    if process.no_new_privileges {
        filter(confinement)?;
    }
    // Every descriptor but 0, 1 and 2, and those that were placed, closes itself on execve.
    let Err(error) = nix::unistd::execve(&program, &process.args, &env);
    Err(executable::explain_execve(&program, &error.into()))
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

/// What has to be done while the process has all rights.
fn confine(process: &ProcessSpec, confinement: &Confinement) -> Result<(), Failure> {
    if process.no_new_privileges {
        set_no_new_privs(true).map_err(system("cannot set no_new_privs"))?;
    }
    if let Some(domain) = confinement.personality {
        let persona = Persona::from_bits_retain(domain.cast_signed());
        nix::sys::personality::set(persona).map_err(system("cannot set the personality"))?;
    }
    if process.no_new_privileges { Ok(()) } else { filter(confinement) }
}

fn filter(confinement: &Confinement) -> Result<(), Failure> {
    let Some(filter) = &confinement.seccomp else { return Ok(()) };
    filter.install().map_err(|error| {
        let act = "cannot set the seccomp filter";
        match missing_for_filter(&error) {
            Some(feature) => system(act)(Lacking::new(feature, error)),
            None => system(act)(error),
        }
    })
}

/// Enters the working directory, if need be with the rights of the user only, and becomes the user, with the
/// capabilities that it is to have.
fn become_user(process: &ProcessSpec, identity: &Identity) -> Result<(), Failure> {
    let (cwd, capabilities) = (&process.cwd, &process.capabilities);
    let act = format!("chdir to cwd ({:?}) set in config.json failed", cwd.as_os_str());
    let entered = match chdir(cwd) {
        Err(rustix::io::Errno::ACCESS) => false,
        other => {
            other.map_err(system(&act))?;
            true
        }
    };
    if let Some(capabilities) = capabilities {
        capabilities.prepare().map_err(system("cannot cut the capability bounding set"))?;
    }
    identity.assume().map_err(|error| Failure::from_error(FailureKind::System, &error))?;
    if let Some(capabilities) = capabilities {
        capabilities.assume().map_err(system("cannot set the capabilities"))?;
    }
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
pub(crate) fn close_all_but<'a>(keep: impl Iterator<Item = BorrowedFd<'a>>) {
    let mut keep: Vec<u32> = keep.map(|file| file.as_raw_fd().unsigned_abs()).collect();
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

pub(super) fn exit() -> ! {
    // SAFETY: ends the process at once, without running what the agent registered for its own end.
    unsafe { libc::_exit(1) }
}

/// A failed system call in words.
pub(super) fn system<E: Error>(act: &str) -> impl Fn(E) -> Failure {
    move |error| Failure::new(FailureKind::System, format!("{act}: {error}"))
}
