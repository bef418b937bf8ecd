//! Whether this host's KVM can run a kernel, and how fast.
//!
//! That `/dev/kvm` opens says little: PVM-style hosts run user mode natively but emulate supervisor code, at
//! some half a million instructions a second and not all of them. So a counted loop is run in ring 0 of a
//! tiny 64-bit guest, in batches that take milliseconds where supervisor code is emulated and microseconds where
//! it is not, so a fast host pays for an exit or two, and a slow one some 6 ms. CPU time counts, and the best
//! batch: a fast host that is busy must not be taken for a slow one, and its sandboxes be emulated.

#![allow(unsafe_code, reason = "KVM is given the address of the guest's memory")]

use std::fs::OpenOptions;
use std::io;
use std::time::Duration;

use kvm_bindings::{
    KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

/// Least speed of supervisor code, in instructions a second, at which a host is taken to run kernels.
/// Hardware does a thousand million and more, nested hardware hardly less, emulation half a million.
pub const MIN_INSTRUCTIONS_PER_SECOND: u64 = 50_000_000;

/// Longest that the loop may go on while it is slow, in CPU time.
const LIMIT: Duration = Duration::from_millis(5);

/// Iterations of the first batch: a millisecond where supervisor code is emulated.
const FIRST_BATCH: u64 = 250;

/// Fewest batches that make a host slow: one alone may have shared its core.
const MIN_BATCHES: u32 = 5;

/// What the driver `builtin` needs of KVM; the embedded VMM asks for the same.
#[doc(hidden)]
pub const REQUIRED: [(Cap, &str); 8] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
];

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmProbe {
    /// It cannot be used at all.
    Unavailable {
        /// Cause, object and remedy.
        reason: String,
    },
    /// It lacks what the embedded VMM needs.
    Missing {
        /// Name of the capability, such as `KVM_CAP_IRQFD`.
        capability: &'static str,
    },
    /// It runs code.
    Usable {
        /// `KVM_GET_API_VERSION`.
        api_version: i32,
        /// How fast the loop ran in ring 0; on a fast host a lower bound, for the exit is counted in.
        instructions_per_second: u64,
    },
}

impl KvmProbe {
    /// Whether a guest kernel runs on it at hardware speed.
    #[must_use]
    pub fn runs_kernels(&self) -> bool {
        self.obstacle().is_none()
    }

    /// Why a guest kernel does not run on it at hardware speed, if so.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        match self {
            Self::Unavailable { reason } => Some(reason.clone()),
            Self::Missing { capability } => Some(format!("/dev/kvm lacks {capability}")),
            Self::Usable { instructions_per_second: speed, .. } if *speed < MIN_INSTRUCTIONS_PER_SECOND => {
                let millions = millions(*speed);
                Some(format!(
                    "/dev/kvm runs ring-0 code at {millions} million instructions a second, so it emulates it"
                ))
            }
            Self::Usable { .. } => None,
        }
    }
}

