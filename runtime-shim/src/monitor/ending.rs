//! Ends this process as the process in the guest ended, so that who waits for it learns the truth.

#![allow(unsafe_code, reason = "signal(2) has no safe wrapper")]

use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use super::workload::ProcessEnd;

/// No core file is written for a signal that was somebody else's, nor for a child of this process.
pub(crate) fn forbid_core() {
    // Fails only for raising a limit.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Dies of the signal, if it is one to die of; returns the status with which to exit otherwise.
pub(crate) fn follow(end: ProcessEnd) -> u8 {
    if let ProcessEnd::Signaled(number) = end {
        die_of(number);
    }
    end.exit_code()
}

fn die_of(number: u32) {
    let Some(this) = i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok()) else {
        return;
    };
    // A pattern that pipes cores to a program does not look at the limit.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if this != Signal::SIGKILL && this != Signal::SIGSTOP {
        // SAFETY: it installs the default action, no code of ours; `std` catches SIGSEGV and SIGBUS and ignores
        // SIGPIPE, and neither matters to a process that ends.
        let _ = unsafe { signal(this, SigHandler::SigDfl) };
    }
    let _ = SigSet::all().thread_unblock();
    let _ = raise(this);
}
