//! The kernel command line.

use std::fmt::Write;

use vmm::config::is_kernel_parameter;

use crate::arch::x86_64::layout::{COMMAND_LINE_SIZE, VIRTIO_SIZE, VirtioSlot};

/// What is always there:
/// - `panic=-1`: reset at once after a panic: the machine's end is the message.
/// - `tsc=reliable`: no watchdog compares the TSC with a worse clock.
///
/// Each word costs some 100,000 instructions, as it is compared with every parameter of the kernel, so what the
/// built kernel does unasked is not here.
const ALWAYS: &str = "panic=-1 tsc=reliable";

/// The serial port is where a dying kernel says why: it needs no driver and no device process.
const SERIAL: &str = "console=ttyS0";

/// A virtio-console costs one exit a line.
const VIRTIO: &str = "console=hvc0";

/// Only emergencies go to the console: each character costs an exit.
const QUIET: &str = "loglevel=1";

/// All messages go to the console, from the first on: by the serial port until the console's own driver is up.
const VERBOSE: &str = "ignore_loglevel earlyprintk=ttyS0";

/// The command line cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandLineError {
    #[error("kernel parameter {0:?} is not one printable word")]
    Word(String),
    #[error("the kernel command line is longer than {} bytes", COMMAND_LINE_SIZE - 1)]
    TooLong,
}

/// What the command line depends on.
#[derive(Debug, Default)]
pub(crate) struct Boot<'a> {
    /// Kernel messages down to debug level go to the console.
    pub(crate) verbose: bool,
    /// There is a virtio-console, to be used in place of the serial port.
    pub(crate) virtio_console: bool,
    /// Where the virtio devices are.
    pub(crate) slots: &'a [VirtioSlot],
    /// The caller's own, one word each.
    pub(crate) parameters: &'a [String],
}

/// Builds the command line, without its terminating zero.
pub(crate) fn command_line(boot: &Boot<'_>) -> Result<String, CommandLineError> {
    let console = if boot.virtio_console { VIRTIO } else { SERIAL };
    let mut line = format!("{ALWAYS} {console} {}", if boot.verbose { VERBOSE } else { QUIET });
    for slot in boot.slots {
        // Writing to a string cannot fail.
        let _ = write!(line, " virtio_mmio.device={VIRTIO_SIZE:#x}@{:#x}:{}", slot.base, slot.line);
    }
    for parameter in boot.parameters {
        if !is_kernel_parameter(parameter) {
            return Err(CommandLineError::Word(parameter.clone()));
        }
        line.push(' ');
        line.push_str(parameter);
    }
    if line.len() < COMMAND_LINE_SIZE { Ok(line) } else { Err(CommandLineError::TooLong) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_parameters_follow_the_fixed_words() {
        let devices = [VirtioSlot { base: 0xd000_0000, line: 5 }, VirtioSlot { base: 0xd000_1000, line: 6 }];
        let parameters = ["a=b".to_owned(), "c".to_owned()];
        let line =
            command_line(&Boot { slots: &devices, parameters: &parameters, ..Boot::default() }).unwrap();
        assert_eq!(
            line.strip_prefix(ALWAYS).unwrap(),
            " console=ttyS0 loglevel=1 virtio_mmio.device=0x1000@0xd0000000:5 \
             virtio_mmio.device=0x1000@0xd0001000:6 a=b c"
        );
        let verbose = Boot { verbose: true, virtio_console: true, ..Boot::default() };
        assert_eq!(command_line(&verbose).unwrap(), format!("{ALWAYS} console=hvc0 {VERBOSE}"));
    }

    fn with(parameters: &[String]) -> Result<String, CommandLineError> {
        command_line(&Boot { parameters, ..Boot::default() })
    }

    #[test]
    fn parameters_that_are_not_one_word_are_refused() {
        for bad in ["", "a b", "a\nb", "a\0", "tab\t", "ä", "a=\"b", "--"] {
            let result = with(&[bad.to_owned()]);
            assert_eq!(result, Err(CommandLineError::Word(bad.to_owned())));
        }
    }

    #[test]
    fn a_line_longer_than_the_kernel_reads_is_refused() {
        let fixed = with(&[]).unwrap().len();
        let fits = "x".repeat(COMMAND_LINE_SIZE - 1 - fixed - 1);
        let too_long = [fits.clone() + "x"];
        assert_eq!(with(&[fits]).unwrap().len(), COMMAND_LINE_SIZE - 1);
        assert_eq!(with(&too_long), Err(CommandLineError::TooLong));
    }
}
