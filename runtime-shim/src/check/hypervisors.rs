//! KVM and QEMU.

use std::path::Path;

use vmm::hypervisor::probe::{KvmProbe, probe};
use vmm::hypervisor::qemu::version;
use vmm::hypervisor::select::{HostFacts, KnownFacts, ThisHost};

use super::Finding;
use crate::report::chain;

const KVM: &str = "kvm";
const QEMU: &str = "qemu";
const VMM: &str = "a host with hardware virtualization (bare metal, or nested) runs sandboxes much faster";

/// Times KVM and looks for QEMU.
pub(super) fn facts(qemu: Option<&Path>) -> KnownFacts {
    KnownFacts { kvm: probe(), qemu: ThisHost { qemu }.qemu() }
}

pub(super) fn check(facts: &KnownFacts) -> [Finding; 2] {
    [kvm(&facts.kvm), qemu(facts)]
}

fn kvm(probe: &KvmProbe) -> Finding {
    let KvmProbe::Usable { api_version, instructions_per_second } = probe else {
        return Finding::warn(KVM, probe.obstacle().unwrap_or_default(), VMM);
    };
    let found = format!(
        "/dev/kvm, API version {api_version}, all capabilities, ring 0 at {} million instructions a second",
        millions(*instructions_per_second)
    );
    if probe.runs_kernels() {
        Finding::ok(KVM, found)
    } else {
        Finding::warn(KVM, format!("{found}: this KVM emulates kernel code"), VMM)
    }
}

fn millions(number: u64) -> String {
    let hundredths = number / 10_000;
    if hundredths >= 10_000 {
        return (hundredths / 100).to_string();
    }
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn qemu(facts: &KnownFacts) -> Finding {
    let remedy = "apt-get install qemu-system-x86";
    match &facts.qemu {
        Err(reason) => Finding::warn(QEMU, reason.clone(), remedy),
        Ok(program) => match version(program) {
            Ok(version) => Finding::ok(QEMU, format!("{}, version {version}", program.display())),
            Err(error) => Finding::warn(QEMU, chain(&error), remedy),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn kvm_is_told_with_its_speed() {
        let fast = kvm(&KvmProbe::Usable { api_version: 12, instructions_per_second: 1_234_567_890 });
        assert_eq!(fast.status, Status::Ok);
        assert!(
            fast.found
                .ends_with("API version 12, all capabilities, ring 0 at 1234 million instructions a second")
        );
        let slow = kvm(&KvmProbe::Usable { api_version: 12, instructions_per_second: 450_000 });
        assert_eq!(slow.status, Status::Warn);
        assert!(slow.found.contains("0.45 million"), "{}", slow.found);
        let none = kvm(&KvmProbe::Missing { capability: "KVM_CAP_IRQFD" });
        assert_eq!((none.status, &*none.found), (Status::Warn, "/dev/kvm lacks KVM_CAP_IRQFD"));
    }
}
