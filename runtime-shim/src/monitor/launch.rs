//! Starts a process of this program that stays when the command that starts it ends.
//!
//! Engines reap the container's process themselves: it has to be a child of the nearest subreaper (prctl(2),
//! `PR_SET_CHILD_SUBREAPER`). So it is forked twice, and the one between ends at once.

#![allow(unsafe_code, reason = "std's pre_exec is unsafe, and fork(2) has no safe wrapper")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use child::{Inherited, sealed_file};
use oci_spec::runtime::Process;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, getpid, getppid, ioctl_tiocsctty, set_parent_process_death_signal, setsid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::preserved::Descriptor;

/// Whose child the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    /// The nearest subreaper's, in a session of its own.
    Subreaper,
    /// This process's, in its session, and killed with it.
    This,
}

/// What the process has as stdin, stdout and stderr.
#[derive(Debug)]
pub(crate) enum Streams {
    /// This process's.
    Inherited,
    /// A terminal, which becomes that of its session.
    Terminal(OwnedFd),
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Launched {
    /// The near end of the socket between the two.
    pub(crate) socket: OwnedFd,
    /// The process, if it is a child.
    pub(crate) child: Option<Child>,
}

/// How much of a process of the guest is shown.
const SHOWN: usize = 4096;

/// Starts `runv <command>` with a plan to read, a socket to answer on, and the descriptors that its workload gets. The process
/// of the guest is there for ps(1) to show: engines list the processes of a container by their host processes.
pub(crate) fn launch(
    command: &str,
    process: Option<&Process>,
    plan: &impl Serialize,
    (streams, descriptors): (Streams, Vec<Descriptor>),
    parent: Parent,
) -> io::Result<Launched> {
    let (socket, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let mut inherited = Inherited::default();
    let plan_fd = inherited.add(sealed_file("runv-plan", &serde_json::to_vec(plan)?)?);
    let socket_fd = inherited.add(far);
    let mut program = Command::new("/proc/self/exe");
    program.arg0("runv").arg(command);
    program.arg("--plan-fd").arg(plan_fd.to_string()).arg("--socket-fd").arg(socket_fd.to_string());
    for descriptor in descriptors {
        program.arg("--descriptor-fd").arg(inherited.add(descriptor.fd).to_string());
    }
    program.arg("--").args(shown(process));
    let has_terminal = matches!(streams, Streams::Terminal(_));
    if let Streams::Terminal(terminal) = streams {
        program.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
    } else {
        program.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    }
    inherited.apply(&mut program)?;
    let this = getpid();
    // SAFETY: the closure only makes system calls and allocates nothing, as a child of fork(2) must.
    unsafe {
        program.pre_exec(move || match parent {
            Parent::Subreaper => {
                fork_again()?;
                setsid()?;
                if has_terminal { Ok(ioctl_tiocsctty(rustix::stdio::stdin())?) } else { Ok(()) }
            }
            Parent::This => {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // A parent that died before the line above sends no signal any more.
                if getppid() == Some(this) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
            }
        });
    }
    let mut child = program.spawn()?;
    // It holds this process's copies of the far ends; the socket must close with the process.
    drop(program);
    if parent == Parent::This {
        return Ok(Launched { socket, child: Some(child) });
    }
    child.wait()?;
    Ok(Launched { socket, child: None })
}

/// Its arguments, as far as they are short enough.
fn shown(process: Option<&Process>) -> impl Iterator<Item = &str> {
    let arguments =
        process.into_iter().flat_map(|process| process.args().iter().flatten().map(String::as_str));
    arguments.scan(SHOWN, |left, argument| {
        *left = left.checked_sub(argument.len() + 1)?;
        Some(argument)
    })
}

/// Reads the plan that [`launch`] has passed on, in as few pieces as it comes in.
///
/// Errors are those of read(2), and of a plan of another version of this program.
pub(crate) fn read_plan<Plan: DeserializeOwned>(plan: OwnedFd) -> io::Result<Plan> {
    let mut bytes = Vec::new();
    File::from(plan).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// The caller goes on as its own child, and ends as itself.
fn fork_again() -> io::Result<()> {
    // SAFETY: this process is the single-threaded child of a fork, and its copy goes on where it stands.
    match unsafe { libc::fork() } {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: ends the process and runs no code of it.
        _ => unsafe { libc::_exit(0) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_arrives_as_it_was_sent_and_a_broken_one_is_an_error() {
        let sent = vec!["a".repeat(100_000), "\u{e9}\n\"".to_owned()];
        let file = sealed_file("plan", &serde_json::to_vec(&sent).unwrap()).unwrap();
        assert_eq!(read_plan::<Vec<String>>(file).unwrap(), sent);
        let broken = sealed_file("plan", b"[\"a\"").unwrap();
        assert_eq!(read_plan::<Vec<String>>(broken).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
