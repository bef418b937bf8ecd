//! From what was asked for and what the host can do to a driver, with the reason in words. Pure.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::probe::{self, KvmProbe};
use super::qemu::{self, Accelerator, Qemu};

/// Which driver is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// The embedded VMM where KVM runs kernels at hardware speed, else QEMU.
    #[default]
    Auto,
    /// The embedded VMM.
    Builtin,
    /// QEMU, with KVM where that runs kernels at hardware speed.
    Qemu,
}

/// Whether software may execute the guest's instructions. QEMU does not call that a security boundary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmulationPolicy {
    /// Yes, but the caller says so to its user.
    #[default]
    Warn,
    /// Yes.
    Allow,
    /// No.
    Deny,
}

/// A word that names none of the alternatives.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is none of {alternatives}")]
pub struct UnknownName {
    word: String,
    alternatives: &'static str,
}

impl FromStr for Choice {
    type Err = UnknownName;

    fn from_str(word: &str) -> Result<Self, UnknownName> {
        match word {
            "auto" => Ok(Self::Auto),
            "builtin" => Ok(Self::Builtin),
            "qemu" => Ok(Self::Qemu),
            _ => Err(UnknownName { word: word.to_owned(), alternatives: "auto, builtin, qemu" }),
        }
    }
}

impl FromStr for EmulationPolicy {
    type Err = UnknownName;

    fn from_str(word: &str) -> Result<Self, UnknownName> {
        match word {
            "warn" => Ok(Self::Warn),
            "allow" => Ok(Self::Allow),
            "deny" => Ok(Self::Deny),
            _ => Err(UnknownName { word: word.to_owned(), alternatives: "warn, allow, deny" }),
        }
    }
}

/// What the host can do. Each is asked for only if the choice depends on it, for asking takes time.
pub trait HostFacts {
    /// What KVM can do, with the speed of ring 0.
    fn kvm(&self) -> KvmProbe;

    /// Why the embedded VMM cannot work on this KVM, if so; says nothing of speed.
    fn kvm_obstacle(&self) -> Option<String>;

    /// The QEMU program, or why there is none.
    ///
    /// # Errors
    /// Cause and remedy, one line.
    fn qemu(&self) -> Result<PathBuf, String>;
}

/// The host that this process runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThisHost<'a> {
    /// The configured QEMU program, if any.
    pub qemu: Option<&'a Path>,
}

impl HostFacts for ThisHost<'_> {
    fn kvm(&self) -> KvmProbe {
        // If KVM does not serve, emulation needs this, and the probe takes as long as it does.
        qemu::begin_calibration();
        probe::probe()
    }

    fn kvm_obstacle(&self) -> Option<String> {
        probe::obstacle()
    }

    fn qemu(&self) -> Result<PathBuf, String> {
        qemu::find_program(self.qemu).map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }
}

/// Facts that were found before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownFacts {
    /// What [`probe::probe`] found.
    pub kvm: KvmProbe,
    /// The QEMU program, or why there is none.
    pub qemu: Result<PathBuf, String>,
}

impl HostFacts for KnownFacts {
    fn kvm(&self) -> KvmProbe {
        self.kvm.clone()
    }

    fn kvm_obstacle(&self) -> Option<String> {
        match &self.kvm {
            KvmProbe::Usable { .. } => None,
            KvmProbe::Unavailable { .. } | KvmProbe::Missing { .. } => self.kvm.obstacle(),
        }
    }

    fn qemu(&self) -> Result<PathBuf, String> {
        self.qemu.clone()
    }
}

/// A driver that can work here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// The embedded VMM.
    Builtin,
    /// QEMU, ready to start machines.
    Qemu(Qemu),
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The driver.
    pub driver: Driver,
    /// Why it is this one, for people, one line.
    pub reason: String,
}

