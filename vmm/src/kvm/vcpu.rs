//! A vCPU and its thread.
//!
//! ```text
//!   running --pause()--> parked --resume()--> running --exit--> the thread ends and tells how
//! ```
//!
//! To get a vCPU out of the guest its thread is sent a signal, which does nothing but interrupt `KVM_RUN`.
//! A signal that comes between the check and `KVM_RUN` would be lost, so `pause` sends it again until the
//! thread has parked.

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_bindings::{CpuId, Msrs};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::exit::{self, Buses, Halt};
use crate::arch::x86_64::{msrs, registers};
use vmm::hypervisor::VmExit;

/// Stack of a vCPU thread: its deepest call is the set-up of a device at the guest's request.
const STACK_SIZE: usize = 256 * 1024;
/// How long a thread gets to park before it is sent the signal again.
const PARK_PATIENCE: Duration = Duration::from_millis(5);

/// A vCPU could not be made or run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VcpuError {
    #[error("cannot {step} of vCPU {id}")]
    Kvm {
        step: &'static str,
        id: u8,
        #[source]
        source: kvm_ioctls::Error,
    },
    #[error("KVM refused MSR number {accepted} of vCPU {id}")]
    Msr { accepted: usize, id: u8 },
    #[error("cannot start the thread of vCPU {id}")]
    Spawn {
        id: u8,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot handle the signal for vCPU threads")]
    Signal(#[source] vmm_sys_util::errno::Error),
}

/// A vCPU that no thread runs yet.
pub(crate) struct Vcpu {
    fd: VcpuFd,
    id: u8,
}

impl Vcpu {
    /// Makes the vCPU with APIC id `id`. All but the first wait for the first one's start-up interrupt.
    pub(crate) fn new(vm: &VmFd, id: u8, cpuid: &CpuId) -> Result<Self, VcpuError> {
        let at = |step| move |source| VcpuError::Kvm { step, id, source };
        let fd = vm.create_vcpu(u64::from(id)).map_err(at("make the state"))?;
        fd.set_cpuid2(cpuid).map_err(at("set the CPUID"))?;
        let entries = msrs::boot_msrs();
        let wanted = Msrs::from_entries(&entries).map_err(|_too_many| VcpuError::Msr { accepted: 0, id })?;
        let accepted = fd.set_msrs(&wanted).map_err(at("set the MSRs"))?;
        if accepted == entries.len() { Ok(Self { fd, id }) } else { Err(VcpuError::Msr { accepted, id }) }
    }

    /// Lets this vCPU start in long mode at `entry`, by the tables of [`registers::start_tables`].
    pub(crate) fn set_entry(&self, entry: u64) -> Result<(), VcpuError> {
        let id = self.id;
        let at = |step| move |source| VcpuError::Kvm { step, id, source };
        let mut sregs = self.fd.get_sregs().map_err(at("read the special registers"))?;
        registers::set_long_mode(&mut sregs);
        self.fd.set_sregs(&sregs).map_err(at("set the special registers"))?;
        self.fd.set_regs(&registers::entry_registers(entry)).map_err(at("set the registers"))
    }

    /// Runs the guest until the machine ends.
    fn run(&mut self, buses: &Buses, gate: &Gate) -> VmExit {
        loop {
            gate.pass(|| self.after_pause());
            let halt = match self.fd.run() {
                Ok(exit) => exit::handle(exit, buses),
                Err(error) => interrupted(error),
            };
            if let ControlFlow::Break(halt) = halt {
                return self.explain(halt);
            }
        }
    }

    /// Tells the guest's watchdogs that time went by without it. A guest without kvmclock has none.
    fn after_pause(&self) {
        if let Err(error) = self.fd.kvmclock_ctrl() {
            log::debug!("vCPU {} has no clock to be told of the pause: {error}", self.id);
        }
    }

    fn explain(&self, halt: Halt) -> VmExit {
        match halt {
            Halt::Exit(exit) => exit,
            Halt::TripleFault => VmExit::TripleFault { registers: self.registers() },
            Halt::Unhandled(text) => {
                VmExit::Failed { message: format!("vCPU {}: {text}; {}", self.id, self.registers()) }
            }
        }
    }

    /// The registers in words.
    fn registers(&self) -> String {
        match (self.fd.get_regs(), self.fd.get_sregs()) {
            (Ok(regs), Ok(sregs)) => registers::describe(&regs, &sregs),
            (Err(error), _) | (_, Err(error)) => format!("registers cannot be read: {error}"),
        }
    }
}

/// What to do when `KVM_RUN` fails.
fn interrupted(error: kvm_ioctls::Error) -> ControlFlow<Halt> {
    match error.errno() {
        libc::EINTR | libc::EAGAIN => ControlFlow::Continue(()),
        libc::EFAULT => ControlFlow::Break(Halt::Unhandled(
            "a page of guest memory cannot be had: the host is out of memory, or the kernel's file changed"
                .to_owned(),
        )),
        _ => ControlFlow::Break(Halt::Unhandled(format!("KVM_RUN failed: {error}"))),
    }
}

/// Where vCPU threads stop while the machine is paused.
#[derive(Default)]
struct Gate {
    /// Read by each thread before each entry into the guest.
    closed: AtomicBool,
    /// How many threads stand before the gate.
    parked: Mutex<usize>,
    /// Told when either changes.
    changed: Condvar,
}

impl Gate {
    /// Waits while the gate is closed, and calls `after` if it was.
    fn pass(&self, after: impl FnOnce()) {
        if !self.closed.load(Ordering::Acquire) {
            return;
        }
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        *parked += 1;
        self.changed.notify_all();
        while self.closed.load(Ordering::Acquire) {
            parked = self.changed.wait(parked).unwrap_or_else(PoisonError::into_inner);
        }
        *parked -= 1;
        drop(parked);
        after();
    }
}

/// The running vCPUs.
pub(crate) struct VcpuThreads {
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<()>>,
}

/// How a vCPU thread tells the main thread that the machine has ended.
#[derive(Clone)]
pub(crate) struct ExitReport {
    /// Where the end is told.
    pub(crate) sender: Sender<VmExit>,
    /// Signalled after that.
    pub(crate) wake: Arc<OwnedFd>,
}

impl ExitReport {
    fn report(&self, exit: VmExit) {
        // Without a receiver the process is ending already.
        let _ = self.sender.send(exit);
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl VcpuThreads {
    /// Starts a thread for each vCPU.
    pub(crate) fn start(
        vcpus: Vec<Vcpu>,
        buses: &Arc<Buses>,
        report: &ExitReport,
    ) -> Result<Self, VcpuError> {
        register_signal_handler(SIGRTMIN(), on_signal).map_err(VcpuError::Signal)?;
        let gate = Arc::new(Gate::default());
        let mut threads = Vec::with_capacity(vcpus.len());
        for mut vcpu in vcpus {
            let id = vcpu.id;
            let (gate, buses, report) = (Arc::clone(&gate), Arc::clone(buses), report.clone());
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{id}"))
                .stack_size(STACK_SIZE)
                .spawn(move || report.report(vcpu.run(&buses, &gate)))
                .map_err(|source| VcpuError::Spawn { id, source })?;
            threads.push(thread);
        }
        Ok(Self { gate, threads })
    }

    /// Stops all vCPUs; returns when none is in the guest. A thread that has ended counts as stopped.
    pub(crate) fn pause(&self) {
        self.gate.closed.store(true, Ordering::Release);
        let mut parked = self.gate.parked.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let running = self.threads.iter().filter(|thread| !thread.is_finished());
            if *parked >= running.clone().count() {
                return;
            }
            for thread in running {
                if let Err(error) = thread.kill(SIGRTMIN()) {
                    log::debug!("cannot signal a vCPU thread: {error}");
                }
            }
            let waited = self.gate.changed.wait_timeout(parked, PARK_PATIENCE);
            parked = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets all vCPUs go on.
    pub(crate) fn resume(&self) {
        let _parked = self.gate.parked.lock().unwrap_or_else(PoisonError::into_inner);
        self.gate.closed.store(false, Ordering::Release);
        self.gate.changed.notify_all();
    }
}

/// Does nothing: the signal's only effect is to interrupt `KVM_RUN`.
extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
