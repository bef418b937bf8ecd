//! The process that is a container to its engine: its pid is in the pid file, its end is the workload's.
//!
//! `create` starts it and waits for what it announces; from then on commands reach it by the control socket alone.
//! It has the container's streams and terminal, sits in its cgroup and network namespace, and its death, however it
//! comes, takes the machine along.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use agent_protocol::agent as proto;
use oci_spec::runtime::{LinuxResources, Spec};
use rustix::fs::{Mode, OFlags, openat};

use super::boot::Boot;
use super::ending;
use super::launch;
use super::machine::{self, Machine};
use super::member;
use super::plan::{Announcement, Creator, MonitorPlan};
use super::relay;
use super::signals::Signals;
use super::workload::{Awaited, OnSignal, ProcessEnd, Workload};
use super::{MonitorError, death, host};
use crate::bundle::load::Bundle;
use crate::bundle::place::Place;
use crate::bundle::sources;
use crate::config;
use crate::container::process::ProcessId;
use crate::container::record::Status;
use crate::container::state::State;
use crate::container::store::Folder;
use crate::container_view::ContainerView;
use crate::control::members::Members;
use crate::control::message::{Answer, cut};
use crate::control::server::{self, Guest, Starts};
use crate::exit_code;
use crate::failure::Failure;
use crate::host_cgroup;
use crate::host_cgroup::properties::Properties;
use crate::host_cgroup::systemd::{self, Scope, StartedScope};
use crate::host_namespace::{self, HostNetwork};
use crate::host_oom;
use crate::io::streams::Input;
use crate::io::terminal::RawMode;
use crate::network::{self, Live, Watched};
use crate::preserved::{self, Descriptor};
use crate::report::{self, EngineLog, Stderr};
use crate::sandbox::inherited_fds::withhold_inherited_fds;
use crate::sandbox::prepare::prepare;
use crate::sandbox::start::Sandbox;

/// The file in the bundle that says that processes of the container were killed for want of memory.
const OOM: &str = "oom";

/// Reads the plan and follows it; returns the status with which to exit.
pub(crate) fn main(plan: OwnedFd, socket: OwnedFd, descriptors: Vec<OwnedFd>) -> u8 {
    let creator = Creator::new(socket);
    let plan: MonitorPlan = match launch::read_plan(plan) {
        Ok(plan) => plan,
        Err(error) => return announce_failure(&creator, &Failure::from(error)),
    };
    let descriptors = preserved::arrived(descriptors, &plan.descriptors);
    if let Some(membership) = &plan.membership {
        return member::main(&plan, membership, descriptors, creator);
    }
    match create(&plan, descriptors, &creator) {
        Ok(container) => container.live(creator),
        Err(failure) => announce_failure(&creator, &failure),
    }
}

/// Before the container is there, its creator tells of the failure.
pub(super) fn announce_failure(creator: &Creator, failure: &Failure) -> u8 {
    let message = cut(&report::chain(failure.error.as_ref()));
    let failed = Announcement::Failed { message, exit_code: failure.exit_code };
    // A creator that has gone has nobody to tell either.
    let _ = creator.announce(&failed);
    failure.exit_code
}

/// A sandbox whose guest is ready for the container.
struct Container<'plan> {
    plan: &'plan MonitorPlan,
    folder: Folder,
    /// Until it is there.
    traces: Option<Traces>,
    /// What the agent is to make of the network, and the host's half of it.
    network: proto::Network,
    live: Option<Live>,
    descriptors: Vec<Descriptor>,
    sandbox: Sandbox,
    signals: Signals,
    boot_timeout: std::time::Duration,
}

/// What the host sees of the container besides its process.
pub(super) struct Traces {
    view: ContainerView,
    /// The bundle's folder.
    bundle: OwnedFd,
}

impl Traces {
    /// Opened by the host's paths, before the monitor gives those up.
    pub(super) fn open(bundle: &Bundle, has_upper: bool) -> Result<Self, Failure> {
        let sources = sources::find(&bundle.spec, &bundle.directory)?;
        let view = ContainerView::open(&bundle.spec, &sources, has_upper)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { view, bundle: rustix::fs::open(&bundle.directory, flags, Mode::empty())? })
    }
}

