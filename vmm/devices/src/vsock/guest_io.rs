#![allow(unsafe_code, reason = "the kernel reads and writes guest memory through raw pointers")]
//! Moves bytes between a socket and guest memory with no copy in between.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use vm_memory::bitmap::Bitmap;

use super::packet::Slice;

/// Pieces that go to the kernel in one call. What is left takes another call; the packets of Linux have up to
/// 18 pieces.
const MAX_PIECES: usize = 64;

/// Sends from guest memory without waiting; returns how many bytes the socket took.
///
/// # Errors
/// As `sendmsg(2)`; `WouldBlock` when the socket takes nothing now.
pub(super) fn send(socket: impl AsFd, slices: &[Slice<'_>]) -> io::Result<usize> {
    let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MAX_PIECES];
    let guards: Vec<_> = slices.iter().take(MAX_PIECES).map(Slice::ptr_guard).collect();
    for (piece, guard) in pieces.iter_mut().zip(&guards) {
        // The kernel only reads through it.
        *piece = libc::iovec { iov_base: guard.as_ptr().cast_mut().cast(), iov_len: guard.len() };
    }
    let mut message = message(&mut pieces, guards.len());
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: each piece lies within mapped guest memory, which the guards (alive until the end of this
    // function) keep mapped; that the guest may change it meanwhile only changes what is sent.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives into guest memory without waiting; returns how many bytes came, 0 at the end of the stream.
///
/// Descriptors that are sent along (`SCM_RIGHTS`) are not received: there is no room for them.
///
/// # Errors
/// As `recvmsg(2)`; `WouldBlock` when there is nothing now.
pub(super) fn receive(socket: impl AsFd, slices: &[Slice<'_>]) -> io::Result<usize> {
    let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MAX_PIECES];
    let guards: Vec<_> = slices.iter().take(MAX_PIECES).map(Slice::ptr_guard_mut).collect();
    for (piece, guard) in pieces.iter_mut().zip(&guards) {
        *piece = libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() };
    }
    let mut message = message(&mut pieces, guards.len());
    // SAFETY: each piece lies within mapped guest memory, which the guards (alive until the end of this
    // function) keep mapped. No Rust reference to that memory exists anywhere: it is only ever reached through
    // volatile slices.
    let received = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    mark_dirty(slices, received);
    Ok(received)
}

fn message(pieces: &mut [libc::iovec; MAX_PIECES], count: usize) -> libc::msghdr {
    libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: pieces.as_mut_ptr(),
        msg_iovlen: count,
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

/// The kernel's writes bypass the log of dirtied pages.
fn mark_dirty(slices: &[Slice<'_>], length: usize) {
    let mut left = length;
    for slice in slices {
        let dirtied = left.min(slice.len());
        if dirtied == 0 {
            return;
        }
        slice.bitmap().mark_dirty(0, dirtied);
        left -= dirtied;
    }
}