impl Selection {
    /// Whether software executes the guest's instructions, which [`EmulationPolicy::Warn`] is about.
    #[must_use]
    pub fn is_emulated(&self) -> bool {
        matches!(self.driver, Driver::Qemu(Qemu { accelerator: Accelerator::Tcg, .. }))
    }
}

/// No driver can work here as asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The embedded VMM was asked for.
    #[error("cannot use hypervisor builtin: {kvm}")]
    Builtin {
        /// Why KVM does not serve.
        kvm: String,
    },
    /// QEMU was asked for.
    #[error("cannot use hypervisor qemu: {qemu}")]
    Qemu {
        /// Why it cannot be used.
        qemu: String,
    },
    /// Neither can work.
    #[error("no hypervisor can run here: {kvm}; and without KVM: {qemu}")]
    None {
        /// Why KVM does not serve.
        kvm: String,
        /// Why QEMU does not serve.
        qemu: String,
    },
    /// Only software emulation would work.
    #[error("only software emulation can run here, which software_emulation = \"deny\" forbids: {kvm}")]
    EmulationDenied {
        /// Why KVM does not serve.
        kvm: String,
    },
}

/// Selects the driver.
///
/// # Errors
/// When nothing that was asked for can work or is allowed.
pub fn select(
    choice: Choice,
    policy: EmulationPolicy,
    host: &dyn HostFacts,
) -> Result<Selection, SelectError> {
    match choice {
        Choice::Builtin => match host.kvm_obstacle() {
            None => Ok(Selection { driver: Driver::Builtin, reason: "as configured".to_owned() }),
            Some(kvm) => Err(SelectError::Builtin { kvm }),
        },
        Choice::Auto => match host.kvm().obstacle() {
            None => {
                let reason = "/dev/kvm runs kernels at hardware speed".to_owned();
                Ok(Selection { driver: Driver::Builtin, reason })
            }
            Some(kvm) => match host.qemu() {
                Ok(program) => emulate(policy, program, kvm),
                Err(qemu) => Err(SelectError::None { kvm, qemu }),
            },
        },
        Choice::Qemu => {
            let program = host.qemu().map_err(|qemu| SelectError::Qemu { qemu })?;
            match host.kvm().obstacle() {
                None => {
                    let driver = Driver::Qemu(Qemu::new(program, Accelerator::Kvm));
                    Ok(Selection { driver, reason: "as configured".to_owned() })
                }
                Some(kvm) => emulate(policy, program, kvm),
            }
        }
    }
}

