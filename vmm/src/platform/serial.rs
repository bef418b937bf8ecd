//! The first serial port: a 16550A by `vm-superio`, output only.

use std::io;
use std::sync::{Mutex, PoisonError};

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};
use vmm_sys_util::eventfd::EventFd;

use super::console::Console;
use crate::bus::{BusDevice, Flow};

/// The port's interrupt line.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The serial port on the bus.
pub(crate) struct SerialPort {
    uart: Mutex<Serial<Line, NoEvents, Console>>,
}

impl SerialPort {
    /// A port that writes to `console` and raises its interrupt by `interrupt`.
    pub(crate) fn new(console: Console, interrupt: EventFd) -> Self {
        Self { uart: Mutex::new(Serial::new(Line(interrupt), console)) }
    }

    /// Hands over output that has not ended in a new line yet.
    pub(crate) fn flush(&self) {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        uart.writer_mut().deliver();
    }
}

impl BusDevice for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        match (u8::try_from(offset), data) {
            (Ok(offset), [byte]) => *byte = uart.read(offset),
            (_, data) => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Flow {
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Ok(offset), [byte]) = (u8::try_from(offset), data) {
            // In loopback mode the guest fills the input buffer and it can be full; the byte is lost, as on
            // the wire. The console itself never fails.
            if let Err(error) = uart.write(offset, *byte) {
                log::debug!("serial port: {error}");
            }
        }
        Flow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn bytes_written_to_the_data_register_come_out() {
        let (mut reader, writer) = io::pipe().unwrap();
        let port = SerialPort::new(Console::new(writer.into()), EventFd::new(0).unwrap());
        for byte in b"ok\n" {
            assert_eq!(port.write(0, std::slice::from_ref(byte)), Flow::Continue(()));
        }
        let mut line_status = [0];
        port.read(5, &mut line_status);
        assert_eq!(line_status[0] & 0x60, 0x60, "ready for more");
        drop(port);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ok\n");
    }

    #[test]
    fn accesses_wider_than_a_register_do_nothing() {
        let (_reader, writer) = io::pipe().unwrap();
        let port = SerialPort::new(Console::new(writer.into()), EventFd::new(0).unwrap());
        let mut wide = [0; 4];
        port.read(4, &mut wide);
        assert_eq!(wide, [0xff; 4]);
        assert_eq!(port.write(0, &[1, 2]), Flow::Continue(()));
    }
}
