#![allow(unsafe_code, reason = "signal dispositions and malloc's options have no safe wrapper")]
//! Privileges, limits and signals of a confined process. Each call affects the whole process: make it while
//! there is one thread.

use std::io;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use rustix::thread::{
    CapabilitiesSecureBits, capabilities_secure_bits, set_capabilities_secure_bits, set_no_new_privs,
};

/// No `execve` of this process or its children gains privileges any more.
///
/// # Errors
/// The kernel refuses; it has known this since Linux 3.5.
pub fn forbid_new_privileges() -> io::Result<()> {
    Ok(set_no_new_privs(true)?)
}

/// A thread that makes a file in another user's name keeps its capabilities meanwhile (capabilities(7),
/// `SECBIT_NO_SETUID_FIXUP`). Whether that user may is the guest's kernel to say, which knows whether a process has
/// `CAP_DAC_OVERRIDE`; a guest that lies could as well name root.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn keep_capabilities_as_another_user() -> io::Result<()> {
    let bits = capabilities_secure_bits()? | CapabilitiesSecureBits::NO_SETUID_FIXUP;
    Ok(set_capabilities_secure_bits(bits)?)
}

/// Files get exactly the mode that the guest asks for.
pub fn clear_umask() {
    umask(Mode::empty());
}

/// Ctrl-C on the terminal reaches every process of the foreground group, but what it means is for the shim to
/// say.
///
/// # Errors
/// None are known; the kernel's answer is passed on.
pub fn ignore_interrupt() -> io::Result<()> {
    // SAFETY: SIG_IGN installs no handler, so no code of ours can run in signal context.
    let previous = unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    if previous == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets all threads share one heap. By default glibc gives each its own, which costs a few system calls and pages
/// per thread and pays only where threads allocate all the time.
pub fn share_one_heap() {
    // SAFETY: the call only sets a limit, and it is made while there is one thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Raises the limit of open descriptors towards `wanted` as far as the process may, and returns what it is now.
///
/// # Errors
/// The kernel refuses even the present hard limit.
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let present = getrlimit(Resource::Nofile);
    let hard = present.maximum.unwrap_or(u64::MAX);
    let soft = present.current.unwrap_or(u64::MAX);
    if soft >= wanted {
        return Ok(soft);
    }
    // Above the hard limit is for CAP_SYS_RESOURCE alone.
    let above = Rlimit { current: Some(wanted), maximum: Some(wanted.max(hard)) };
    if setrlimit(Resource::Nofile, above).is_ok() {
        return Ok(wanted);
    }
    let reachable = wanted.min(hard);
    setrlimit(Resource::Nofile, Rlimit { current: Some(reachable), maximum: present.maximum })?;
    Ok(reachable)
}
