#![allow(unsafe_code, reason = "a number becomes an owned descriptor only once; close_range has no wrapper")]
//! Descriptors that a process inherits: each is taken over by its number once, all others are closed.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Why an inherited descriptor cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message is the documentation")]
pub enum FdError {
    #[error("descriptor {0} is a standard stream, not an inherited one")]
    Standard(i32),
    #[error("descriptor {0} is named twice")]
    Twice(i32),
    #[error("cannot use inherited descriptor {number}")]
    Unusable { number: i32, source: io::Error },
    #[error("cannot close the descriptors that are not needed")]
    Close(#[source] io::Error),
}

/// Turns numbers from a configuration into owned descriptors. One value of this type exists in a process, made
/// in `main` before anything else is opened.
#[derive(Debug, Default)]
pub struct InheritedFds {
    taken: BTreeSet<i32>,
}

impl InheritedFds {
    /// Nothing taken yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over descriptor `number` and marks it close-on-exec.
    ///
    /// # Errors
    /// `number` is a standard stream, was taken before, or is not open.
    pub fn take(&mut self, number: i32) -> Result<OwnedFd, FdError> {
        if number <= 2 {
            return Err(FdError::Standard(number));
        }
        // SAFETY: the borrow ends within this function, and nothing closes descriptors meanwhile: the process
        // has one thread. A number that is not open only makes fcntl return EBADF.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        let unusable = |error: rustix::io::Errno| FdError::Unusable { number, source: error.into() };
        fcntl_getfd(borrowed).map_err(unusable)?;
        if !self.taken.insert(number) {
            return Err(FdError::Twice(number));
        }
        fcntl_setfd(borrowed, FdFlags::CLOEXEC).map_err(unusable)?;
        // SAFETY: it is open, and `taken` makes this the only owner: whatever the process opened itself before
        // has an owner too, but callers take their inherited descriptors first.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }

    /// Closes every descriptor above the standard streams that was not taken: what an ancestor forgot to mark
    /// close-on-exec must not reach a process that a guest may come to own.
    ///
    /// # Errors
    /// The kernel is older than Linux 5.9.
    pub fn close_others(&self) -> Result<(), FdError> {
        let mut first = 3;
        for &number in &self.taken {
            if number > first {
                close_range(first, number - 1)?;
            }
            first = number + 1;
        }
        close_range(first, i32::MAX)
    }
}

fn close_range(first: i32, last: i32) -> Result<(), FdError> {
    // SAFETY: the caller's contract (see `InheritedFds`) is that nothing else is open yet, so no owner loses its
    // descriptor.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(FdError::Close(io::Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn closed_standard_and_repeated_numbers_are_refused() {
        let mut inherited = InheritedFds::new();
        let number = std::fs::File::open("/dev/null").unwrap().into_raw_fd();

        assert!(matches!(inherited.take(1), Err(FdError::Standard(1))));
        assert!(matches!(inherited.take(-1), Err(FdError::Standard(-1))));
        assert!(matches!(inherited.take(999_999), Err(FdError::Unusable { number: 999_999, .. })));
        let owned = inherited.take(number).unwrap();
        assert!(matches!(inherited.take(number), Err(FdError::Twice(_))));
        assert!(fcntl_getfd(&owned).unwrap().contains(FdFlags::CLOEXEC));
    }
}
