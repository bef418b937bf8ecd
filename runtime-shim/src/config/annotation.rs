//! Annotations of a bundle that choose something of its machine.

use std::fmt;

use serde::Deserialize;

/// Annotations of this runtime begin with it.
pub(crate) const PREFIX: &str = "io.runv.";

/// One of them, named as the key of the configuration that it overrides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Annotation {
    /// `io.runv.memory`
    Memory,
    /// `io.runv.cpus`
    Cpus,
    /// `io.runv.rootfs_upper`
    RootfsUpper,
    /// `io.runv.hypervisor`
    Hypervisor,
    /// `io.runv.kernel`
    Kernel,
    /// `io.runv.initrd`
    Initrd,
    /// `io.runv.kernel_parameters`
    KernelParameters,
    /// `io.runv.network_receive_limit`
    NetworkReceiveLimit,
    /// `io.runv.network_send_limit`
    NetworkSendLimit,
}

impl Annotation {
    /// All that there are.
    pub(crate) const ALL: [Self; 9] = [
        Self::Memory,
        Self::Cpus,
        Self::RootfsUpper,
        Self::Hypervisor,
        Self::Kernel,
        Self::Initrd,
        Self::KernelParameters,
        Self::NetworkReceiveLimit,
        Self::NetworkSendLimit,
    ];

    /// Those that an administrator who says nothing allows: they cost no more than limits do, which a bundle may set
    /// anyway. The others choose what runs, and on what, or could undo what the administrator has limited.
    pub(crate) fn allowed_by_default() -> Vec<Self> {
        vec![Self::Memory, Self::Cpus, Self::RootfsUpper]
    }

    /// By what follows the prefix.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|annotation| annotation.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpus => "cpus",
            Self::RootfsUpper => "rootfs_upper",
            Self::Hypervisor => "hypervisor",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::KernelParameters => "kernel_parameters",
            Self::NetworkReceiveLimit => "network_receive_limit",
            Self::NetworkSendLimit => "network_send_limit",
        }
    }
}

impl fmt::Display for Annotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
