//! Annotations of a bundle that choose something of its machine.

use std::fmt;

use serde::Deserialize;

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
}

impl Annotation {
    /// Those that an administrator who says nothing allows: they cost no more than limits do, which a bundle may set
    /// anyway.
    pub(crate) fn all() -> Vec<Self> {
        vec![Self::Memory, Self::Cpus, Self::RootfsUpper]
    }

    /// By what follows `io.runv.`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|annotation| annotation.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpus => "cpus",
            Self::RootfsUpper => "rootfs_upper",
        }
    }
}

impl fmt::Display for Annotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
