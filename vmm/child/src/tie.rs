//! A second tie to the parent's life, for a program that is executed in another SELinux context.
//!
//! The kernel forgets `PR_SET_PDEATHSIG` at an execve(2) that changes the context (`selinux_bprm_committing_creds`). So a
//! small program of ours goes between: it is executed in the new context, asks for the signal there, and executes
//! the program proper without another change, at which the signal stays. Process id, descriptors, arguments and
//! environment pass through.
//!
//! Programs that see by a socket that their parent has gone need no such thing.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal};

/// The program between is called `BINDER --tied-to PID PROGRAM ARGUMENTS...`.
pub const TIED_TO: &str = "--tied-to";

/// Why the program between has not become the program proper.
#[derive(Debug, thiserror::Error)]
pub enum TieError {
    /// Nobody calls it so.
    #[error("usage: {TIED_TO} PID PROGRAM ARGUMENTS... (runv says it)")]
    Usage,
    /// The process that it was to be tied to is its parent no more.
    #[error("process {0}, which started this one, has ended")]
    Orphaned(Pid),
    /// The kernel did not have it.
    #[error("cannot tie {} to its parent", program.display())]
    Bind {
        /// The program proper.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program proper cannot be executed.
    #[error("cannot run {}", program.display())]
    Execute {
        /// The program proper.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A command that runs `program` by way of `binder`, a program that gives its arguments to [`execute_tied`], tied to
/// this process. The program's arguments are to be added.
#[must_use]
pub fn tied_by(binder: &Path, program: &Path) -> Command {
    let mut command = Command::new(binder);
    command.arg(TIED_TO).arg(std::process::id().to_string()).arg(program);
    command
}

/// The part of the program between: ties this process to its parent and becomes the program proper. `arguments` are
/// those after [`TIED_TO`].
///
/// # Errors
/// It returns only then.
pub fn execute_tied(arguments: impl IntoIterator<Item = OsString>) -> Result<Infallible, TieError> {
    let mut arguments = arguments.into_iter();
    let parent = arguments.next().as_deref().and_then(process_id).ok_or(TieError::Usage)?;
    let program = PathBuf::from(arguments.next().ok_or(TieError::Usage)?);
    if let Err(errno) = bind() {
        return Err(TieError::Bind { program, source: errno.into() });
    }
    // A parent that ended before sends no signal any more.
    if rustix::process::getppid() != Some(parent) {
        return Err(TieError::Orphaned(parent));
    }
    let source = Command::new(&program).args(arguments).exec();
    Err(TieError::Execute { program, source })
}

fn bind() -> rustix::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // Without it, a policy's transition by the program's file could change the context once more, and so could the
    // file's own rights change what the process has: both would take the signal away again.
    rustix::thread::set_no_new_privs(true)
}

fn process_id(text: &OsStr) -> Option<Pid> {
    text.to_str()?.parse().ok().filter(|&number: &i32| number > 0).and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(arguments: &[&str]) -> String {
        let arguments = arguments.iter().map(OsString::from);
        // What comes before the tie is wrong in each, so that this process stays as it is.
        execute_tied(arguments).map(|never| match never {}).unwrap_err().to_string()
    }

    #[test]
    fn what_nobody_says_is_refused() {
        for arguments in [&[][..], &["7"], &["x", "true"], &["-7", "true"], &["0", "true"]] {
            assert!(refusal(arguments).starts_with("usage: --tied-to PID PROGRAM"), "{arguments:?}");
        }
    }

    #[test]
    fn the_program_comes_after_the_process_that_it_is_tied_to() {
        let command = tied_by(Path::new("/binder"), Path::new("/program"));
        assert_eq!(command.get_program(), "/binder");
        let own = std::process::id().to_string();
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["--tied-to", own.as_str(), "/program"]);
    }
}
