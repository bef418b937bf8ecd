//! Which words of the guest kernel's command line a bundle may set. Pure.
//!
//! The guest is not trusted, so no word endangers the host: it can only make the bundle's own guest slower, weaker or
//! dead, as a workload that is root in it can too. Refused is what would take away from this runtime what it promises
//! of a bundle: that the agent is PID 1 and does what the bundle says (rights, filters, limits), that an end of the
//! guest is noticed and explained, and that the machine is the one that was made. The rest is the bundle's business,
//! mitigations and hardening of its own kernel included: they stand between its own processes.
//!
//! A word that the kernel does not know becomes an argument of the agent or a variable of its environment. Of these it
//! reads those that begin with `runv` only.

use vmm::config::is_kernel_parameter;

/// PID 1, and the root that it is found in. `bootconfig` would have the kernel take more words from the initrd.
const AGENT: &[&str] = &[
    "bootconfig",
    "init",
    "initrd",
    "initrdmem",
    "noinitrd",
    "ramdisk_start",
    "rdinit",
    "ro",
    "root",
    "rootdelay",
    "rootflags",
    "rootfstype",
    "rootwait",
    "rw",
];

/// The end of the guest: it resets at once, and the console says why.
const END: &[&str] = &[
    "console",
    "earlycon",
    "earlyprintk",
    "keep_bootcon",
    "no_console_suspend",
    "oops",
    "panic",
    "panic_on_oops",
    "reboot",
];

/// The machine: memory, clock and interrupts that the driver chose.
const MACHINE: &[&str] =
    &["mem", "memmap", "no_timer_check", "noapictimer", "swiotlb", "tsc", "tsc_early_khz"];

/// All that begin so: the agent's own, and devices.
const PREFIXES: &[&str] = &["runv", "virtio_mmio."];

/// A word that a bundle may not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WordError {
    /// It would be read as something else.
    #[error("{0:?} is not one word of printable ASCII without quotes")]
    Malformed(String),
    /// It is not the bundle's.
    #[error("{0} is the runtime's own, a bundle cannot set it; remove it")]
    Reserved(String),
}

/// Checks all of them.
pub(crate) fn check_words(words: &[String]) -> Result<(), WordError> {
    words.iter().try_for_each(|word| check(word))
}

fn check(word: &str) -> Result<(), WordError> {
    if !is_kernel_parameter(word) {
        return Err(WordError::Malformed(word.to_owned()));
    }
    let name = word.split('=').next().unwrap_or_default();
    // To the kernel, - and _ are the same in a name (kernel/params.c).
    let plain = name.replace('-', "_");
    let reserved = [AGENT, END, MACHINE].iter().any(|list| list.contains(&plain.as_str()))
        || PREFIXES.iter().any(|prefix| plain.starts_with(prefix));
    if reserved { Err(WordError::Reserved(name.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_bundles_own_kernel_pass() {
        for word in
            ["mitigations=off", "cgroup_disable=memory", "nosmp", "loglevel=8", "ipv6.disable=1", "rootx=1"]
        {
            assert_eq!(check(word), Ok(()), "{word}");
        }
    }

    #[test]
    fn the_runtimes_words_are_refused_however_they_are_spelt() {
        for (word, name) in [
            ("rdinit=/bin/sh", "rdinit"),
            ("init=/x", "init"),
            ("rw", "rw"),
            ("panic=0", "panic"),
            ("tsc-early-khz=1", "tsc-early-khz"),
            ("virtio_mmio.device=4K@0xd0000000:5", "virtio_mmio.device"),
            ("virtio-mmio.device=4K@0xd0000000:5", "virtio-mmio.device"),
            ("runv_debug", "runv_debug"),
            ("runv-debug=1", "runv-debug"),
            ("no-timer_check", "no-timer_check"),
        ] {
            assert_eq!(check(word), Err(WordError::Reserved(name.into())), "{word}");
        }
        for word in ["", "--", "a b", "\"init=/x\"", "a=\"b", "ä"] {
            assert_eq!(check(word), Err(WordError::Malformed(word.into())), "{word}");
        }
    }
}
