//! Output to an I/O port, which is how the guest is powered off.

#![allow(unsafe_code, reason = "port I/O is an instruction")]

use std::arch::asm;
use std::io;

/// Writes one byte to an x86 I/O port.
///
/// # Errors
///
/// Those of ioperm(2): the kernel lacks `CONFIG_X86_IOPL_IOPERM`, or the process lacks `CAP_SYS_RAWIO`.
pub fn write_byte(port: u16, value: u8) -> io::Result<()> {
    // SAFETY: ioperm only changes which ports this process may use.
    let allowed = unsafe { libc::ioperm(port.into(), 1, 1) };
    if allowed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: access to this port was granted above; the instruction touches no memory, stack or flags.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
    Ok(())
}
