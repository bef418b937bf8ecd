//! `keyctl`: the session keyring of a container (session-keyring(7)).

#![allow(unsafe_code, reason = "nix and rustix have no keyrings")]

use std::ffi::CStr;
use std::io;

/// Who possesses it may do everything (keyctl(2), `KEYCTL_SETPERM`); its owner may view, read, search and link, so that
/// another process of the container can join it by its name.
const PERMISSIONS: u32 = 0x3f1b_0000;

/// Makes the keyring of that name this process's session keyring; a new one, unless it has made one before.
///
/// # Errors
///
/// Those of keyctl(2); a kernel without keyrings is none.
pub fn join_session(name: &CStr) -> io::Result<()> {
    // SAFETY: the name is NUL-terminated and lives across the call, which only reads it.
    let keyring = unsafe {
        libc::syscall(libc::SYS_keyctl, libc::c_long::from(libc::KEYCTL_JOIN_SESSION_KEYRING), name.as_ptr())
    };
    if keyring < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENOSYS) { Ok(()) } else { Err(error) };
    }
    let act = libc::c_long::from(libc::KEYCTL_SETPERM);
    // SAFETY: takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, act, keyring, libc::c_long::from(PERMISSIONS)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
