//! Opens `/dev/kvm` and checks that the host's KVM can do what the machine needs.

use kvm_ioctls::Kvm;
use vmm::hypervisor::probe::REQUIRED;

/// The one stable version of KVM's interface.
const API_VERSION: i32 = 12;

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
    if let Some((_, lacking)) = REQUIRED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        return Err(KvmError::Lacks(lacking));
    }
    let limit = kvm.get_max_vcpus().min(usize::from(crate::arch::x86_64::mp_table::MAX_CPUS));
    if usize::from(cpus) > limit {
        return Err(KvmError::TooManyCpus { wanted: cpus, limit });
    }
    Ok(kvm)
}
