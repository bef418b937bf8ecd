//! What follows from the findings: which driver `sandbox run` would take.

use serde::Serialize;
use vmm::hypervisor::select::{Driver, KnownFacts, select};

use super::{Finding, Status};
use crate::config::Config;

/// Whether a sandbox can run, and by which driver.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// All that is needed is there.
    pub(crate) can_run: bool,
    /// `builtin` or `qemu`.
    pub(crate) driver: Option<&'static str>,
    /// Software would emulate the guest's CPU.
    pub(crate) software_emulation: bool,
    /// Why this driver, or why none.
    pub(crate) reason: String,
}

pub(super) fn of(config: &Config, facts: &KnownFacts, checks: &[Finding]) -> Verdict {
    let complete = checks.iter().all(|check| check.status != Status::Fail);
    match select(config.hypervisor, config.software_emulation, facts) {
        Ok(selection) => Verdict {
            can_run: complete,
            driver: Some(match selection.driver {
                Driver::Builtin => "builtin",
                Driver::Qemu(_) => "qemu",
            }),
            software_emulation: selection.is_emulated(),
            reason: selection.reason,
        },
        Err(error) => {
            Verdict { can_run: false, driver: None, software_emulation: false, reason: error.to_string() }
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm::hypervisor::probe::KvmProbe;

    use super::*;

    fn facts(qemu: Result<std::path::PathBuf, String>) -> KnownFacts {
        KnownFacts { kvm: KvmProbe::Unavailable { reason: "no /dev/kvm".into() }, qemu }
    }

    #[test]
    fn qemu_alone_can_run() {
        let verdict = of(&Config::default(), &facts(Ok("/q".into())), &[Finding::warn("kvm", "none", "x")]);
        assert!(verdict.can_run && verdict.software_emulation);
        assert_eq!(verdict.driver, Some("qemu"));
    }

    #[test]
    fn a_failure_or_no_driver_cannot() {
        let missing =
            of(&Config::default(), &facts(Ok("/q".into())), &[Finding::fail("kernel", "none", "x")]);
        assert!(!missing.can_run);
        let nothing = of(&Config::default(), &facts(Err("no QEMU".into())), &[]);
        assert_eq!((nothing.can_run, nothing.driver), (false, None));
        assert!(nothing.reason.contains("no /dev/kvm") && nothing.reason.contains("no QEMU"));
    }
}
