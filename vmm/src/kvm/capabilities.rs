//! Opens `/dev/kvm` and checks that the host's KVM can do what the machine needs.

use kvm_ioctls::{Cap, Kvm};

/// The one stable version of KVM's interface.
const API_VERSION: i32 = 12;

/// What the machine cannot do without, and in what words to say so.
const NEEDED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "guest memory from user space (KVM_CAP_USER_MEMORY)"),
    (Cap::Irqchip, "interrupt controllers in the kernel (KVM_CAP_IRQCHIP)"),
    (Cap::Ioeventfd, "notifications by eventfd (KVM_CAP_IOEVENTFD)"),
    (Cap::Irqfd, "interrupts by eventfd (KVM_CAP_IRQFD)"),
    (Cap::SetTssAddr, "placing its real-mode pages (KVM_CAP_SET_TSS_ADDR)"),
    (Cap::ImmediateExit, "leaving the guest on request (KVM_CAP_IMMEDIATE_EXIT)"),
];

/// The host's KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KvmError {
    #[error("cannot open /dev/kvm")]
    Open(#[source] kvm_ioctls::Error),
    #[error("/dev/kvm has interface version {0}, not {API_VERSION}")]
    Version(i32),
    #[error("the host's KVM lacks {0}")]
    Lacks(&'static str),
    #[error("{wanted} vCPUs are more than the host's KVM can run: {limit}")]
    TooManyCpus { wanted: u8, limit: usize },
}

/// Opens `/dev/kvm` for a machine of `cpus` vCPUs.
pub(crate) fn open(cpus: u8) -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(KvmError::Open)?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(KvmError::Version(version));
    }
    if let Some((_, lacking)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        return Err(KvmError::Lacks(lacking));
    }
    let limit = kvm.get_max_vcpus().min(usize::from(crate::arch::x86_64::mp_table::MAX_CPUS));
    if usize::from(cpus) > limit {
        return Err(KvmError::TooManyCpus { wanted: cpus, limit });
    }
    Ok(kvm)
}
