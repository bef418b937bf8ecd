//! Says what ended a sandbox that should not have ended.

use std::time::Duration;

use vmm::hypervisor::{VmError, VmExit};

use super::{MonitorError, signals};
use crate::report;
use crate::sandbox::agent_client::AgentError;
use crate::sandbox::devices::DevicesEnd;
use crate::sandbox::start::Sandbox;

/// One end brings the other about; both are looked at before either is blamed.
const GRACE: Duration = Duration::from_millis(300);

/// How long a VMM that has left its device process may take to end, on a host that is busy too.
const LEAVING: Duration = Duration::from_secs(10);

/// How many lines of the console explain a death.
const CONSOLE_LINES: usize = 12;

/// What ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Death {
    /// PID 1 of the guest.
    #[error("the agent died: {0}")]
    Agent(String),
    /// The guest's kernel.
    #[error("the guest kernel panicked: {0}")]
    Panic(String),
    /// The guest, without its kernel's panic.
    #[error("the guest reset itself before the workload ended")]
    Reset,
    /// The guest, in order.
    #[error("the guest powered itself off before the workload ended")]
    PowerOff,
    /// The guest's processor.
    #[error("the guest triple-faulted: {0}")]
    TripleFault(String),
    /// The machine's process, by a signal.
    #[error("the VMM (process {pid}) was killed by {}", signals::describe(*.signal))]
    VmKilled {
        /// Its process id.
        pid: u32,
        /// The signal.
        signal: i32,
    },
    /// The machine's process, by itself.
    #[error("the VMM failed: {0}")]
    VmFailed(String),
    /// The machine's process, and nobody knows how.
    #[error("the VMM ended")]
    VmUnknown(#[source] VmError),
    /// The device process.
    #[error("{end} (process {pid})")]
    Devices {
        /// Its process id.
        pid: u32,
        /// How.
        end: DevicesEnd,
    },
}

/// Finds out what ended, once something has, and shows the end of the console where it explains it.
pub(crate) fn explain(sandbox: &mut Sandbox) -> Death {
    let devices = sandbox.devices.end_within(GRACE).ok().flatten();
    let devices_pid = sandbox.devices.pid();
    let patience = if devices == Some(DevicesEnd::Disconnected) { LEAVING } else { GRACE };
    let (vm_ended, pid) = (sandbox.vm_ended_within(patience), sandbox.vm.pid());
    let exit = vm_ended.then(|| sandbox.vm.wait());
    let console = sandbox.console.text();
    let death = blame(devices.map(|end| (devices_pid, end)), exit, pid, &console);
    if death.is_told_by_the_console() && !sandbox.console.is_shown() {
        show_console(&console);
    }
    death
}

/// The same as an error; without a sandbox, all that is known is that its agent has gone.
pub(crate) fn of(sandbox: Option<&mut Sandbox>) -> MonitorError {
    sandbox.map_or_else(|| AgentError::Closed.into(), |sandbox| explain(sandbox).into())
}

/// What is behind an error: whatever breaks a connection to the guest says less than the end of a part of the sandbox
/// that broke it, and may be noticed before it.
pub(crate) fn behind(sandbox: &mut Sandbox, error: MonitorError) -> MonitorError {
    if error.may_follow_a_death() && sandbox.has_ended() { explain(sandbox).into() } else { error }
}

impl Death {
    fn is_told_by_the_console(&self) -> bool {
        !matches!(self, Self::VmKilled { .. } | Self::Devices { .. } | Self::PowerOff)
    }
}

fn show_console(text: &str) {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let first = lines.len().saturating_sub(CONSOLE_LINES);
    lines.iter().skip(first).for_each(|line| report::detail(line));
}

/// Which of the ends is the cause. A process that a signal killed did not end because of another; a device
/// process whose frontend left ends in order.
fn blame(
    devices: Option<(u32, DevicesEnd)>,
    exit: Option<Result<VmExit, VmError>>,
    pid: u32,
    console: &str,
) -> Death {
    match (devices, exit) {
        (_, Some(Ok(VmExit::Killed { signal }))) => Death::VmKilled { pid, signal },
        (Some((pid, end)), _) if end != DevicesEnd::Disconnected => Death::Devices { pid, end },
        (_, Some(Ok(exit))) => of_exit(exit, console),
        (_, Some(Err(error))) => Death::VmUnknown(error),
        (Some((pid, end)), None) => Death::Devices { pid, end },
        (None, None) => Death::Reset,
    }
}

fn of_exit(exit: VmExit, console: &str) -> Death {
    match exit {
        VmExit::Reset => of_panic(console).unwrap_or(Death::Reset),
        VmExit::Shutdown => Death::PowerOff,
        VmExit::TripleFault { registers } => of_panic(console).unwrap_or(Death::TripleFault(registers)),
        VmExit::Failed { message } => Death::VmFailed(message),
        VmExit::Killed { signal } => Death::VmKilled { pid: 0, signal },
    }
}

