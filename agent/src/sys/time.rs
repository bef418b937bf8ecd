//! A time namespace for the calling process (time_namespaces(7)).

use std::fs;
use std::io;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, Mode, OFlags};

/// `CLONE_NEWTIME`, which nix does not have.
const NEW_TIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

/// Makes a time namespace whose clocks are ahead by `offsets`, lines of `/proc/PID/timens_offsets`, and enters it.
///
/// # Errors
///
/// Those of unshare(2), of the file, and of setns(2).
pub fn enter_new_namespace(offsets: &str) -> io::Result<()> {
    // It is for the children only; this process has to enter it as one enters any other. The offsets can be set
    // until somebody has.
    unshare(NEW_TIME)?;
    if !offsets.is_empty() {
        fs::write("/proc/self/timens_offsets", offsets)?;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = rustix::fs::openat(CWD, "/proc/self/ns/time_for_children", flags, Mode::empty())?;
    Ok(setns(&namespace, NEW_TIME)?)
}
