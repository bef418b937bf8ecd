//! Making a container: all but the execution of its workload.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::{FileType, Gid, Uid, fchown};

use crate::cgroup::Cgroup;
use crate::cgroup::huge_pages;
use crate::cgroup::settings::enable_controllers;
use crate::container::limits::Limits;
use crate::container::namespaces::{Joined, Neighbour};
use crate::container::request::ContainerSpec;
use crate::container::status::Status;
use crate::container::{Container, Containers, end};
use crate::failure::{Failure, FailureKind};
use crate::kmsg;
use crate::process::birth::{Birth, Ready};
use crate::process::child::{Places, Plan};
use crate::process::spawn;
use crate::process::stdio::Stdio;
use crate::resolver::Serving;
use crate::rootfs::mounts::Source;
use crate::rootfs::path::file_type;
use crate::security::identity_map::IdentityMap;
use crate::sockets::Relays;
use crate::sys::network;

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
        let mut spec = spec;
        let neighbours = self.neighbours(&spec)?;
        let neighbours = share_identities(&mut spec, neighbours)?;
        let stdio = Stdio::connect(&self.streams, &spec.process, &self.places.sockets)
            .await
            .map_err(|error| system(&error))?;
        enable_controllers(&self.places.cgroups).map_err(|error| system(&error))?;
        if spec.wants_huge_pages() {
            huge_pages::allow().map_err(|error| {
                Failure::new(FailureKind::System, format!("cannot allow huge pages: {error}"))
            })?;
        }
        if !spec.namespaces.network {
            guests_loopback();
        }
        let cgroup = Cgroup::create(&self.places.cgroups, &spec.id).map_err(|error| system(&error))?;
        let places = Places {
            share: self.places.share.clone(),
            root: self.places.root.clone(),
            sockets: self.places.sockets.join(&spec.id),
            cgroup: cgroup.path().to_owned(),
        };
        let plan = Plan { spec, neighbours, places };
        let built = async {
            let limits = Limits::of_new(&cgroup, &plan.spec.resources).map_err(|error| system(&error))?;
            let sockets = plan.spec.mounts.iter().filter_map(|mount| match mount.source {
                Source::Socket(socket) => Some(socket),
                _ => None,
            });
            let relays = Relays::start(&plan.places.sockets, sockets).map_err(|error| {
                Failure::new(FailureKind::Mount, format!("cannot listen for a socket of the host: {error}"))
            })?;
            let (init, resolver) = self.build_in(&cgroup, &plan, stdio).await?;
            Ok((init, limits, (relays, resolver)))
        };
        match built.await {
            Ok((init, limits, relays)) => Ok(supervised(plan.spec, cgroup, limits, relays, init)),
            Err(failure) => match end::clear(&cgroup).await {
                Ok(()) => Err(failure),
                Err(error) => {
                    let message = format!("{failure}; besides, {}", system(&error));
                    Err(Failure::new(failure.kind, message))
                }
            },
        }
    }

    /// The containers whose namespaces are to be joined.
    fn neighbours(&self, spec: &ContainerSpec) -> Result<Vec<Neighbour>, Failure> {
        let find = |joined: &Joined| {
            let container = self
                .find(&joined.container)
                .map_err(|error| Failure::from_error(FailureKind::InvalidRequest, &error))?;
            if container.status() == Status::Stopped {
                let message =
                    format!("container {:?}, whose namespaces are to be joined, has ended", joined.container);
                return Err(Failure::new(FailureKind::InvalidRequest, message));
            }
            Ok(Neighbour {
                init: Arc::clone(&container.init),
                namespaces: joined.namespaces,
                identities: container.identities.clone(),
            })
        };
        spec.joined.iter().map(find).collect()
    }

    async fn build_in(
        &self,
        cgroup: &Cgroup,
        plan: &Plan,
        stdio: Stdio,
    ) -> Result<(Ready, Option<Serving>), Failure> {
        let directory = cgroup.open().map_err(|error| system(&error))?;
        own_stdio(plan.spec.identities.as_ref(), &stdio)?;
        let spawned = spawn::init(plan, directory.as_fd(), &stdio.child).map_err(|error| system(&error))?;
        let identities = plan.spec.identities.as_ref().filter(|_| !plan.joins_user_namespace());
        let birth = Birth::new(&self.reaper, spawned);
        let (birth, resolver) = birth.mapped(identities, &plan.spec.network).await?;
        Ok((birth.ready(stdio, &plan.spec.process.settings).await?, resolver))
    }
}

/// The ids of a user namespace that is joined are those that it has. A neighbour that is in the guest's has none to join:
/// the container is in that one, too.
fn share_identities(
    spec: &mut ContainerSpec,
    mut neighbours: Vec<Neighbour>,
) -> Result<Vec<Neighbour>, Failure> {
    let Some(neighbour) = neighbours.iter_mut().find(|neighbour| neighbour.namespaces.user) else {
        return Ok(neighbours);
    };
    if spec.identities.is_some() && spec.identities != neighbour.identities {
        let message = "uidMappings and gidMappings are not those of the user namespace that is joined";
        return Err(Failure::new(FailureKind::InvalidRequest, message));
    }
    spec.identities.clone_from(&neighbour.identities);
    let has_ids = spec.identities.is_some();
    spec.namespaces.user = has_ids;
    neighbour.namespaces.user = has_ids;
    if let Some(upper) = &mut spec.upper {
        upper.in_user_namespace = has_ids;
    }
    Ok(neighbours)
}

/// A container without a network namespace of its own has the guest's, whose loopback nobody else needs.
fn guests_loopback() {
    // A kernel without it has no loopback to bring up; a workload that needs one will say so.
    if let Err(error) = network::bring_loopback_up() {
        kmsg::debug(|| format!("cannot bring the loopback interface up: {error}"));
    }
}

fn supervised(
    spec: ContainerSpec,
    cgroup: Cgroup,
    limits: Limits,
    (sockets, resolver): (Relays, Option<Serving>),
    init: Ready,
) -> Arc<Container> {
    let (init, control, relays) = init.into_parts();
    let container = Arc::new(Container {
        id: spec.id,
        init: Arc::new(init),
        namespaces: spec.namespaces,
        identities: spec.identities,
        confinement: spec.confinement,
        cgroup,
        limits,
        final_oom_kills: OnceLock::new(),
        resolver: Mutex::new(resolver),
        status: Status::Created.into(),
        control: Some(control).into(),
        others: Mutex::default(),
    });
    tokio::spawn(end::supervise(Arc::clone(&container), relays, sockets));
    container
}

/// A process in a user namespace can give its pipes to its user only if its root owns them.
pub(super) fn own_stdio(identities: Option<&IdentityMap>, stdio: &Stdio) -> Result<(), Failure> {
    let Some((uid, gid)) = identities.and_then(IdentityMap::root) else { return Ok(()) };
    for file in &stdio.child.stdio {
        if file_type(file)? == FileType::Fifo {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            fchown(file, Some(uid), Some(gid)).map_err(io::Error::from)?;
        }
    }
    Ok(())
}

fn system(error: &(impl std::error::Error + 'static)) -> Failure {
    Failure::from_error(FailureKind::System, error)
}