/// A reset is the last thing that a panicking kernel does, by a triple fault if nothing else works or if its other
/// vCPUs do not stop in order; and the kernel panics when its PID 1 ends.
fn of_panic(console: &str) -> Option<Death> {
    const PANIC: &str = "Kernel panic - not syncing: ";
    let (before, after) = console.split_once(PANIC)?;
    let panic = after.lines().next().unwrap_or_default().trim();
    if !panic.starts_with("Attempted to kill init!") {
        return Some(Death::Panic(with_the_fault(panic, before)));
    }
    let last_words = before.lines().rev().map(message_of).find(|line| line.starts_with("runv-agent"));
    Some(Death::Agent(last_words.unwrap_or(panic).to_owned()))
}

/// What the kernel did wrong, and where, if that is why it panicked: the panic itself is then "Fatal exception".
fn with_the_fault(panic: &str, before: &str) -> String {
    const FAULTS: [&str; 3] = ["BUG: ", "Oops: ", "kernel BUG at "];
    let mut lines = before.lines().map(message_of);
    let fault = lines.by_ref().find(|line| FAULTS.iter().any(|start| line.starts_with(start)));
    let place = lines.find_map(|line| line.strip_prefix("RIP: "));
    fault.iter().chain(&place).fold(panic.to_owned(), |text, part| text + ": " + part)
}

/// A console line without the kernel's time stamp.
fn message_of(line: &str) -> &str {
    match line.trim().strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_time, message)) => message,
        None => line.trim(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(devices: Option<DevicesEnd>, exit: Option<VmExit>, console: &str) -> String {
        blame(devices.map(|end| (7, end)), exit.map(Ok), 8, console).to_string()
    }

    #[test]
    fn a_panic_is_the_cause_of_the_triple_fault_that_follows_it() {
        let fault = Some(VmExit::TripleFault { registers: "rip=0".into() });
        let console = "[    1.0] Kernel panic - not syncing: sysrq triggered crash\n";
        assert_eq!(text(None, fault, console), "the guest kernel panicked: sysrq triggered crash");
    }

    #[test]
    fn a_killed_process_is_to_blame() {
        let killed = Some(VmExit::Killed { signal: 9 });
        let expected = "the VMM (process 8) was killed by signal 9 (SIGKILL)";
        assert_eq!(text(Some(DevicesEnd::Disconnected), killed.clone(), ""), expected);
        assert_eq!(text(None, killed, ""), expected);
        let expected = "the device process was killed by signal 9 (SIGKILL) (process 7)";
        let qemu = Some(VmExit::Failed { message: "lost its backend".into() });
        assert_eq!(text(Some(DevicesEnd::Killed(9)), qemu, ""), expected);
        assert_eq!(text(Some(DevicesEnd::Killed(9)), None, ""), expected);
    }

    #[test]
    fn a_failed_device_process_is_to_blame_with_its_words() {
        let failed = Some(DevicesEnd::Failed("no memory".into()));
        let reset = Some(VmExit::Reset);
        assert_eq!(text(failed, reset, ""), "the device process failed: no memory (process 7)");
    }

    #[test]
    fn a_reset_is_told_by_the_console() {
        let disconnected = Some(DevicesEnd::Disconnected);
        for (console, expected) in [
            ("", "the guest reset itself before the workload ended"),
            (
                "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\n[    1.1] CPU: 0",
                "the guest kernel panicked: VFS: Unable to mount root fs",
            ),
            (
                "[    1.0] runv-agent: cannot mount /proc\n\
                 [    1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100",
                "the agent died: runv-agent: cannot mount /proc",
            ),
            (
                "[    2.8] Oops: general protection fault: 0000 [#1]\n\
                 [    2.8] RIP: 0010:fuse_invalidate_atime+0x4/0x30\n\
                 [    3.1] Kernel panic - not syncing: Fatal exception\n",
                "the guest kernel panicked: Fatal exception: Oops: general protection fault: 0000 [#1]: \
                 0010:fuse_invalidate_atime+0x4/0x30",
            ),
            (
                "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009\n",
                "the agent died: Attempted to kill init! exitcode=0x00000009",
            ),
        ] {
            assert_eq!(text(disconnected.clone(), Some(VmExit::Reset), console), expected);
        }
    }

    #[test]
    fn other_exits_say_what_they_are() {
        for (exit, expected) in [
            (VmExit::Shutdown, "the guest powered itself off before the workload ended"),
            (VmExit::TripleFault { registers: "rip=0".into() }, "the guest triple-faulted: rip=0"),
            (VmExit::Failed { message: "KVM said no".into() }, "the VMM failed: KVM said no"),
        ] {
            assert_eq!(text(Some(DevicesEnd::Disconnected), Some(exit), ""), expected);
        }
    }
}
