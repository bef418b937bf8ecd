//! The user's terminal: raw while the workload has it, and always given back as it was.

use std::io;
use std::os::fd::BorrowedFd;
use std::panic;
use std::sync::Mutex;

use agent_protocol::agent::{Process, WindowSize};
use protobuf::MessageField;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// The settings to give back. Global, because a panic must find them too: it ends the process without
/// dropping anything.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// `process.terminal` cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TerminalError {
    /// No terminal.
    #[error(
        "process.terminal is true, but stdin is not a terminal; run in a terminal or set process.terminal to false"
    )]
    NotATerminal,
    /// Its settings.
    #[error("cannot set the terminal to raw mode")]
    Settings(#[source] io::Error),
}

/// A terminal in raw mode; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct RawMode(());

fn terminal() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

/// Whether there is a terminal to give to the workload.
pub(crate) fn check() -> Result<(), TerminalError> {
    if isatty(terminal()) { Ok(()) } else { Err(TerminalError::NotATerminal) }
}

/// Its size now; nothing where it has none, or does not know it.
pub(crate) fn size() -> Option<WindowSize> {
    let size = tcgetwinsize(terminal()).ok()?;
    let is_known = size.ws_col > 0 && size.ws_row > 0;
    is_known.then(|| WindowSize {
        columns: size.ws_col.into(),
        rows: size.ws_row.into(),
        ..Default::default()
    })
}

/// Gives a process that is to have the terminal the terminal's size; one of unknown size leaves the bundle's
/// consoleSize.
pub(crate) fn set_size(process: &mut Process) {
    if let Some(size) = size() {
        process.console_size = MessageField::some(size);
    }
}

impl RawMode {
    /// Every key goes to the workload, Ctrl-C included.
    pub(crate) fn enter() -> Result<Self, TerminalError> {
        let settings = |errno: rustix::io::Errno| TerminalError::Settings(errno.into());
        let saved = tcgetattr(terminal()).map_err(settings)?;
        let mut raw = saved.clone();
        raw.make_raw();
        if let Ok(mut slot) = SAVED.lock() {
            *slot = Some(saved);
        }
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            restore();
            previous(panic);
        }));
        tcsetattr(terminal(), OptionalActions::Now, &raw).map_err(settings)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let saved = SAVED.try_lock().ok().and_then(|mut slot| slot.take());
    if let Some(saved) = saved {
        // Fails when the terminal itself is gone.
        let _ = tcsetattr(terminal(), OptionalActions::Now, &saved);
    }
}

/// Whether the workload has the terminal now.
pub(crate) fn is_raw() -> bool {
    SAVED.lock().is_ok_and(|saved| saved.is_some())
}