/// Becomes the container's process on the host: in its record, its cgroups and its network namespace.
pub(super) fn settle(plan: &MonitorPlan) -> Result<Folder, Failure> {
    withhold_inherited_fds()?;
    ending::forbid_core();
    let log = plan.log.as_deref().map(report::open_log).transpose()?;
    report::speak_to_engine(EngineLog { file: log, format: plan.log_format, stderr: Stderr::Containers });
    let folder = Folder::open(plan.folder.clone())?;
    let own = ProcessId::own()?;
    if plan.scope.is_none() {
        host_cgroup::refuse_taken(&plan.cgroups)?;
    }
    // What is about to be made is known before it is, so that whoever cleans up knows where to look. A scope is another's
    // until systemd has said that it is this container's, and ends with this process.
    folder.update(|record| {
        record.monitor = own;
        if plan.scope.is_none() {
            record.cgroups.clone_from(&plan.cgroups);
        }
    })?;
    if plan.scope.is_none() {
        host_cgroup::join(&plan.cgroups)?;
    }
    host_namespace::enter_network(&plan.spec)?;
    Ok(folder)
}

/// Makes all of the container that is on the host.
fn create<'plan>(
    plan: &'plan MonitorPlan,
    descriptors: Vec<Descriptor>,
    creator: &Creator,
) -> Result<Container<'plan>, Failure> {
    let hosts = HostNetwork::here()?;
    let folder = settle(plan)?;
    let is_own = hosts.is_left()?;
    let config = config::load(plan.config.as_deref())?;
    let bundle = Bundle { directory: plan.bundle.clone(), spec: plan.spec.clone() };
    let prepared = prepare(&config, &bundle)?;
    let traces = Traces::open(&bundle, prepared.has_upper())?;
    if let Some(scope) = &plan.scope {
        let properties = host_cgroup::limits::properties(resources(&plan.spec), Some(prepared.memory_mib()));
        start_scope(plan, scope, &folder, properties)?;
    }
    host_cgroup::limits::limit_new(&plan.cgroups, resources(&plan.spec), prepared.memory_mib())?;
    let signals = Signals::block()?;
    let waits = is_own && network::may_come_with_hooks(&plan.spec);
    if waits {
        creator.announce(&Announcement::Prepared)?;
        creator.wait()?;
    }
    let Machine { sandbox, boot_timeout, network, live } = machine::start(prepared, &plan.spec, is_own)?;
    let children = [sandbox.vm.pid(), sandbox.devices.pid()].map(ProcessId::of);
    let children = children.into_iter().collect::<io::Result<Vec<_>>>()?;
    folder.update(|record| record.children = children)?;
    if !waits {
        creator.announce(&Announcement::Prepared)?;
    }
    Ok(Container {
        plan,
        folder,
        traces: Some(traces),
        network,
        live,
        descriptors,
        sandbox,
        signals,
        boot_timeout,
    })
}

/// systemd takes this process into the scope; what hierarchies it does not use are joined here.
pub(super) fn start_scope(
    plan: &MonitorPlan,
    scope: &Scope,
    folder: &Folder,
    properties: Properties,
) -> Result<(), Failure> {
    let order = systemd::Order {
        scope: scope.clone(),
        id: folder.read()?.id.as_str().to_owned(),
        pid: std::process::id(),
        version_2: host_cgroup::is_version_2(&plan.cgroups),
        properties,
    };
    let invocation = systemd::ask(&systemd::Request::Start(order))?;
    folder.update(|record| {
        record.cgroups.clone_from(&plan.cgroups);
        record.scope = Some(StartedScope { scope: scope.clone(), invocation });
    })?;
    Ok(host_cgroup::join(&plan.cgroups)?)
}

/// The time of the CPU, from now on: until now, the machine has booted.
fn limit_time(plan: &MonitorPlan) -> Result<(), Failure> {
    host_cgroup::limits::limit_time(&plan.cgroups, resources(&plan.spec))?;
    let time = host_cgroup::limits::time_property(resources(&plan.spec));
    if let (Some(scope), Some(_)) = (&plan.scope, time) {
        let change = systemd::Change {
            scope: scope.clone(),
            version_2: host_cgroup::is_version_2(&plan.cgroups),
            properties: Properties { time, ..Default::default() },
        };
        systemd::ask(&systemd::Request::Set(change))?;
    }
    Ok(())
}

fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux().as_ref().and_then(|linux| linux.resources().as_ref())
}

