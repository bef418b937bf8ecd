//! The host process that stands for a process of `exec`: it has its streams and terminal, passes signals on, and ends
//! as it does. Killed, it takes the process along: the agent kills what a closed connection has made.
//!
//! With `--detach` it is a process of its own, started by [`super::launch`]; else the command itself.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use agent_protocol::agent as proto;
use agent_protocol::{AGENT_PORT, STREAM_PORT};
use protobuf::MessageField;

use super::boot::{connect_descriptors, introduce, one_terminal, separate};
use super::detached::announce_failure;
use super::launch;
use super::plan::{Announcement, Creator, ExecPlan};
use super::signals::Signals;
use super::workload::{OnSignal, ProcessEnd, Workload, refused};
use super::{ending, host};
use crate::bundle::to_agent;
use crate::container::store::Folder;
use crate::control::client::connect_to_guest;
use crate::failure::Failure;
use crate::host_cgroup;
use crate::io::descriptors::{Connect, Connected};
use crate::io::streams::{self, Streams};
use crate::io::terminal::{self, RawMode};
use crate::preserved::{self, Descriptor};
use crate::report::{self, EngineLog, Stderr};
use crate::sandbox::agent_client::AgentClient;
use crate::sandbox::inherited_fds::withhold_inherited_fds;

/// Reads the plan and follows it; returns the status with which to exit.
pub(crate) fn main(plan: OwnedFd, socket: OwnedFd, descriptors: Vec<OwnedFd>) -> u8 {
    let mut creator = Some(Creator::new(socket));
    let end = detached(plan, descriptors, &mut creator);
    match (end, creator) {
        (Ok(end), _) => ending::follow(end),
        (Err(failure), Some(creator)) => announce_failure(&creator, &failure),
        (Err(failure), None) => {
            report::error(failure.error.as_ref());
            failure.exit_code
        }
    }
}

fn detached(
    plan: OwnedFd,
    descriptors: Vec<OwnedFd>,
    creator: &mut Option<Creator>,
) -> Result<ProcessEnd, Failure> {
    withhold_inherited_fds()?;
    ending::forbid_core();
    let plan: ExecPlan = launch::read_plan(plan)?;
    let log = plan.log.as_deref().map(report::open_log).transpose()?;
    report::speak_to_engine(EngineLog { file: log, format: plan.log_format, stderr: Stderr::Containers });
    let descriptors = preserved::arrived(descriptors, &plan.descriptors);
    run(&plan, descriptors, |pid| {
        if let Some(creator) = creator.take() {
            creator.announce(&Announcement::Running { pid })?;
        }
        Ok(())
    })
}

/// Runs the process to its end. `started` is told this process's id once the program has been executed.
pub(crate) fn run(
    plan: &ExecPlan,
    descriptors: Vec<Descriptor>,
    started: impl FnOnce(u32) -> Result<(), Failure>,
) -> Result<ProcessEnd, Failure> {
    let folder = Folder::open(plan.folder.clone())?;
    host_cgroup::join(&plan.cgroups)?;
    let signals = Signals::block()?;
    let agent = AgentClient::new(connect_to_guest(&folder, AGENT_PORT)?)?;
    let wants_terminal = plan.process.terminal().unwrap_or(false);
    let (streams, tokens) = connect_streams(&folder, wants_terminal)?;
    let (connected, descriptors) = connect_more(plan, &folder, descriptors)?;
    let raw_mode = if wants_terminal { Some(RawMode::enter()?) } else { None };
    let (input, outputs) = streams.start(connected)?;

    // Unique among those of this container, as the process's number is on this host.
    let exec_id = format!("exec-{}", std::process::id());
    let mut workload = Workload {
        sandbox: None,
        signals: &signals,
        agent,
        container_id: plan.guest_id.clone(),
        exec_id,
        passed_on: None,
    };
    let mut process =
        to_agent::process(&plan.process, tokens).map_err(|error| Failure::of_monitor(error.into()))?;
    process.descriptors = descriptors;
    if wants_terminal {
        terminal::set_size(&mut process);
    }
    let request = proto::ExecProcessRequest {
        container_id: plan.guest_id.clone(),
        exec_id: workload.exec_id.clone(),
        process: MessageField::some(process),
        cgroup: plan.cgroup.clone(),
        ignore_paused: plan.ignore_paused,
        ..Default::default()
    };
    let answer = workload.call(&request, OnSignal::Abort).map_err(Failure::of_monitor)?;
    refused(answer.failure).map_err(Failure::of_monitor)?;
    let pending = workload.ask_for_end().map_err(Failure::of_monitor)?;
    started(std::process::id())?;
    input.start()?;
    let end = workload.wait_for_end(&pending).map_err(Failure::of_monitor)?;
    workload.drain(&outputs).map_err(Failure::of_monitor)?;
    drop(raw_mode);
    Ok(end)
}

/// The same as for the container's init, but each connection comes from the monitor.
fn connect_streams(folder: &Folder, terminal: bool) -> Result<(Streams, proto::Streams), Failure> {
    let connect = || -> Result<_, Failure> {
        let socket = connect_to_guest(folder, STREAM_PORT)?;
        introduce(socket).map_err(Failure::of_monitor)
    };
    if terminal {
        return Ok(one_terminal(connect()?));
    }
    let mut connected = [None, None, None];
    for (wanted, connected) in streams::connected().into_iter().zip(&mut connected) {
        if wanted {
            *connected = Some(connect()?);
        }
    }
    Ok(separate(connected))
}

/// The same for what it has open besides those.
fn connect_more(
    plan: &ExecPlan,
    folder: &Folder,
    descriptors: Vec<Descriptor>,
) -> Result<(Vec<Connected>, Vec<proto::Descriptor>), Failure> {
    if descriptors.is_empty() {
        return Ok(Default::default());
    }
    let later = Folder::open(plan.folder.clone())?;
    let later: Connect = Arc::new(move || connect_to_guest(&later, STREAM_PORT).map_err(io::Error::other));
    let now =
        || connect_to_guest(folder, STREAM_PORT).map_err(io::Error::other).map_err(host("reach the guest"));
    connect_descriptors(descriptors, &later, now).map_err(Failure::of_monitor)
}
