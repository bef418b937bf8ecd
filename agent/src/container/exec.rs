//! Another process in a container that exists.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::container::create::own_stdio;
use crate::container::request::ExecSpec;
use crate::container::status::Status;
use crate::container::{Container, Containers, LookupError};
use crate::failure::{Failure, FailureKind};
use crate::process::birth::Birth;
use crate::process::control::AgentEnd;
use crate::process::join::Join;
use crate::process::lifeline::Lifeline;
use crate::process::running::Running;
use crate::process::spawn::{self, SpawnError};
use crate::process::stdio::{Relays, Stdio};
use crate::sys::clone3::Child;
use crate::sys::signals;

/// Processes beside the init that one container may have, ended ones that are still known included.
const MOST_PROCESSES: usize = 4096;

impl Containers {
    /// Executes a program in a container. It is killed when `lifeline` is cut, and known until then.
    ///
    /// Must not be dropped before it is done: run it as a task of its own.
    ///
    /// # Errors
    ///
    /// A [`Failure`]; nothing of the process is left then.
    pub async fn exec(
        &self,
        container: Arc<Container>,
        spec: ExecSpec,
        mut lifeline: Lifeline,
    ) -> Result<Arc<Running>, Failure> {
        container.reserve(&spec.id)?;
        let (process, relays) = match self.start_in(&container, &spec, &mut lifeline).await {
            Ok(started) => started,
            Err(failure) => {
                container.others().remove(&spec.id);
                return Err(failure);
            }
        };
        let process = Arc::new(process);
        container.others().insert(spec.id.clone(), Some(Arc::clone(&process)));
        tokio::spawn(supervise(container, spec.id, Arc::clone(&process), relays, lifeline));
        Ok(process)
    }

    async fn start_in(
        &self,
        container: &Container,
        spec: &ExecSpec,
        lifeline: &mut Lifeline,
    ) -> Result<(Running, Relays), Failure> {
        let stdio = Stdio::connect(&self.streams, &spec.process, &self.places.sockets)
            .await
            .map_err(|error| system(&error))?;
        container.check_exec(spec)?;
        own_stdio(container.identities.as_ref(), &stdio)?;
        let spawned = container.spawn(spec, &stdio).map_err(|error| system(&error))?;
        let birth = Birth::new(&self.reaper, spawned);
        let pidfd = birth.pidfd()?;
        let mut starting = std::pin::pin!(execute(birth, stdio, spec));
        tokio::select! {
            started = &mut starting => started,
            () = lifeline.cut() => {
                // It has just ended if this fails.
                let _ = signals::send(pidfd.as_fd(), libc::SIGKILL);
                starting.await
            }
        }
    }
}

async fn execute(birth: Birth, stdio: Stdio, spec: &ExecSpec) -> Result<(Running, Relays), Failure> {
    let (process, control, relays) = birth.ready(stdio, &spec.process.settings).await?.into_parts();
    if let Err(failure) = control.execute().await {
        process.exited().await;
        return Err(failure);
    }
    Ok((process, relays))
}

fn system(error: &dyn std::error::Error) -> Failure {
    Failure::from_error(FailureKind::System, error)
}

impl Container {
    fn reserve(&self, exec_id: &str) -> Result<(), Failure> {
        let mut others = self.others();
        let refused = if others.contains_key(exec_id) {
            LookupError::ProcessExists(self.id.clone(), exec_id.to_owned())
        } else if others.len() >= MOST_PROCESSES {
            LookupError::TooManyProcesses(self.id.clone())
        } else {
            others.insert(exec_id.to_owned(), None);
            return Ok(());
        };
        Err(Failure::from_error(FailureKind::InvalidRequest, &refused))
    }

    /// In runc's words.
    fn check_exec(&self, spec: &ExecSpec) -> Result<(), Failure> {
        let refuse = |message| Err(Failure::new(FailureKind::InvalidRequest, message));
        if self.status() == Status::Stopped || self.init.is_over() {
            return refuse("cannot exec in a stopped container");
        }
        let frozen = self.cgroup.is_frozen().map_err(|error| system(&error))?;
        if frozen && !spec.ignore_paused {
            return refuse("cannot exec in a paused container (use --ignore-paused to override)");
        }
        Ok(())
    }

    fn spawn(&self, spec: &ExecSpec, stdio: &Stdio) -> Result<(Child, AgentEnd), SpawnError> {
        let join = Join {
            process: &spec.process,
            confinement: &self.confinement,
            init: self.init.pidfd(),
            namespaces: self.namespaces,
        };
        let into = |cgroup: OwnedFd| spawn::joining(&join, cgroup.as_fd(), &stdio.child);
        match into(self.cgroup.open_below(&spec.cgroup)?) {
            // The container has cgroups of its own below, to which its cgroup gives its controllers; processes
            // can then be in those only (cgroup-v2.rst, "No Internal Process Constraint"). As runc, take the init's.
            Err(SpawnError::Clone(error))
                if error.raw_os_error() == Some(libc::EBUSY) && spec.cgroup.as_os_str().is_empty() =>
            {
                into(self.cgroup.open_that_of(self.init.pid())?)
            }
            other => other,
        }
    }
}

/// Waits for the process's end, or brings it about.
async fn supervise(
    container: Arc<Container>,
    id: String,
    process: Arc<Running>,
    relays: Relays,
    mut lifeline: Lifeline,
) {
    let ended = tokio::select! {
        exit = process.exited() => exit,
        () = lifeline.cut() => {
            // It has just ended if this fails.
            let _ = process.signal(libc::SIGKILL);
            process.exited().await
        }
    };
    let Some(exit) = ended else { return };
    // Its children, if they still run, keep their ends of the pipes, as with runc; nobody reads them any more.
    relays.finish().await;
    process.settle(exit);
    lifeline.cut().await;
    container.others().remove(&id);
}
