//! Containers that have come into a machine, as the monitor of the machine sees them.
//!
//! The monitor of such a container (`monitor::member`) passes the mount tree of its files, which is added to the share
//! under a name that was never there before, and gets the sandbox directory, by which it reaches the agent itself. It
//! keeps the connection as long as its container lives. When that closes, by whatever end, the tree is taken away
//! again and the container killed and forgotten: a monitor that was killed leaves nothing in the machine.

use std::collections::BTreeSet;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_protocol::AGENT_PORT;
use agent_protocol::agent as proto;
use jail::root::RootError;
use jail::tree;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::agent::{Agent, CallError};
use super::message::{Answer, Request, cut, receive, send};
use super::server::connect;
use crate::bundle::place::{self, MOST_MEMBERS};
use crate::exit_code;
use crate::report;
use crate::sandbox::directory::SandboxDirectory;
use crate::sandbox::start::Sandbox;

/// Members at a time. The control socket's connections are bounded too, and commands need some.
const MOST: usize = 128;

/// How long the agent may take to kill a container and forget it.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where the device process has its share (`devices::fs::share`).
const SHARE: &str = "share";

/// A container cannot come in, or is not wholly gone.
#[derive(Debug, thiserror::Error)]
enum MemberError {
    /// The machine is about to end.
    #[error("the sandbox is ending")]
    Ending,
    /// There are no namespaces to join any more.
    #[error("the container for which the sandbox was made has ended")]
    Closed,
    /// Too many.
    #[error("the sandbox has {MOST} members already")]
    TooMany,
    /// No more names.
    #[error("the sandbox has had too many members in its life")]
    Exhausted,
    /// Its files.
    #[error("cannot change what the sandbox sees of the host")]
    Share(#[from] RootError),
    /// The agent.
    #[error("cannot remove the container in the guest")]
    Agent(#[from] CallError),
    /// This process.
    #[error("cannot keep a member of the sandbox")]
    Host(#[from] io::Error),
}

/// The members of one machine.
#[derive(Debug)]
pub(crate) struct Members {
    directory: SandboxDirectory,
    /// Names the device process.
    devices: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
    /// Something has changed, for the event loop.
    woken: PipeReader,
    wake: PipeWriter,
}

#[derive(Debug, Default)]
struct State {
    /// The last number that was given; none is given twice.
    last: u32,
    living: BTreeSet<u32>,
    stage: Stage,
    /// The machine is not to live on for its members.
    is_unwanted: bool,
}

impl State {
    /// The container for which the machine was made has ended.
    fn close(&mut self) {
        self.stage = if self.is_unwanted { Stage::Ending } else { Stage::Lingering };
    }

    /// The machine is to end, now that its container has. Whether somebody is in it, and it had not been to end before.
    fn end_for_members(&mut self) -> bool {
        let is_news = !self.living.is_empty() && self.stage != Stage::Ending && !self.is_unwanted;
        self.is_unwanted |= is_news;
        // Until the monitor knows of the container's end itself, what it does then is all that changes.
        if is_news && self.stage == Stage::Lingering {
            self.stage = Stage::Ending;
        }
        is_news
    }
}

/// Of the machine's life.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The container for which it was made lives.
    #[default]
    Open,
    /// It does not, and the machine lives on for its members.
    Lingering,
    /// The machine is about to end.
    Ending,
}

impl Members {
    /// Of a machine that has none yet.
    pub(crate) fn of(sandbox: &Sandbox) -> io::Result<Self> {
        let (woken, wake) = io::pipe()?;
        // Nobody reads while the container lives, and a full pipe has woken its reader already.
        for end in [woken.as_fd(), wake.as_fd()] {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        Ok(Self {
            directory: sandbox.directory.try_clone()?,
            devices: sandbox.devices.ended().try_clone_to_owned()?,
            state: Mutex::default(),
            changed: Condvar::new(),
            woken,
            wake,
        })
    }

    /// The container for which the machine was made has ended: nobody comes in any more.
    pub(crate) fn close(&self) {
        self.state().close();
    }

    /// Whether the machine lives on for somebody. It polls readable when that may have changed.
    pub(crate) fn keep_the_machine(&self) -> bool {
        let state = self.state();
        state.stage == Stage::Lingering && !state.living.is_empty()
    }

    /// Takes note of what made this poll readable.
    pub(crate) fn note_change(&self) -> io::Result<()> {
        match (&self.woken).read(&mut [0; 64]) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// The machine is about to end, and who is in it ends with it.
    pub(crate) fn end(&self) {
        self.state().stage = Stage::Ending;
        self.changed.notify_all();
    }

    /// Has the machine end, if it only lives on for its members. Whoever asks has it from the agent that the container has
    /// ended; that it is so need not have come to the monitor yet, which may wait for who reads the container's output.
    pub(super) fn end_machine(&self) -> Answer {
        if !self.state().end_for_members() {
            return failed(&io::Error::other("container not running"));
        }
        self.changed.notify_all();
        self.wake();
        Answer::Done
    }

    /// Gives the container whose files are in `share` a place, and keeps it until `client` closes or leaves.
    pub(super) fn serve(&self, client: &OwnedFd, share: OwnedFd) -> io::Result<()> {
        let number = match self.enter(&share) {
            Ok(number) => number,
            Err(error) => return send(client, &failed(&error), None),
        };
        drop(share);
        let asked = self.wait_for_leaving(client, number);
        let left = self.leave(number);
        if let Err(error) = &left {
            tracing::warn!(
                number,
                error = report::chain(error),
                "a member of the sandbox is not wholly gone"
            );
        }
        match asked? {
            true => send(client, &left.map_or_else(|error| failed(&error), |()| Answer::Done), None),
            false => Ok(()),
        }
    }

    /// Waits until a place is given up.
    pub(super) fn await_leaving(&self, number: u32) -> Answer {
        let waiting = self.changed.wait_timeout_while(self.state(), PATIENCE, |state| {
            state.living.contains(&number) && state.stage != Stage::Ending
        });
        let (state, timeout) = waiting.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        if timeout.timed_out() {
            return failed(&io::Error::other("the sandbox does not let go of the container"));
        }
        Answer::Done
    }

    fn enter(&self, share: &OwnedFd) -> Result<u32, MemberError> {
        let number = {
            let mut state = self.state();
            match state.stage {
                Stage::Open => {}
                Stage::Lingering => return Err(MemberError::Closed),
                Stage::Ending => return Err(MemberError::Ending),
            }
            if state.living.len() >= MOST {
                return Err(MemberError::TooMany);
            }
            if state.last >= MOST_MEMBERS {
                return Err(MemberError::Exhausted);
            }
            state.last += 1;
            let number = state.last;
            state.living.insert(number);
            number
        };
        if let Err(error) = tree::attach(self.devices.as_fd(), &place_of(number), share) {
            self.forget(number);
            return Err(error.into());
        }
        Ok(number)
    }

    /// Tells the container's monitor of its place; whether it then says that it gives that up, instead of just going.
    fn wait_for_leaving(&self, client: &OwnedFd, number: u32) -> io::Result<bool> {
        send(client, &Answer::Joined { number }, Some(self.directory.as_fd()))?;
        set_socket_timeout(client, Timeout::Recv, None)?;
        Ok(matches!(receive::<Request>(client)?, Some((Request::Leave, _))))
    }

    /// The host's part first: it must not depend on the guest.
    fn leave(&self, number: u32) -> Result<(), MemberError> {
        let is_ending = self.state().stage == Stage::Ending;
        let left = if is_ending { Err(MemberError::Ending) } else { self.clear(number) };
        self.forget(number);
        left
    }

    fn clear(&self, number: u32) -> Result<(), MemberError> {
        tree::detach(self.devices.as_fd(), &place_of(number))?;
        self.directory.forget_ports(place::ports(number))?;
        let request = proto::RemoveContainerRequest {
            container_id: place::container_id(number),
            share_path: place::share_of_member(number),
            ..Default::default()
        };
        let mut agent = Agent::over(connect(&self.directory, AGENT_PORT)?)?;
        agent.call_within(&request, Some(PATIENCE))?;
        Ok(())
    }

    fn forget(&self, number: u32) {
        self.state().living.remove(&number);
        self.changed.notify_all();
        self.wake();
    }

    fn wake(&self) {
        let _ = (&self.wake).write(&[1]);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Members {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }
}

fn place_of(number: u32) -> PathBuf {
    PathBuf::from(SHARE).join(place::share_of_member(number))
}

fn failed(error: &dyn std::error::Error) -> Answer {
    Answer::Failed { message: cut(&report::chain(error)), exit_code: exit_code::OWN_ERROR }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_members() -> State {
        State { living: BTreeSet::from([1]), ..State::default() }
    }

    #[test]
    fn a_machine_lives_on_for_its_members_until_it_is_to_end() {
        let mut state = with_members();
        state.close();
        assert_eq!(state.stage, Stage::Lingering);
        assert!(state.end_for_members());
        assert_eq!(state.stage, Stage::Ending);
        assert!(!state.end_for_members());
    }

    #[test]
    fn one_that_is_to_end_before_its_monitor_knows_why_does_so_then() {
        let mut state = with_members();
        assert!(state.end_for_members());
        assert_eq!(state.stage, Stage::Open);
        assert!(!state.end_for_members());
        state.close();
        assert_eq!(state.stage, Stage::Ending);
    }

    #[test]
    fn one_without_members_ends_with_its_container() {
        let mut state = State::default();
        assert!(!state.end_for_members());
        state.close();
        assert!(!state.end_for_members());
    }
}