impl Container<'_> {
    /// To the end of the workload, or of what it runs in.
    fn live(mut self, creator: Creator) -> u8 {
        let mut creator = Some(creator);
        let end = self.run(&mut creator).map_err(|error| death::behind(&mut self.sandbox, error));
        // Kills and reaps what is left: who waits for this process may rely on all of it being gone.
        drop(self);
        tell(end, creator)
    }

    fn run(&mut self, creator: &mut Option<Creator>) -> Result<ProcessEnd, MonitorError> {
        let members = Members::of(&self.sandbox).map_err(host("duplicate a descriptor"))?;
        let members = Arc::new(members);
        let directory = self.sandbox.directory.try_clone().map_err(host("duplicate a descriptor"))?;
        let mut boot = Boot::new(&mut self.sandbox, &self.signals, self.boot_timeout)?;
        boot.hello()?;
        let guest = Guest { directory, members: Some(Arc::clone(&members)) };
        let place = Place::of_owner();
        let upper_mib = boot.sandbox.as_ref().and_then(|sandbox| sandbox.size.rootfs_upper_mib);
        let resident = Resident {
            plan: self.plan,
            place: &place,
            upper_mib,
            network: std::mem::take(&mut self.network),
            live: self.live.take(),
            descriptors: std::mem::take(&mut self.descriptors),
            folder: &self.folder,
        };
        let (mut workload, end) = resident.live_in(boot, guest, self.traces.take(), creator)?;
        members.close();
        while members.keep_the_machine() && workload.wait_for(members.as_fd())? {
            members.note_change().map_err(host("read a pipe"))?;
        }
        members.end();
        workload.shut_down();
        Ok(end)
    }
}

/// Ends this process as its container did; returns the status with which to exit.
pub(super) fn tell(end: Result<ProcessEnd, MonitorError>, creator: Option<Creator>) -> u8 {
    match (end, creator) {
        (Ok(end), _) => ending::follow(end),
        (Err(error), Some(creator)) => announce_failure(&creator, &Failure::of_monitor(error)),
        // `start` has told of it.
        (Err(error @ MonitorError::NotStarted { .. }), None) => error.exit_code(),
        (Err(error), None) => {
            report::error(&error);
            error.exit_code()
        }
    }
}

/// A container and its place in a guest, whoever's that is.
pub(super) struct Resident<'a> {
    pub(super) plan: &'a MonitorPlan,
    pub(super) place: &'a Place,
    /// Of the layer in the guest that takes its writes, if there is one.
    pub(super) upper_mib: Option<u32>,
    /// What the guest gets of the host's network.
    pub(super) network: proto::Network,
    /// The host's half of it.
    pub(super) live: Option<Live>,
    /// What its process has open from 3 on.
    pub(super) descriptors: Vec<Descriptor>,
    pub(super) folder: &'a Folder,
}

impl Resident<'_> {
    /// Has the container made, and follows it to its end, until the last of its output has been taken. Commands reach
    /// it meanwhile.
    pub(super) fn live_in<'boot>(
        mut self,
        boot: Boot<'boot>,
        guest: Guest,
        traces: Option<Traces>,
        creator: &mut Option<Creator>,
    ) -> Result<(Workload<'boot>, ProcessEnd), MonitorError> {
        if let Some(creator) = creator.as_ref() {
            creator.wait().map_err(host("wait for the hooks"))?;
        }
        let state = hook_state(self.folder).map_err(host("say the container's state"))?;
        let given = (self.network.clone(), std::mem::take(&mut self.descriptors));
        let (mut workload, (streams, descriptors)) =
            relay::create(boot, (self.place, self.upper_mib), &self.plan.spec, state, given)?;
        let network = self.watch_network(&guest, &workload.container_id)?;
        let (input, outputs) = streams.start(descriptors).map_err(host("start copying streams"))?;
        let raw_mode = if relay::wants_terminal(&self.plan.spec) { Some(RawMode::enter()?) } else { None };
        let starts = server::serve(self.folder, guest).map_err(host("serve the control socket"))?;
        if self.place.number == 0 {
            let limited = limit_time(self.plan).map_err(|failure| io::Error::other(failure.error));
            limited.map_err(host("limit the machine's time"))?;
        }
        let herald = host_oom::Herald::start(self.plan.cgroups.clone()).map_err(host("start a thread"))?;
        // What goes by the host's paths has been done, or has a thread.
        let bundle = match traces {
            Some(Traces { view, bundle }) => {
                let folder = Folder::open(self.plan.folder.clone()).map_err(io::Error::other);
                view.enter(folder.map_err(host("open the container's folder"))?)?;
                Some(bundle)
            }
            None => None,
        };
        set_status(self.folder, Status::Created)?;
        if let Some(creator) = creator.take() {
            let announced = creator.announce(&Announcement::Created);
            announced.map_err(host("tell of the container"))?;
        }
        let end = follow(&mut workload, (starts, network), input, self.folder)?;
        if let Some(bundle) = bundle {
            tell_of_oom_kills(&mut workload, &bundle, herald);
        }
        workload.drain(&outputs)?;
        drop(raw_mode);
        Ok((workload, end))
    }

    /// Has changes of its network reach the guest.
    fn watch_network(&mut self, guest: &Guest, container_id: &str) -> Result<Option<Watched>, MonitorError> {
        let Some(live) = self.live.take() else { return Ok(None) };
        let directory = guest.directory.try_clone().map_err(host("duplicate a descriptor"))?;
        let watched = live.watch(directory, container_id.to_owned());
        watched.map(Some).map_err(host("watch the container's network"))
    }
}

