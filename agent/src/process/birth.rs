//! A child between its birth and its program, as the agent sees it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::container::network::Network;
use crate::failure::{Failure, FailureKind};
use crate::process::console::Terminal;
use crate::process::control::{AgentEnd, Message};
use crate::process::running::Running;
use crate::process::settings::Settings;
use crate::process::stdio::{Relays, Stdio};
use crate::reaper::{Exit, ExitWatch, Reaper};
use crate::resolver::Serving;
use crate::security::identity_map::IdentityMap;
use crate::sys::clone3::Child;
use crate::sys::signals;

/// A child that prepares itself.
#[derive(Debug)]
pub struct Birth {
    child: Child,
    control: AgentEnd,
    exit: ExitWatch,
}

/// A child that is ready to execute its program.
#[derive(Debug)]
pub struct Ready {
    birth: Birth,
    terminal: Option<Arc<Terminal>>,
    relays: Relays,
}

impl Birth {
    /// Of a child that has just been started. Must be called in the same turn of the event loop.
    pub fn new(reaper: &Reaper, (child, control): (Child, AgentEnd)) -> Self {
        let exit = reaper.watch(child.pid);
        Self { child, control, exit }
    }

    /// Gives the child's user namespace its ids, and its network namespace its interfaces, for which the child waits.
    ///
    /// # Errors
    ///
    /// A [`Failure`]; the child has ended then.
    pub async fn mapped(
        self,
        identities: Option<&IdentityMap>,
        network: &Network,
    ) -> Result<(Self, Option<Serving>), Failure> {
        if identities.is_none() && network.is_empty() {
            return Ok((self, None));
        }
        let mapped = identities
            .map_or(Ok(()), |identities| identities.write(self.child.pid))
            .map_err(|error| Failure::from_error(FailureKind::System, &error))
            .and_then(|()| network.give_to(self.child.pid))
            .and_then(|serving| {
                self.control.go()?;
                Ok(serving)
            });
        match mapped {
            Ok(serving) => Ok((self, serving)),
            Err(failure) => {
                kill_and_reap(&self.child, self.exit).await?;
                Err(failure)
            }
        }
    }

    /// Another descriptor that names the child.
    ///
    /// # Errors
    ///
    /// Those of fcntl(2).
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        self.child.pidfd.try_clone()
    }

    /// Waits until the child is ready, gives it its limits and priorities, and connects its terminal.
    ///
    /// # Errors
    ///
    /// A [`Failure`]; the child has ended then.
    pub async fn ready(self, stdio: Stdio, settings: &Settings) -> Result<Ready, Failure> {
        let mut terminal = None;
        let outcome = loop {
            break match self.control.receive().await {
                Ok(Message::Terminal(master)) => {
                    terminal = Some(master);
                    continue;
                }
                Ok(Message::Ready) => settings
                    .apply(self.child.pid)
                    .map_err(|error| Failure::from_error(FailureKind::System, &error)),
                Ok(Message::Failed(failure)) => Err(failure),
                Ok(Message::Closed) => Err(died(self.exit.clone().wait().await)),
                Err(error) => Err(Failure::from_error(FailureKind::System, &error)),
            };
        };
        let attached = outcome.and_then(|()| {
            stdio.attach_terminal(terminal).map_err(|error| Failure::from_error(FailureKind::System, &error))
        });
        match attached {
            Ok((relays, terminal)) => Ok(Ready { birth: self, terminal, relays }),
            Err(failure) => {
                kill_and_reap(&self.child, self.exit).await?;
                Err(failure)
            }
        }
    }
}

impl Ready {
    /// The child as it will be known, the socket by which to let it go, and the relays of its stdio.
    pub fn into_parts(self) -> (Running, AgentEnd, Relays) {
        let Birth { child, control, exit } = self.birth;
        (Running::new(child, exit, self.terminal), control, self.relays)
    }
}

impl AgentEnd {
    /// Lets the child execute its program, and waits until it has.
    ///
    /// # Errors
    ///
    /// A [`Failure`]; the child ends then.
    pub async fn execute(&self) -> Result<(), Failure> {
        let gone = |error| Failure::new(FailureKind::System, format!("the process has gone: {error}"));
        self.go().map_err(gone)?;
        match self.receive().await.map_err(gone)? {
            Message::Closed => Ok(()),
            Message::Failed(failure) => Err(failure),
            Message::Ready | Message::Terminal(_) => {
                Err(Failure::new(FailureKind::System, "the process repeats itself"))
            }
        }
    }
}

async fn kill_and_reap(child: &Child, mut exit: ExitWatch) -> io::Result<()> {
    if !exit.is_over() {
        match signals::send(child.pidfd.as_fd(), libc::SIGKILL) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
            _ => {}
        }
    }
    exit.wait().await;
    Ok(())
}

fn died(exit: Option<Exit>) -> Failure {
    let how = match exit {
        Some(Exit::Signal(signal)) => format!("was killed by signal {signal}"),
        Some(Exit::Code(code)) => format!("ended with status {code}"),
        None => "ended".to_owned(),
    };
    Failure::new(FailureKind::System, format!("the process {how} before it could execute its program"))
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::from_error(FailureKind::System, &error)
    }
}
