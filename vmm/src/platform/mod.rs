//! The few devices of a PC that a guest needs beside virtio: a serial port, and the ports that end the
//! machine.

pub(crate) mod console;
pub(crate) mod reset;
pub(crate) mod serial;