/// "0.45", for people.
fn millions(number: u64) -> String {
    let hundredths = number / 10_000;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Opens `/dev/kvm`, checks its capabilities and times the loop.
#[must_use]
pub fn probe() -> KvmProbe {
    match open() {
        Err(found) => found,
        Ok(kvm) => match Guest::new(&kvm).and_then(|mut guest| guest.time()) {
            Ok(instructions_per_second) => {
                KvmProbe::Usable { api_version: kvm.get_api_version(), instructions_per_second }
            }
            Err(error) => KvmProbe::Unavailable { reason: format!("/dev/kvm runs no 64-bit guest: {error}") },
        },
    }
}

/// The checks of [`probe`] that run no guest: why the driver `builtin` cannot work here, if so.
#[must_use]
pub fn obstacle() -> Option<String> {
    open().err().and_then(|found| found.obstacle())
}

fn open() -> Result<Kvm, KvmProbe> {
    // kvm-ioctls drops the system's message, so the error is taken from a plain open.
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm").map(drop);
    opened.map_err(|error| KvmProbe::Unavailable { reason: cannot_open(&error) })?;
    let kvm = Kvm::new().map_err(|error| KvmProbe::Unavailable { reason: cannot_open(&error.into()) })?;
    let version = kvm.get_api_version();
    if u32::try_from(version) != Ok(KVM_API_VERSION) {
        let reason = format!("/dev/kvm speaks version {version} of KVM's API, not {KVM_API_VERSION}");
        return Err(KvmProbe::Unavailable { reason });
    }
    match REQUIRED.iter().find(|(capability, _)| !kvm.check_extension(*capability)) {
        Some((_, capability)) => Err(KvmProbe::Missing { capability }),
        None => Ok(kvm),
    }
}

fn cannot_open(error: &io::Error) -> String {
    let (cause, remedy) = match error.kind() {
        io::ErrorKind::NotFound => (
            "no such device".to_owned(),
            "load the module kvm_intel or kvm_amd, or switch on virtualization in the firmware or cloud",
        ),
        io::ErrorKind::PermissionDenied => ("permission denied".to_owned(), "add your user to group kvm"),
        _ => (error.to_string(), "look into the kernel's log for kvm"),
    };
    format!("cannot open /dev/kvm: {cause}; {remedy}")
}

/// A guest of four pages: three of page tables that map the lowest 2 MiB onto themselves, and its code.
struct Guest {
    vcpu: VcpuFd,
    // Declared after the vCPU, so that they are dropped after it.
    _vm: VmFd,
    _memory: GuestMemoryMmap<()>,
}

const PML4: u64 = 0x0000;
const PDPT: u64 = 0x1000;
const PAGE_DIRECTORY: u64 = 0x2000;
const CODE: u64 = 0x3000;
const MEMORY_SIZE: usize = 0x4000;

/// `1: dec rcx; jnz 1b; hlt`
const LOOP: [u8; 6] = [0x48, 0xff, 0xc9, 0x75, 0xfb, 0xf4];

// Page table entry bits (Intel SDM volume 3, 4.5).
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

#[derive(Debug, thiserror::Error)]
enum GuestError {
    #[error("{step}: {source}")]
    Kvm { step: &'static str, source: kvm_ioctls::Error },
    #[error("cannot make its memory: {0}")]
    Memory(String),
    #[error("its loop ended with {0}")]
    Exit(String),
}

fn step(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> GuestError {
    move |source| GuestError::Kvm { step, source }
}

impl Guest {
    fn new(kvm: &Kvm) -> Result<Self, GuestError> {
        let memory = fill_memory().map_err(|error| GuestError::Memory(error.to_string()))?;
        let address = memory
            .get_host_address(GuestAddress(0))
            .map_err(|error| GuestError::Memory(error.to_string()))?;
        let vm = kvm.create_vm().map_err(step("KVM_CREATE_VM"))?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY_SIZE as u64,
            userspace_addr: address as u64,
            flags: 0,
        };
        // SAFETY: the region is the whole mapping of `memory`, which the returned value keeps until after
        // its VM is gone.
        unsafe { vm.set_user_memory_region(region) }.map_err(step("KVM_SET_USER_MEMORY_REGION"))?;
        let vcpu = vm.create_vcpu(0).map_err(step("KVM_CREATE_VCPU"))?;
        // Without the processor's features, KVM on AMD takes the registers of 64-bit mode for invalid.
        let features =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(step("KVM_GET_SUPPORTED_CPUID"))?;
        vcpu.set_cpuid2(&features).map_err(step("KVM_SET_CPUID2"))?;
        enter_long_mode(&vcpu)?;
        Ok(Self { vcpu, _vm: vm, _memory: memory })
    }

    /// Instructions a second: the most that any batch ran at, for another program can slow one down but nothing
    /// speeds one up. Stops at the first that is fast enough: it proves the point.
    fn time(&mut self) -> Result<u64, GuestError> {
        // The first run faults the pages in.
        self.run(1)?;
        let start = cpu_time();
        let (mut iterations, mut best) = (FIRST_BATCH, 0);
        for batch in 1.. {
            let taken = self.run(iterations)?;
            // Two instructions in each iteration.
            let speed = u128::from(iterations) * 2 * 1_000_000_000 / taken.as_nanos().max(1);
            best = best.max(u64::try_from(speed).unwrap_or(u64::MAX));
            let spent = cpu_time().saturating_sub(start);
            if best >= MIN_INSTRUCTIONS_PER_SECOND || (batch >= MIN_BATCHES && spent > LIMIT) {
                break;
            }
            // The exit weighs less in a longer batch, which only a fast host gets.
            if taken < LIMIT / 20 {
                iterations *= 10;
            }
        }
        Ok(best)
    }

    /// Runs the loop `iterations` times, at least once, and tells how long that took.
    fn run(&mut self, iterations: u64) -> Result<Duration, GuestError> {
        let registers = kvm_regs { rip: CODE, rcx: iterations, rflags: 2, ..kvm_regs::default() };
        self.vcpu.set_regs(&registers).map_err(step("KVM_SET_REGS"))?;
        let start = cpu_time();
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::Hlt) => return Ok(cpu_time().saturating_sub(start)),
                Ok(exit) => return Err(GuestError::Exit(format!("{exit:?}"))),
                Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {}
                Err(error) => return Err(step("KVM_RUN")(error)),
            }
        }
    }
}