/// From `created` to the end.
fn follow(
    workload: &mut Workload<'_>,
    (mut starts, mut network): (Starts, Option<Watched>),
    input: Input,
    folder: &Folder,
) -> Result<ProcessEnd, MonitorError> {
    let pending = workload.ask_for_end()?;
    let mut input = Some(input);
    loop {
        if let Awaited::End(end) = workload.wait_for_end_or(&pending, Some(starts.as_fd()))? {
            return Ok(end);
        }
        let Some(request) = starts.take() else { continue };
        let Some(input) = input.take() else {
            request.answer(&failed(&"cannot start an already running container", exit_code::OWN_ERROR));
            continue;
        };
        // Some engines make the network after `create`, and the workload is to find it.
        network.take().iter().for_each(Watched::catch_up);
        let started = start(workload, input, folder);
        match &started {
            Ok(()) => request.answer(&Answer::Done),
            Err(error) => {
                // This process ends in a moment. Who asks until then must not find a container that waits for its
                // start; that it cannot be written changes nothing.
                let _ = set_status(folder, Status::Stopped);
                request.answer(&failed(&report::chain(error), error.exit_code()));
            }
        }
        started?;
    }
}

/// Engines cannot ask, but podman takes a file `oom` in the bundle for word of it, and others watch the host's cgroup.
fn tell_of_oom_kills(workload: &mut Workload<'_>, bundle: &OwnedFd, herald: host_oom::Herald) {
    let request = proto::WaitOomRequest { container_id: workload.container_id.clone(), ..Default::default() };
    // Answered at once: the container has ended.
    let written = workload.call(&request, OnSignal::Forward).and_then(|answer| {
        if answer.oom_kills == 0 {
            return Ok(());
        }
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(bundle, OOM, flags, Mode::from_raw_mode(0o600));
        file.map(drop).map_err(host("write to the bundle"))?;
        herald.tell().map_err(io::Error::other).map_err(host("make the host's cgroup tell"))
    });
    if let Err(error) = written {
        report::warning(&format!("cannot tell of a lack of memory: {}", report::chain(&error)));
    }
}

fn start(workload: &mut Workload<'_>, input: Input, folder: &Folder) -> Result<(), MonitorError> {
    input.start().map_err(host("start copying stdin"))?;
    relay::start(workload)?;
    set_status(folder, Status::Running)
}

/// What startContainer hooks read, but for the pid, which is one of the guest's.
fn hook_state(folder: &Folder) -> io::Result<String> {
    let record = folder.read().map_err(io::Error::other)?;
    let state = State { pid: 0, ..State::with_status(&record, Status::Created) };
    Ok(state.for_hooks())
}

fn set_status(folder: &Folder, status: Status) -> Result<(), MonitorError> {
    let updated = folder.update(|record| record.last_status = status);
    updated.map(|_record| ()).map_err(io::Error::other).map_err(host("write the container's state"))
}

fn failed(message: &impl ToString, exit_code: u8) -> Answer {
    Answer::Failed { message: cut(&message.to_string()), exit_code }
}
