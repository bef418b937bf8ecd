//! The guest's serial console: its last lines explain a death, and `--debug` shows all of it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_setfl};

/// How much of the console is kept: a kernel panic with its backtrace is about 5 KiB.
const KEPT: usize = 16 << 10;

/// The reading end of the console.
#[derive(Debug)]
pub(crate) struct ConsoleTail {
    pipe: io::PipeReader,
    kept: VecDeque<u8>,
    show: bool,
    open: bool,
}

impl ConsoleTail {
    /// A console and the end into which the machine writes. `show` copies all of it to stderr.
    pub(crate) fn new(show: bool) -> io::Result<(Self, OwnedFd)> {
        let (pipe, writer) = io::pipe()?;
        fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
        Ok((Self { pipe, kept: VecDeque::new(), show, open: true }, writer.into()))
    }

    /// Whether the user sees all of it anyway.
    pub(crate) fn is_shown(&self) -> bool {
        self.show
    }

    /// What to poll, unless the console has ended.
    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.open.then(|| self.pipe.as_fd())
    }

    /// Takes what is there, without waiting. Not for longer than it takes to read a pipe's worth: a guest that
    /// never stops talking must not keep its shim from hearing signals.
    pub(crate) fn collect(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..16 {
            match self.pipe.read(&mut buffer) {
                Ok(0) => {
                    self.open = false;
                    return;
                }
                Ok(length) => self.keep(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.open = error.kind() == io::ErrorKind::WouldBlock;
                    return;
                }
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.show {
            // Nobody to tell when stderr fails.
            let _ = io::stderr().write_all(bytes);
        }
        self.kept.extend(bytes);
        let excess = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..excess);
    }

    /// What the guest said last, made fit for a terminal.
    pub(crate) fn text(&mut self) -> String {
        self.collect();
        printable(self.kept.make_contiguous())
    }
}

/// The guest is not trusted: its text must not steer the user's terminal.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_keeps_the_end_and_drops_control_characters() {
        let (mut console, writer) = ConsoleTail::new(false).unwrap();
        let mut writer = std::fs::File::from(writer);
        for _ in 0..3 {
            writer.write_all(&vec![b'x'; KEPT]).unwrap();
            console.collect();
        }
        writer.write_all(b"\n\x1b[31mKernel panic\r\n").unwrap();
        let text = console.text();
        assert!(text.ends_with("x\n[31mKernel panic\n"), "{}", &text[text.len() - 40..]);
        assert_eq!(console.kept.len(), KEPT);
    }

    #[test]
    fn end_of_file_stops_polling() {
        let (mut console, writer) = ConsoleTail::new(false).unwrap();
        assert!(console.poll_fd().is_some());
        drop(writer);
        console.collect();
        assert!(console.poll_fd().is_none());
    }
}