/// What this thread and its guest have computed: unlike the clock on the wall, it stands while others run.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    // The kernel gives neither negative seconds nor nanoseconds beyond a second.
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn fill_memory() -> Result<GuestMemoryMmap<()>, Box<dyn std::error::Error>> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_SIZE)])?;
    memory.write_obj(PDPT | PRESENT | WRITABLE, GuestAddress(PML4))?;
    memory.write_obj(PAGE_DIRECTORY | PRESENT | WRITABLE, GuestAddress(PDPT))?;
    memory.write_obj(PRESENT | WRITABLE | LARGE, GuestAddress(PAGE_DIRECTORY))?;
    memory.write_slice(&LOOP, GuestAddress(CODE))?;
    Ok(memory)
}

/// Flat 64-bit code in ring 0, with no descriptor table: nothing loads a segment (Intel SDM volume 3, 3.4.5
/// and 10.8.5).
fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), GuestError> {
    const CR0_PE: u64 = 1 << 0;
    const CR0_NE: u64 = 1 << 5;
    const CR0_PG: u64 = 1 << 31;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LME: u64 = 1 << 8;
    const EFER_LMA: u64 = 1 << 10;
    let data = kvm_segment {
        limit: 0xffff_ffff,
        selector: 0x10,
        type_: 3, // read, write, accessed
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    // Execute, read, accessed.
    let code = kvm_segment { selector: 0x8, type_: 11, db: 0, l: 1, ..data };
    let mut registers = vcpu.get_sregs().map_err(step("KVM_GET_SREGS"))?;
    (registers.cs, registers.ds, registers.es) = (code, data, data);
    (registers.fs, registers.gs, registers.ss) = (data, data, data);
    registers.cr0 = CR0_PE | CR0_NE | CR0_PG;
    registers.cr3 = PML4;
    registers.cr4 = CR4_PAE;
    registers.efer = EFER_LME | EFER_LMA;
    vcpu.set_sregs(&registers).map_err(step("KVM_SET_SREGS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_and_lacking_hosts_run_no_kernels() {
        let usable = |speed| KvmProbe::Usable { api_version: 12, instructions_per_second: speed };
        assert!(usable(MIN_INSTRUCTIONS_PER_SECOND).runs_kernels());
        let slow = usable(453_000).obstacle().unwrap();
        assert!(slow.contains("/dev/kvm runs ring-0 code at 0.45 million instructions a second"), "{slow}");
        let missing = KvmProbe::Missing { capability: "KVM_CAP_IRQFD" };
        assert_eq!(missing.obstacle().unwrap(), "/dev/kvm lacks KVM_CAP_IRQFD");
    }

    #[test]
    fn closed_device_is_told_with_the_remedy() {
        let denied = cannot_open(&io::ErrorKind::PermissionDenied.into());
        assert_eq!(denied, "cannot open /dev/kvm: permission denied; add your user to group kvm");
    }

    #[test]
    fn loop_runs_on_this_host_if_kvm_opens() {
        let found = probe();
        println!("{found:?}");
        match &found {
            // A host without KVM shows just that; the nested test host has it.
            KvmProbe::Unavailable { reason } => {
                assert!(reason.starts_with("cannot open /dev/kvm: "), "{reason}")
            }
            KvmProbe::Missing { .. } => assert_eq!(obstacle(), found.obstacle()),
            KvmProbe::Usable { api_version, instructions_per_second } => {
                assert_eq!(*api_version, 12);
                assert!(*instructions_per_second > 10_000);
                assert_eq!(obstacle(), None);
            }
        }
    }
}
