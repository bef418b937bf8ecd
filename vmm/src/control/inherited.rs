//! File descriptors that a process has from its parent, known by number.
#![allow(unsafe_code, reason = "an inherited descriptor is known by its number only")]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Mutex;

use super::FdNumber;

/// The numbers that [`inherit`] has given away.
static TAKEN: Mutex<BTreeSet<FdNumber>> = Mutex::new(BTreeSet::new());

/// A descriptor that should have been inherited cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// 0, 1 and 2 belong to the standard library, and no descriptor is negative.
    #[error("file descriptor {0} is not one to inherit")]
    Reserved(FdNumber),
    /// Two parts of the configuration name the same descriptor.
    #[error("file descriptor {0} is named twice")]
    Taken(FdNumber),
    /// The parent did not leave it open.
    #[error("cannot use inherited file descriptor {number}")]
    Closed {
        /// Its number.
        number: FdNumber,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Takes ownership of descriptor `number`, which the parent left open, and marks it close-on-exec.
///
/// To be called before the process opens descriptors of its own whose numbers could be mistaken for
/// inherited ones.
///
/// # Errors
/// When the number is reserved, was taken before, or is not open.
pub fn inherit(number: FdNumber) -> Result<OwnedFd, InheritError> {
    if number <= 2 {
        return Err(InheritError::Reserved(number));
    }
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if taken.contains(&number) {
        return Err(InheritError::Taken(number));
    }
    // SAFETY: `number` is not negative. The borrow ends before anything could close the descriptor; if it
    // is not open, the call below fails with EBADF and touches nothing.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)
        .map_err(|source| InheritError::Closed { number, source: source.into() })?;
    taken.insert(number);
    // SAFETY: the descriptor is open (it has just been used), and `TAKEN` sees to it that nobody gets it
    // from here a second time.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn a_descriptor_is_given_away_once() {
        let number = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let owned = inherit(number).unwrap();
        assert!(matches!(inherit(number), Err(InheritError::Taken(n)) if n == number));
        drop(owned);
    }

    #[test]
    fn standard_and_closed_descriptors_are_refused() {
        assert!(matches!(inherit(1), Err(InheritError::Reserved(1))));
        assert!(matches!(inherit(-1), Err(InheritError::Reserved(-1))));
        assert!(matches!(inherit(1_000_000), Err(InheritError::Closed { number: 1_000_000, .. })));
    }
}
