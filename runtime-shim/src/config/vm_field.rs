//! Fields of the specification's `vm` section that a bundle may be allowed to set.

use std::fmt;

use serde::Deserialize;

/// One of them, named as the key of the configuration that it overrides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VmField {
    /// `vm.hypervisor.path`
    Hypervisor,
    /// `vm.kernel.path`
    Kernel,
    /// `vm.kernel.initrd`
    Initrd,
    /// `vm.kernel.parameters`
    KernelParameters,
}

impl VmField {
    /// As the configuration spells it.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Hypervisor => "hypervisor",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::KernelParameters => "kernel_parameters",
        }
    }
}

/// As the specification spells it.
impl fmt::Display for VmField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hypervisor => "vm.hypervisor.path",
            Self::Kernel => "vm.kernel.path",
            Self::Initrd => "vm.kernel.initrd",
            Self::KernelParameters => "vm.kernel.parameters",
        })
    }
}
