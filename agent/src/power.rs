//! Powering the guest off.

use std::io;

use agent_protocol::{POWER_OFF_BYTE, POWER_OFF_PORT};
use rustix::system::{RebootCommand, reboot};

use crate::{kmsg, sys};

/// Powers the guest off, whose file systems have been written back. Returns only if that fails.
///
/// The machine's debug-exit port ends the VM at the instruction. Where it does not exist, the guest resets,
/// which the VMM reports as such.
pub fn off() -> io::Error {
    let port = sys::port::write_byte(POWER_OFF_PORT, POWER_OFF_BYTE);
    kmsg::debug(|| format!("no power-off port ({port:?}): resetting"));
    match reboot(RebootCommand::Restart) {
        Ok(()) => io::Error::other("the guest survived its reset"),
        Err(error) => error.into(),
    }
}
