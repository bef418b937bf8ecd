//! The guest kernel's command line under QEMU. Pure.
//!
//! QEMU itself appends one `virtio_mmio.device=` for each device, so room is left for these.

use std::num::NonZeroU8;

use super::Accelerator;
use crate::config::is_kernel_parameter;

/// `COMMAND_LINE_SIZE` of Linux on x86 less the final zero.
const MAX_LENGTH: usize = 2047;

/// Length of ` virtio_mmio.device=512@0xfeb00000:12`.
const DEVICE_LENGTH: usize = 37;

/// Processor features that the kernel is to do without, by name (Linux, kernel-parameters.txt).
const CLEARED: &str = "clearcpuid=";

/// Not used by the kernel under software emulation. QEMU 7.2 (not 10.0) emulates `cmpxchg16b` with what it remembers of the
/// flags from before the last few instructions. If an interrupt came just before these and the next one comes just after, it
/// saves a number for the flags: string instructions then go backwards, and the kernel panics. Its allocator uses
/// `cmpxchg16b` all the time. Programs still see the feature: distributions for x86-64-v2 demand it.
const WRONG_IN_EMULATION: &str = "cx16";

/// A kernel command line that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandLineError {
    #[error("kernel parameter {word:?} is not one plain ASCII word")]
    Word { word: String },
    #[error("kernel command line has {length} bytes, but at most {most} fit")]
    TooLong { length: usize, most: usize },
}

/// What the command line depends on.
#[derive(Debug)]
pub(crate) struct Boot<'a> {
    pub(crate) accelerator: Accelerator,
    pub(crate) cpus: NonZeroU8,
    /// Frequency of the host's TSC; only software emulation needs it.
    pub(crate) tsc_khz: u64,
    /// Kernel messages down to debug level go to the console.
    pub(crate) verbose: bool,
    /// The caller's own, one word each.
    pub(crate) parameters: &'a [String],
    /// How many devices QEMU will append.
    pub(crate) devices: usize,
}

pub(crate) fn kernel_command_line(boot: &Boot<'_>) -> Result<String, CommandLineError> {
    // reboot=k: by the keyboard controller, so that a reset is no triple fault.
    let mut line = String::from("console=ttyS0 panic=-1 reboot=k");
    line.push_str(if boot.verbose { " loglevel=8" } else { " loglevel=1" });
    if boot.accelerator == Accelerator::Tcg {
        // The guest's TSC is the host's, and no timer is exact enough to measure it or each other by.
        line.push_str(" tsc=reliable no_timer_check tsc_early_khz=");
        line.push_str(&boot.tsc_khz.to_string());
        // Calibrating the APIC timer takes 0.1 s. A lone CPU can do with the PIT, more need one timer each.
        if boot.cpus.get() == 1 {
            line.push_str(" noapictimer");
        }
        line.push(' ');
        line.push_str(CLEARED);
        line.push_str(WRONG_IN_EMULATION);
    }
    for word in boot.parameters {
        if !is_kernel_parameter(word) {
            return Err(CommandLineError::Word { word: word.clone() });
        }
        line.push(' ');
        line.push_str(word);
        // Of several the kernel takes the last.
        if boot.accelerator == Accelerator::Tcg && word.starts_with(CLEARED) {
            line.push(',');
            line.push_str(WRONG_IN_EMULATION);
        }
    }
    let most = MAX_LENGTH - DEVICE_LENGTH * boot.devices.min(super::args::MAX_DEVICES);
    if line.len() > most {
        return Err(CommandLineError::TooLong { length: line.len(), most });
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(parameters: &[String]) -> Boot<'_> {
        Boot {
            accelerator: Accelerator::Tcg,
            cpus: NonZeroU8::MIN,
            tsc_khz: 2_500_000,
            verbose: false,
            parameters,
            devices: 3,
        }
    }

    fn with(parameters: &[&str]) -> Result<String, CommandLineError> {
        let words: Vec<String> = parameters.iter().map(ToString::to_string).collect();
        kernel_command_line(&boot(&words))
    }

    #[test]
    fn emulation_gets_the_time_stamp_frequency_and_kvm_does_not() {
        let emulated = with(&["a=1", "b"]).unwrap();
        assert!(emulated.contains(" loglevel=1 tsc=reliable "), "{emulated}");
        assert!(emulated.ends_with(" tsc_early_khz=2500000 noapictimer clearcpuid=cx16 a=1 b"), "{emulated}");
        let native = Boot { accelerator: Accelerator::Kvm, verbose: true, ..boot(&[]) };
        assert_eq!(kernel_command_line(&native).unwrap(), "console=ttyS0 panic=-1 reboot=k loglevel=8");
    }

    #[test]
    fn what_is_emulated_wrongly_is_not_used_whatever_else_is_cleared() {
        let line = with(&["clearcpuid=smap", "a"]).unwrap();
        assert!(line.ends_with(" clearcpuid=smap,cx16 a"), "{line}");
    }

    #[test]
    fn each_of_several_cpus_keeps_its_timer() {
        let two = Boot { cpus: NonZeroU8::new(2).unwrap(), ..boot(&[]) };
        assert!(!kernel_command_line(&two).unwrap().contains("noapictimer"));
    }

    #[test]
    fn what_is_not_one_word_is_refused() {
        for word in ["", "a b", "a\nb", "a=\"b", "ä", "--", "a\0"] {
            let refused = CommandLineError::Word { word: word.to_owned() };
            assert_eq!(with(&[word]), Err(refused));
        }
    }

    #[test]
    fn line_that_leaves_no_room_for_devices_is_refused() {
        let rest = MAX_LENGTH - 3 * DEVICE_LENGTH - with(&[]).unwrap().len() - 1;
        assert!(with(&[&"x".repeat(rest)]).is_ok());
        let most = MAX_LENGTH - 3 * DEVICE_LENGTH;
        let refused = CommandLineError::TooLong { length: most + 1, most };
        assert_eq!(with(&[&"x".repeat(rest + 1)]), Err(refused));
    }
}
