//! The workload's terminal: a pty of the container's own devpts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{OFlags, fstat, fstatfs, major, minor};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::rootfs::path::{Descriptors, open_in};

/// statfs(2)'s f_type of devpts.
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// In characters; 0 is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowSize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// Which step failed.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// No devpts in the container.
    #[error("cannot open a terminal on the container's /dev/pts, where a devpts has to be mounted")]
    OpenMaster(#[source] io::Error),
    /// Something else is there.
    #[error("/dev/pts/ptmx of the root file system is not that of a devpts")]
    NotDevpts,
    /// The other end.
    #[error("cannot open the terminal's other end")]
    OpenTerminal(#[source] io::Error),
    /// Nobody is at the terminal any more.
    #[error("the terminal was hung up")]
    HungUp,
    /// Its size.
    #[error("cannot set the terminal's size")]
    Resize(#[source] io::Error),
}

/// Both ends of a pty.
#[derive(Debug)]
pub struct Console {
    /// The agent's end.
    pub master: OwnedFd,
    /// The workload's end.
    pub terminal: OwnedFd,
}

impl Console {
    /// Makes a pty on the devpts that is mounted in `root`.
    ///
    /// # Errors
    ///
    /// [`ConsoleError`].
    pub fn open(
        root: BorrowedFd<'_>,
        descriptors: &Descriptors,
        size: WindowSize,
    ) -> Result<Self, ConsoleError> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let place =
            open_in(root, Path::new("/dev/pts/ptmx"), OFlags::PATH).map_err(ConsoleError::OpenMaster)?;
        if !is_ptmx(&place).map_err(ConsoleError::OpenMaster)? {
            return Err(ConsoleError::NotDevpts);
        }
        let master = descriptors.reopen(place.as_fd(), flags).map_err(ConsoleError::OpenMaster)?;
        unlockpt(&master).map_err(|error| ConsoleError::OpenTerminal(error.into()))?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal =
            ioctl_tiocgptpeer(&master, flags).map_err(|error| ConsoleError::OpenTerminal(error.into()))?;
        if size != WindowSize::default() {
            resize(&master, size)?;
        }
        Ok(Self { master, terminal })
    }
}

/// The agent's end of a process's terminal, for as long as it is connected.
#[derive(Debug)]
pub struct Terminal(Mutex<Option<OwnedFd>>);

impl Terminal {
    /// From a pty's master.
    pub fn new(master: OwnedFd) -> Self {
        Self(Mutex::new(Some(master)))
    }

    /// Sets the size that the terminal reports; its foreground processes get SIGWINCH.
    ///
    /// # Errors
    ///
    /// [`ConsoleError`].
    pub fn resize(&self, size: WindowSize) -> Result<(), ConsoleError> {
        self.master().as_ref().map_or(Err(ConsoleError::HungUp), |master| resize(master, size))
    }

    /// Lets go of the master. The last descriptor of it closed, the session gets SIGHUP.
    pub fn hang_up(&self) {
        drop(self.master().take());
    }

    fn master(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn resize(master: impl AsFd, size: WindowSize) -> Result<(), ConsoleError> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).map_err(|error| ConsoleError::Resize(error.into()))
}

fn is_ptmx(file: &OwnedFd) -> io::Result<bool> {
    let number = fstat(file)?.st_rdev;
    Ok(fstatfs(file)?.f_type == DEVPTS_SUPER_MAGIC && (major(number), minor(number)) == (5, 2))
}
