//! Connects this process's standard streams with the workload's.
//!
//! Threads: one for each stream, each copying with blocking calls from or to one of the caller's descriptors.
//! The thread for stdin may block for ever in a read and is left behind when the process ends; those for the
//! output end by themselves when the agent has closed the streams, and [`Outputs`] tells when.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::fs::FileType;

use super::copy::{CopyEnd, copy};
use super::descriptors::{Connected, Gates, Ways};

/// The threads need little more than what a call into `std` does.
const STACK: usize = 64 << 10;

/// Connections to the agent, one for each stream.
#[derive(Debug)]
pub(crate) enum Streams {
    /// No terminal: kept apart. Those that are `/dev/null` here are `/dev/null` there, without a connection.
    Separate {
        /// To the workload.
        stdin: Option<UnixStream>,
        /// From the workload.
        stdout: Option<UnixStream>,
        /// From the workload.
        stderr: Option<UnixStream>,
    },
    /// One pseudo terminal, both ways.
    Terminal(UnixStream),
}

/// Which of this process's stdin, stdout and stderr need a connection, because they are not `/dev/null`.
pub(crate) fn connected() -> [bool; 3] {
    [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()].map(|fd| !is_null(fd))
}

/// `/dev/null` is character device 1:3 (Linux, `Documentation/admin-guide/devices.txt`).
fn is_null(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|status| {
        FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
            && status.st_rdev == rustix::fs::makedev(1, 3)
    })
}

/// The output that is still on its way.
#[derive(Debug)]
pub(crate) struct Outputs {
    done: PipeReader,
    /// Of descriptors from 3 on, if there are some.
    ways: Option<Ways>,
}

impl Outputs {
    /// Polls readable once all output has been handed on, or cannot be.
    pub(crate) fn done(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }

    /// What besides that is on its way to sockets.
    pub(crate) fn ways(&self) -> Option<&Ways> {
        self.ways.as_ref()
    }
}

impl Streams {
    /// Starts copying the workload's output, that of `descriptors` too. Input waits for [`Input::start`].
    pub(crate) fn start(self, descriptors: Vec<Connected>) -> io::Result<(Input, Outputs)> {
        let (done, running) = io::pipe()?;
        let (gates, ways) = super::descriptors::start(descriptors, &running)?;
        let (stdout, stderr) = (rustix::stdio::stdout(), rustix::stdio::stderr());
        let input = match self {
            Self::Separate { stdin, stdout: from_stdout, stderr: from_stderr } => {
                for (name, from, to) in [("stdout", from_stdout, stdout), ("stderr", from_stderr, stderr)] {
                    if let Some(from) = from {
                        spawn_output(name, from, to, running.try_clone()?)?;
                    }
                }
                stdin
            }
            Self::Terminal(terminal) => {
                spawn_output("stdout", terminal.try_clone()?, stdout, running)?;
                Some(terminal)
            }
        };
        Ok((Input { to_workload: input, gates }, Outputs { done, ways }))
    }
}

/// The workload's input, before anything has been read from this process's.
#[derive(Debug)]
pub(crate) struct Input {
    to_workload: Option<UnixStream>,
    /// Of the threads that read other descriptors.
    gates: Gates,
}

impl Input {
    /// Starts copying this process's stdin, and what else there is to read.
    pub(crate) fn start(self) -> io::Result<()> {
        self.gates.open()?;
        let Some(to_workload) = self.to_workload else {
            return Ok(());
        };
        let stdin = File::from(rustix::stdio::stdin().try_clone_to_owned()?);
        thread::Builder::new().name("stdin".into()).stack_size(STACK).spawn(move || {
            // A workload that reads no more is no error.
            if let CopyEnd::Source(error) = copy(&stdin, &to_workload) {
                tracing::warn!(%error, "cannot read stdin");
            }
            // End of file for the workload; fails only if the stream has ended already.
            let _ = to_workload.shutdown(Shutdown::Write);
        })?;
        Ok(())
    }
}

fn spawn_output(
    name: &'static str,
    from: UnixStream,
    to: BorrowedFd<'_>,
    running: PipeWriter,
) -> io::Result<()> {
    let to = File::from(to.try_clone_to_owned()?);
    thread::Builder::new().name(name.into()).stack_size(STACK).spawn(move || {
        match copy(&from, to) {
            CopyEnd::EndOfFile => {}
            // The sandbox is ending with an error of its own then.
            CopyEnd::Source(error) => tracing::debug!(%error, name, "the stream broke"),
            CopyEnd::Sink(error) => {
                // The workload's next write fails or raises SIGPIPE, as it would with this descriptor itself.
                let _ = from.shutdown(Shutdown::Both);
                if error.kind() != io::ErrorKind::BrokenPipe {
                    crate::report::warning(&format!("cannot write the workload's {name}: {error}"));
                }
            }
        }
        drop(running);
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_null_device_is_null() {
        let null = |path| is_null(File::open(path).unwrap().as_fd());
        assert_eq!(["/dev/null", "/dev/zero", "/dev", "/etc/passwd"].map(null), [true, false, false, false]);
    }
}