fn emulate(policy: EmulationPolicy, program: PathBuf, kvm: String) -> Result<Selection, SelectError> {
    match policy {
        EmulationPolicy::Deny => Err(SelectError::EmulationDenied { kvm }),
        EmulationPolicy::Warn | EmulationPolicy::Allow => {
            let driver = Driver::Qemu(Qemu::new(program, Accelerator::Tcg));
            Ok(Selection { driver, reason: format!("software emulation, because {kvm}") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: KvmProbe = KvmProbe::Usable { api_version: 12, instructions_per_second: 1_000_000_000 };
    const SLOW: KvmProbe = KvmProbe::Usable { api_version: 12, instructions_per_second: 450_000 };

    fn no_kvm() -> KvmProbe {
        KvmProbe::Unavailable { reason: "cannot open /dev/kvm: no such device".to_owned() }
    }

    fn with_qemu(kvm: KvmProbe) -> KnownFacts {
        KnownFacts { kvm, qemu: Ok("/usr/bin/qemu".into()) }
    }

    fn without_qemu(kvm: KvmProbe) -> KnownFacts {
        KnownFacts { kvm, qemu: Err("cannot find QEMU; install it".to_owned()) }
    }

    fn qemu(accelerator: Accelerator) -> Driver {
        Driver::Qemu(Qemu::new("/usr/bin/qemu".into(), accelerator))
    }

    #[test]
    fn auto_takes_builtin_on_fast_kvm() {
        let selection = select(Choice::Auto, EmulationPolicy::Deny, &without_qemu(FAST)).unwrap();
        assert_eq!(selection.driver, Driver::Builtin);
        assert!(!selection.is_emulated());
    }

    #[test]
    fn auto_emulates_on_slow_kvm_and_says_why() {
        let selection = select(Choice::Auto, EmulationPolicy::Warn, &with_qemu(SLOW)).unwrap();
        assert_eq!(selection.driver, qemu(Accelerator::Tcg));
        assert!(selection.is_emulated());
        assert!(selection.reason.contains("at 0.45 million instructions a second"), "{}", selection.reason);
    }

    #[test]
    fn auto_emulates_where_a_capability_is_missing() {
        let facts = with_qemu(KvmProbe::Missing { capability: "KVM_CAP_IRQFD" });
        let selection = select(Choice::Auto, EmulationPolicy::Allow, &facts).unwrap();
        assert_eq!(selection.driver, qemu(Accelerator::Tcg));
    }

    #[test]
    fn auto_with_neither_kvm_nor_qemu_tells_both_causes() {
        let error = select(Choice::Auto, EmulationPolicy::Warn, &without_qemu(no_kvm())).unwrap_err();
        let text = "no hypervisor can run here: cannot open /dev/kvm: no such device; \
            and without KVM: cannot find QEMU; install it";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn emulation_is_refused_where_it_is_denied() {
        for choice in [Choice::Auto, Choice::Qemu] {
            let error = select(choice, EmulationPolicy::Deny, &with_qemu(SLOW)).unwrap_err();
            assert!(matches!(error, SelectError::EmulationDenied { .. }), "{error}");
        }
    }

    #[test]
    fn qemu_takes_kvm_where_that_is_fast() {
        let selection = select(Choice::Qemu, EmulationPolicy::Deny, &with_qemu(FAST)).unwrap();
        assert_eq!(selection.driver, qemu(Accelerator::Kvm));
        let selection = select(Choice::Qemu, EmulationPolicy::Warn, &with_qemu(no_kvm())).unwrap();
        assert_eq!(selection.driver, qemu(Accelerator::Tcg));
    }

    #[test]
    fn qemu_that_is_missing_is_an_error() {
        let error = select(Choice::Qemu, EmulationPolicy::Warn, &without_qemu(FAST)).unwrap_err();
        assert_eq!(error.to_string(), "cannot use hypervisor qemu: cannot find QEMU; install it");
    }

    #[test]
    fn builtin_is_taken_at_any_speed_but_not_without_kvm() {
        let selection = select(Choice::Builtin, EmulationPolicy::Deny, &without_qemu(SLOW)).unwrap();
        assert_eq!(selection.driver, Driver::Builtin);
        let error = select(Choice::Builtin, EmulationPolicy::Warn, &with_qemu(no_kvm())).unwrap_err();
        assert_eq!(error.to_string(), "cannot use hypervisor builtin: cannot open /dev/kvm: no such device");
    }

    #[test]
    fn builtin_as_configured_does_not_time_the_host() {
        struct Untimed;
        impl HostFacts for Untimed {
            fn kvm(&self) -> KvmProbe {
                panic!("the loop was run")
            }
            fn kvm_obstacle(&self) -> Option<String> {
                None
            }
            fn qemu(&self) -> Result<PathBuf, String> {
                panic!("QEMU was looked for")
            }
        }
        assert!(select(Choice::Builtin, EmulationPolicy::Warn, &Untimed).is_ok());
    }

    #[test]
    fn names_are_those_of_the_configuration() {
        assert_eq!("builtin".parse(), Ok(Choice::Builtin));
        assert_eq!("deny".parse(), Ok(EmulationPolicy::Deny));
        assert_eq!(serde_json::to_string(&Choice::Auto).unwrap(), "\"auto\"");
        let error = "kvm".parse::<Choice>().unwrap_err();
        assert_eq!(error.to_string(), "\"kvm\" is none of auto, builtin, qemu");
    }
}
