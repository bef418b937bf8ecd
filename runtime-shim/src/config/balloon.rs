//! Whether the guest gives the memory that it frees back to the host.

use serde::Deserialize;

/// Least memory of a machine that has a balloon without being told, in MiB. It makes each boot a little longer, and
/// what a small machine holds back is little.
const LARGE_MIB: u32 = 512;

/// `balloon`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Balloon {
    /// Machines of 512 MiB and more do.
    #[default]
    Auto,
    /// Every machine does.
    On,
    /// None does.
    Off,
}

impl Balloon {
    /// Whether a machine of so much memory has one.
    pub(crate) fn is_wanted(self, memory_mib: u32) -> bool {
        match self {
            Self::Auto => memory_mib >= LARGE_MIB,
            Self::On => true,
            Self::Off => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_machine_has_one_unless_told_otherwise() {
        for (balloon, small, large) in
            [(Balloon::Auto, false, true), (Balloon::On, true, true), (Balloon::Off, false, false)]
        {
            assert_eq!((balloon.is_wanted(511), balloon.is_wanted(512)), (small, large), "{balloon:?}");
        }
    }
}
