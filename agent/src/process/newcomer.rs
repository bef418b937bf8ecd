//! The birth of an init into the user namespace of another container.
//!
//! Namespaces belong to the user namespace in which they are made, and the init has to own its own: it needs to be in
//! there before they are. The agent cannot enter a user namespace for a moment, as it would have no right to come back. So
//! a process between the two goes in, gives birth to the init, which it says is the agent's child, and ends.
//!
//! ```text
//!   agent      clone3 -> between: setns of all that is joined, the user namespace last
//!                                 clone3 with CLONE_PARENT and all that is new -> init
//!   its number and pidfd  <- socket; ends
//! ```

use std::convert::Infallible;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, pidfd_send_signal};

use crate::container::namespaces::Neighbour;
use crate::failure::{Failure, FailureKind};
use crate::process::child::{self, Plan};
use crate::process::control::{self, AgentEnd, ChildEnd};
use crate::process::files::Files;
use crate::process::spawn::{SpawnError, explain};
use crate::process::workload::{begin, exit, report, system};
use crate::security::identity_map::IdentityMap;
use crate::sys::clone3::{Child, Clone3, Parent};
use crate::sys::namespaces;

/// Starts the init of `plan`, in `cgroup`. Waits for the process between, which waits for nothing.
pub(super) fn spawn(
    plan: &Plan,
    new: u64,
    cgroup: BorrowedFd<'_>,
    files: &Files,
) -> Result<(Child, AgentEnd), SpawnError> {
    let (agent, end) = control::pair(files).map_err(SpawnError::Control)?;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| SpawnError::Control(errno.into()))?;
    // The agent waits for it, so it is not under the container's limits.
    let between = Clone3 { namespaces: 0, cgroup: None, parent: Parent::Caller }
        .spawn(|| report(&end, || bear(plan, new, cgroup, &far, &end, files)))
        .map_err(|error| explain(error, 0))?;
    drop((end, far));
    match receive(&near) {
        Ok(Some(child)) => Ok((child, agent)),
        // It has failed, said why as an init does, and ended: it stands for the init.
        Ok(None) => Ok((between, agent)),
        Err(error) => {
            // The error is the one to tell; the init, if there is one, ends with its cgroup.
            let _ = pidfd_send_signal(&between.pidfd, Signal::KILL);
            Err(SpawnError::Control(error))
        }
    }
}

/// The life of the process between.
fn bear(
    plan: &Plan,
    new: u64,
    cgroup: BorrowedFd<'_>,
    far: &OwnedFd,
    control: &ChildEnd,
    files: &Files,
) -> Result<Infallible, Failure> {
    let kept = plan.neighbours.iter().map(Neighbour::pidfd);
    begin(control, files, kept.chain([far.as_fd(), cgroup]))?;
    child::join(&plan.neighbours)?;
    let joins = |wanted: fn(&Neighbour) -> bool, flag: libc::c_int| {
        plan.neighbours
            .iter()
            .filter(move |one| wanted(one))
            .try_for_each(|neighbour| namespaces::join(neighbour.pidfd(), u64::from(flag.unsigned_abs())))
    };
    joins(|one| one.namespaces.pid, libc::CLONE_NEWPID)
        .map_err(system("cannot join the pid namespace of another container"))?;
    // The last, as its root may not enter what is not of this one.
    joins(|one| one.namespaces.user, libc::CLONE_NEWUSER)
        .map_err(system("cannot join the user namespace of another container"))?;
    // Its init may have gone into another one, whose ids are not those that the files are made for.
    let is_as_made = plan.spec.identities.as_ref().map_or(Ok(true), IdentityMap::is_own);
    if !is_as_made.map_err(system("cannot read the ids of the user namespace of another container"))? {
        let message =
            "the init of the container whose user namespace is to be joined has left it for another one";
        return Err(Failure::new(FailureKind::InvalidRequest, message));
    }
    let init = Clone3 { namespaces: new, cgroup: Some(cgroup), parent: Parent::CallersParent }
        .spawn(|| report(control, || child::run(plan, control, files)))
        .map_err(|error| Failure::from_error(FailureKind::System, &explain(error, new)))?;
    // A parent that hears nothing has ended, and all of this with it.
    let _ = send(far, &init);
    exit()
}

fn send(far: &OwnedFd, child: &Child) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [child.pidfd.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let number = child.pid.as_raw_nonzero().get().to_ne_bytes();
    sendmsg(far, &[IoSlice::new(&number)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// `None` when there is nobody who would send.
fn receive(near: &OwnedFd) -> io::Result<Option<Child>> {
    let mut number = [0; size_of::<i32>()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(near, &mut [IoSliceMut::new(&mut number)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes < number.len() {
        return Ok(None);
    }
    let pidfd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let child = Pid::from_raw(i32::from_ne_bytes(number)).zip(pidfd);
    child.map(|(pid, pidfd)| Some(Child { pid, pidfd })).ok_or_else(|| io::Error::other("no process arrived"))
}
