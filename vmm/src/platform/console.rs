//! Where the guest's serial output goes. A slow reader must never stop a vCPU, so what it does not take is
//! dropped, and the reader is told how much once it takes something again.

use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};

/// Output is collected up to a line's end or this many bytes, as each write costs two system calls.
const BUFFER_SIZE: usize = 256;

/// A descriptor that is written to only when it takes bytes at once.
pub(crate) struct Console {
    fd: OwnedFd,
    buffer: Vec<u8>,
    /// Bytes lost since the reader last took some.
    dropped: u64,
}

impl Console {
    /// Writes to `fd`, which may be a pipe, a socket, a terminal or a file.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, buffer: Vec::with_capacity(BUFFER_SIZE), dropped: 0 }
    }

    /// Hands over what is collected.
    pub(super) fn deliver(&mut self) {
        if self.dropped > 0 {
            let note = format!("\n[{} bytes of console output dropped]\n", self.dropped);
            if self.write_at_once(note.as_bytes()) == note.len() {
                self.dropped = 0;
            }
        }
        let bytes = std::mem::take(&mut self.buffer);
        let written = self.write_at_once(&bytes);
        self.dropped += (bytes.len() - written) as u64;
        self.buffer = bytes;
        self.buffer.clear();
    }

    /// Writes as much as the descriptor takes without waiting. A descriptor that polls writable takes up to
    /// `PIPE_BUF` bytes, which is more than is ever written at once.
    fn write_at_once(&self, bytes: &[u8]) -> usize {
        let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
        let no_time = Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut fds, Some(&no_time)) {
            Ok(1) if fds.iter().all(|fd| fd.revents().contains(PollFlags::OUT)) => {}
            _ => return 0,
        }
        rustix::io::write(&self.fd, bytes).unwrap_or(0)
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_SIZE || bytes.contains(&b'\n') {
            self.deliver();
        }
        Ok(bytes.len())
    }

    /// Does nothing: the serial port flushes after each byte.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if !self.buffer.is_empty() {
            self.deliver();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    fn pipe() -> (File, Console) {
        let (reader, writer) = io::pipe().unwrap();
        (OwnedFd::from(reader).into(), Console::new(writer.into()))
    }

    #[test]
    fn whole_lines_come_at_once_and_the_rest_at_the_end() {
        let (mut reader, mut console) = pipe();
        console.write_all(b"one\ntwo").unwrap();
        let mut first = [0; 16];
        let length = reader.read(&mut first).unwrap();
        assert_eq!(&first[..length], b"one\ntwo");
        console.write_all(b"three").unwrap();
        drop(console);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "three");
    }

    #[test]
    fn a_reader_that_does_not_read_loses_bytes_and_is_told() {
        let (mut reader, mut console) = pipe();
        let line = [b'x'; 127].iter().chain(b"\n").copied().collect::<Vec<_>>();
        for _ in 0..1024 {
            console.write_all(&line).unwrap();
        }
        let dropped = console.dropped;
        assert!(dropped > 0);
        let mut taken = vec![0; 1 << 16];
        let length = reader.read(&mut taken).unwrap();
        assert_eq!(length as u64 + dropped, 1024 * 128);
        console.write_all(b"again\n").unwrap();
        drop(console);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, format!("\n[{dropped} bytes of console output dropped]\nagain\n"));
    }
}
