//! Copies a stream until it ends.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags};

use super::poll::poll_until;

/// As large as a pipe's buffer, so that a full pipe takes one read.
const BUFFER: usize = 64 << 10;

/// Which side ended a copy.
#[derive(Debug)]
pub(crate) enum CopyEnd {
    /// The source, as it should.
    EndOfFile,
    /// The source broke.
    Source(io::Error),
    /// The sink broke, or nobody reads it any more.
    Sink(io::Error),
}

/// Copies all of `source` to `sink`. Both may be non-blocking: a caller's file descriptors are what they are.
pub(crate) fn copy(source: impl Read + AsFd, sink: impl Write + AsFd) -> CopyEnd {
    copy_if(source, sink, |_source, _sink| Ok(()))
}

/// The same, but that nobody takes any more of it is noticed before there is something to be taken.
pub(crate) fn copy_while_taken(source: impl Read + AsFd, sink: impl Write + AsFd) -> CopyEnd {
    copy_if(source, sink, |source, sink| {
        let mut fds = [
            PollFd::from_borrowed_fd(source, PollFlags::IN),
            PollFd::from_borrowed_fd(sink, PollFlags::empty()),
        ];
        poll_until(&mut fds, None)?;
        let [readable, broken] = fds.map(|fd| !fd.revents().is_empty());
        if broken && !readable { Err(ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    })
}

/// Asks before each read whether the sink may still be written to.
fn copy_if(
    mut source: impl Read + AsFd,
    mut sink: impl Write + AsFd,
    may: impl Fn(BorrowedFd<'_>, BorrowedFd<'_>) -> io::Result<()>,
) -> CopyEnd {
    let mut buffer = vec![0; BUFFER];
    loop {
        if let Err(error) = may(source.as_fd(), sink.as_fd()) {
            return CopyEnd::Sink(error);
        }
        let length = match source.read(&mut buffer) {
            Ok(0) => return CopyEnd::EndOfFile,
            Ok(length) => length,
            Err(error) => match wait_again(error, source.as_fd(), PollFlags::IN) {
                Ok(()) => continue,
                Err(error) => return CopyEnd::Source(error),
            },
        };
        if let Err(error) = write_all(&mut sink, &buffer[..length]) {
            return CopyEnd::Sink(error);
        }
    }
}

fn write_all(sink: &mut (impl Write + AsFd), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(length) => bytes = &bytes[length..],
            Err(error) => wait_again(error, sink.as_fd(), PollFlags::OUT)?,
        }
    }
    Ok(())
}

/// Waits if the error only means "not now".
fn wait_again(error: io::Error, fd: BorrowedFd<'_>, interest: PollFlags) -> io::Result<()> {
    match error.kind() {
        ErrorKind::Interrupted => Ok(()),
        ErrorKind::WouldBlock => {
            poll_until(&mut [PollFd::from_borrowed_fd(fd, interest)], None).map(|_ready| ())
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    #[test]
    fn non_blocking_ends_lose_nothing() {
        let (source, mut feed) = UnixStream::pair().unwrap();
        let (mut drain, sink) = UnixStream::pair().unwrap();
        source.set_nonblocking(true).unwrap();
        sink.set_nonblocking(true).unwrap();
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = data.clone();
        let feeder = thread::spawn(move || feed.write_all(&data).unwrap());
        let copier = thread::spawn(move || copy(source, sink));
        let mut received = Vec::new();
        drain.read_to_end(&mut received).unwrap();
        feeder.join().unwrap();
        assert!(matches!(copier.join().unwrap(), CopyEnd::EndOfFile));
        assert!(received == expected);
    }

    #[test]
    fn a_closed_sink_is_told_apart() {
        let (source, mut feed) = UnixStream::pair().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        feed.write_all(b"x").unwrap();
        let CopyEnd::Sink(error) = copy(source, writer) else { unreachable!("the sink is closed") };
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
