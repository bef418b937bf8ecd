//! Capabilities (capabilities(7)): what of root's rights a process has.
//!
//! The order is the kernel's: the bounding set is cut while CAP_SETPCAP is there, the permitted set has to survive
//! the change of user (`PR_SET_KEEPCAPS`), and the ambient set needs the others to be set.

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities,
};

/// Capabilities that a kernel can have.
const MOST: u32 = 64;

/// The five sets of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// What it can ever get.
    pub bounding: CapabilitySet,
    /// What counts.
    pub effective: CapabilitySet,
    /// What programs with inheritable file capabilities get.
    pub inheritable: CapabilitySet,
    /// What it may make effective.
    pub permitted: CapabilitySet,
    /// What programs without file capabilities get.
    pub ambient: CapabilitySet,
}

/// The set of these names, e.g. `CAP_KILL`; the first that is none is the error.
///
/// # Errors
///
/// The unknown name.
pub fn parse(names: &[String]) -> Result<CapabilitySet, String> {
    names.iter().try_fold(CapabilitySet::empty(), |set, name| {
        let known = name.strip_prefix("CAP_").and_then(CapabilitySet::from_name);
        known.map(|one| set | one).ok_or_else(|| name.clone())
    })
}

impl Capabilities {
    /// What is done before the change of user.
    ///
    /// # Errors
    ///
    /// Those of prctl(2): the caller lacks CAP_SETPCAP.
    pub fn prepare(&self) -> io::Result<()> {
        for one in (0..MOST).map(|number| CapabilitySet::from_bits_retain(1 << number)) {
            match capability_is_in_bounding_set(one) {
                Ok(true) if !self.bounding.contains(one) => remove_capability_from_bounding_set(one)?,
                // The kernel has no more.
                Err(Errno::INVAL) => break,
                other => drop(other?),
            }
        }
        Ok(set_keep_capabilities(true)?)
    }

    /// What is done after the change of user. What the kernel would not grant (capabilities(7), "Programmatically
    /// adjusting capability sets") is left out, as the specification asks.
    ///
    /// # Errors
    ///
    /// Those of capset(2) and prctl(2).
    pub fn assume(&self) -> io::Result<()> {
        set_keep_capabilities(false)?;
        let held = rustix::thread::capabilities(None)?.permitted;
        let permitted = self.permitted & held;
        let sets = CapabilitySets {
            permitted,
            effective: self.effective & permitted,
            inheritable: self.inheritable & self.bounding & held,
        };
        set_capabilities(None, sets)?;
        match clear_ambient_capability_set() {
            // Before Linux 4.3.
            Err(Errno::INVAL) => return Ok(()),
            other => other?,
        }
        for one in (self.ambient & permitted & sets.inheritable).iter() {
            configure_capability_in_ambient_set(one, true)?;
        }
        Ok(())
    }
}
