//! Making a container: all but the execution of its workload.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use crate::cgroup::Cgroup;
use crate::cgroup::settings::enable_controllers;
use crate::container::limits::Limits;
use crate::container::request::ContainerSpec;
use crate::container::status::Status;
use crate::container::{Container, Containers, end};
use crate::failure::{Failure, FailureKind};
use crate::process::child::{Places, Plan};
use crate::process::console::Terminal;
use crate::process::control::{AgentEnd, Message};
use crate::process::spawn::spawn;
use crate::process::stdio::Stdio;
use crate::reaper::{Exit, ExitWatch};
use crate::sys::clone3::Child;
use crate::sys::signals;

impl Containers {
    /// Makes the container that `spec` describes; its init then waits to be let go.
    ///
    /// Must not be dropped before it is done: run it as a task of its own.
    ///
    /// # Errors
    ///
    /// A [`Failure`]; nothing of the container is left then.
    pub async fn create(&self, spec: ContainerSpec) -> Result<Arc<Container>, Failure> {
        let id = spec.id.clone();
        self.reserve(&id).map_err(|error| Failure::from_error(FailureKind::InvalidRequest, &error))?;
        let built = self.build(spec).await;
        self.settle(&id, built.as_ref().ok().cloned());
        built
    }

    async fn build(&self, spec: ContainerSpec) -> Result<Arc<Container>, Failure> {
        let stdio = Stdio::connect(&self.streams, spec.tokens).await.map_err(|error| system(&error))?;
        enable_controllers(&self.places.cgroups).map_err(|error| system(&error))?;
        let cgroup = Cgroup::create(&self.places.cgroups, &spec.id).map_err(|error| system(&error))?;
        let built = async {
            let limits = Limits::of_new(&cgroup, &spec.resources).map_err(|error| system(&error))?;
            Ok((self.build_in(spec, &cgroup, stdio).await?, limits))
        };
        match built.await {
            Ok((parts, limits)) => Ok(parts.into_container(cgroup, limits)),
            Err(failure) => match end::clear(&cgroup).await {
                Ok(()) => Err(failure),
                Err(error) => {
                    let message = format!("{failure}; besides, {}", system(&error));
                    Err(Failure::new(failure.kind, message))
                }
            },
        }
    }

    async fn build_in(&self, spec: ContainerSpec, cgroup: &Cgroup, stdio: Stdio) -> Result<Parts, Failure> {
        let (id, plan) = self.plan(spec, cgroup);
        let (child, control) = spawn(&plan, cgroup, &stdio.child).map_err(|error| system(&error))?;
        // Before the next await, so before the reaper can run.
        let mut exit = self.reaper.watch(child.pid);
        let outcome = match control.receive().await {
            Ok(Message::Ready(terminal)) => Ok(terminal),
            Ok(Message::Failed(failure)) => Err(failure),
            Ok(Message::Closed) => Err(died(exit.wait().await)),
            Err(error) => Err(system(&error)),
        };
        let (terminal, stdio) = match outcome {
            Ok(terminal) => (terminal, stdio),
            Err(failure) => {
                kill_and_reap(&child, exit).await?;
                return Err(failure);
            }
        };
        match stdio.attach_terminal(terminal) {
            Ok((relays, terminal)) => Ok(Parts { id, child, control, exit, terminal, relays }),
            Err(error) => {
                kill_and_reap(&child, exit).await?;
                Err(system(&error))
            }
        }
    }

    fn plan(&self, spec: ContainerSpec, cgroup: &Cgroup) -> (String, Plan) {
        let places = Places {
            share: self.places.share.clone(),
            root: self.places.root.clone(),
            cgroup: cgroup.path().to_owned(),
        };
        let plan = Plan {
            process: spec.process,
            root: spec.root,
            readonly: spec.readonly,
            mounts: spec.mounts,
            hostname: spec.hostname,
            domainname: spec.domainname,
            namespaces: spec.namespaces,
            propagation: spec.propagation,
            devices: spec.devices,
            masks: spec.masks,
            sysctl: spec.sysctl,
            places,
        };
        (spec.id, plan)
    }
}

/// What a container is put together from.
struct Parts {
    id: String,
    child: Child,
    control: AgentEnd,
    exit: ExitWatch,
    terminal: Option<Arc<Terminal>>,
    relays: crate::process::stdio::Relays,
}

impl Parts {
    fn into_container(self, cgroup: Cgroup, limits: Limits) -> Arc<Container> {
        let container = Arc::new(Container {
            id: self.id,
            pid: self.child.pid,
            pidfd: self.child.pidfd,
            cgroup,
            limits,
            terminal: self.terminal,
            status: Status::Created.into(),
            control: Some(self.control).into(),
            exit: self.exit,
            ended: watch::Sender::new(None),
        });
        tokio::spawn(end::supervise(Arc::clone(&container), self.relays));
        container
    }
}

async fn kill_and_reap(child: &Child, mut exit: ExitWatch) -> Result<(), Failure> {
    if !exit.is_over() {
        match signals::send(std::os::fd::AsFd::as_fd(&child.pidfd), libc::SIGKILL) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(system(&error)),
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
    Failure::new(FailureKind::System, format!("the container's init {how} while it built the container"))
}

fn system(error: &(impl std::error::Error + 'static)) -> Failure {
    Failure::from_error(FailureKind::System, error)
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        system(&error)
    }
}
