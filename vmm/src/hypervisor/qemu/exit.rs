//! From how a QEMU process ended to how the machine ended. Pure.
//!
//! | the guest | QEMU does |
//! |---|---|
//! | writes byte b to port 0x501 | exits with 2b+1, no event (isa-debug-exit up to QEMU 9) |
//! | the same, newer QEMU | event SHUTDOWN guest-shutdown, exits with 2b+1 |
//! | resets itself (a panic does) | event SHUTDOWN guest-reset, exits with 0 because of -no-reboot |
//! | triple-faults under TCG | the same, and writes "Triple fault" to its log of CPU resets |
//! | triple-faults under KVM | the same as for a reset: it cannot be told from one |
//!
//! QEMU's own failures exit with 1, or abort. Hence the agent must write a byte that is not 0.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::qmp::ShutdownReason;
use super::watch::Observed;
use crate::hypervisor::VmExit;

/// Says how the machine ended.
pub(crate) fn classify(status: ExitStatus, observed: &Observed) -> VmExit {
    if let Some(signal) = status.signal() {
        return VmExit::Killed { signal };
    }
    match observed.shutdown {
        Some(ShutdownReason::GuestShutdown) => VmExit::Shutdown,
        Some(ShutdownReason::GuestReset) if observed.triple_fault => {
            VmExit::TripleFault { registers: "unknown, for QEMU does not log them".to_owned() }
        }
        Some(ShutdownReason::GuestReset) => VmExit::Reset,
        // QEMU ends cleanly at SIGTERM, SIGINT and SIGHUP, and does not say in QMP which it was.
        Some(ShutdownReason::HostSignal) => VmExit::Killed { signal: signal_of(&observed.stderr) },
        Some(reason) => failed(&format!("QEMU stopped the machine ({reason:?})"), observed),
        None => match status.code() {
            Some(code) if code > 1 && code % 2 == 1 => VmExit::Shutdown,
            Some(code) => failed(&format!("QEMU ended with status {code}"), observed),
            None => failed("QEMU ended with no status", observed),
        },
    }
}

fn failed(cause: &str, observed: &Observed) -> VmExit {
    let mut message = cause.to_owned();
    for more in [observed.violation.unwrap_or_default(), &observed.stderr] {
        if !more.is_empty() {
            message.push_str(": ");
            message.push_str(more);
        }
    }
    VmExit::Failed { message }
}

/// QEMU writes "terminating on signal N from pid P".
fn signal_of(stderr: &str) -> i32 {
    stderr
        .rsplit_once("terminating on signal ")
        .and_then(|(_, rest)| rest.split(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(libc::SIGTERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    fn after(reason: ShutdownReason) -> Observed {
        Observed { shutdown: Some(reason), ..Observed::default() }
    }

    #[test]
    fn debug_exit_is_shutdown() {
        assert_eq!(classify(exited(0x21), &Observed::default()), VmExit::Shutdown);
        let newer = after(ShutdownReason::GuestShutdown);
        assert_eq!(classify(exited(0x21), &newer), VmExit::Shutdown);
    }

    #[test]
    fn status_one_is_a_failure_of_qemu_in_its_own_words() {
        let observed = Observed { stderr: "Unexpected error".to_owned(), ..Observed::default() };
        let message = "QEMU ended with status 1: Unexpected error".to_owned();
        assert_eq!(classify(exited(1), &observed), VmExit::Failed { message });
    }

    #[test]
    fn guest_reset_is_reset() {
        assert_eq!(classify(exited(0), &after(ShutdownReason::GuestReset)), VmExit::Reset);
    }

    #[test]
    fn triple_fault_is_a_reset_that_the_log_explains() {
        let observed = Observed { triple_fault: true, ..after(ShutdownReason::GuestReset) };
        assert!(matches!(classify(exited(0), &observed), VmExit::TripleFault { .. }));
    }

    #[test]
    fn signals_are_told_whether_qemu_caught_them_or_not() {
        let killed = ExitStatus::from_raw(libc::SIGKILL);
        assert_eq!(classify(killed, &Observed::default()), VmExit::Killed { signal: libc::SIGKILL });
        let mut observed = after(ShutdownReason::HostSignal);
        assert_eq!(classify(exited(0), &observed), VmExit::Killed { signal: libc::SIGTERM });
        observed.stderr = "terminating on signal 2 from pid 77 (bash)".to_owned();
        assert_eq!(classify(exited(0), &observed), VmExit::Killed { signal: 2 });
    }

    #[test]
    fn silent_end_is_a_failure() {
        let message = "QEMU ended with status 0".to_owned();
        assert_eq!(classify(exited(0), &Observed::default()), VmExit::Failed { message });
    }
}
