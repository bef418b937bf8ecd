//! The two ports by which a guest ends its machine.

use crate::bus::{BusDevice, Flow};
use vmm::hypervisor::VmExit;

/// Command of the i8042 that pulses the processor's reset line.
const PULSE_RESET: u8 = 0xfe;

/// The command and status port of an i8042 keyboard controller, of which only the reset is there.
pub(crate) struct I8042;

impl BusDevice for I8042 {
    /// The status register: both buffers are empty, so a kernel that resets need not wait.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) -> Flow {
        if data.first() == Some(&PULSE_RESET) { Flow::Break(VmExit::Reset) } else { Flow::Continue(()) }
    }
}

/// A port to which any write is a clean shutdown.
pub(crate) struct DebugExit;

impl BusDevice for DebugExit {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> Flow {
        Flow::Break(VmExit::Shutdown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        for command in 0..=u8::MAX {
            let expected = if command == 0xfe { Flow::Break(VmExit::Reset) } else { Flow::Continue(()) };
            assert_eq!(I8042.write(0, &[command]), expected);
        }
    }

    #[test]
    fn any_write_to_the_debug_exit_port_shuts_down() {
        assert_eq!(DebugExit.write(0, &[0]), Flow::Break(VmExit::Shutdown));
        assert_eq!(DebugExit.write(0, &[0x31]), Flow::Break(VmExit::Shutdown));
    }
}
