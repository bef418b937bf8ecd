//! A workload in the foreground: made and started at once, its streams those of this process.

use std::time::Duration;

use agent_protocol::agent as proto;
use oci_spec::runtime::Spec;

use super::boot::Boot;
use super::machine::Machine;
use super::signals::Signals;
use super::workload::{OnSignal, Workload, refused};
use super::{MonitorError, death, host};
use crate::bundle::place::Place;
use crate::bundle::to_agent;
use crate::io::descriptors::Connected;
use crate::io::streams::Streams;
use crate::io::terminal::{self, RawMode};
use crate::network::Live;
use crate::preserved::Descriptor;
use crate::sandbox::start::Sandbox;

/// Runs the workload of `spec` in a machine that boots; returns the exit status.
pub(crate) fn run(machine: Machine, signals: &Signals, spec: &Spec) -> Result<u8, MonitorError> {
    let Machine { mut sandbox, boot_timeout, network, live } = machine;
    follow(&mut sandbox, signals, spec, boot_timeout, (network, live))
        .map_err(|error| death::behind(&mut sandbox, error))
}

fn follow(
    sandbox: &mut Sandbox,
    signals: &Signals,
    spec: &Spec,
    boot_timeout: Duration,
    (network, live): (proto::Network, Option<Live>),
) -> Result<u8, MonitorError> {
    let directory = sandbox.directory.try_clone().map_err(host("duplicate a descriptor"))?;
    let mut boot = Boot::new(sandbox, signals, boot_timeout)?;
    boot.hello()?;
    let upper_mib = boot.sandbox.as_ref().and_then(|sandbox| sandbox.size.rootfs_upper_mib);
    let place = (&Place::of_owner(), upper_mib);
    let given = (network, Vec::new());
    let (mut workload, (streams, _none)) = create(boot, place, spec, String::new(), given)?;
    let watched = live.map(|live| live.watch(directory, workload.container_id.clone()));
    let _watched = watched.transpose().map_err(host("watch the container's network"))?;
    let (input, outputs) = streams.start(Vec::new()).map_err(host("start copying streams"))?;
    let raw_mode = if wants_terminal(spec) { Some(RawMode::enter()?) } else { None };
    input.start().map_err(host("start copying stdin"))?;
    start(&mut workload)?;
    let pending = workload.ask_for_end()?;
    let end = workload.wait_for_end(&pending)?;
    workload.drain(&outputs)?;
    drop(raw_mode);
    workload.shut_down();
    Ok(end.exit_code())
}

/// Has the agent make the container, once it has said hello.
/// `state` is for the hooks that run in the guest. What it is given of the host's: network, and descriptors from 3 on.
pub(crate) fn create<'a>(
    mut boot: Boot<'a>,
    (place, upper_mib): (&Place, Option<u32>),
    spec: &Spec,
    state: String,
    (network, descriptors): (proto::Network, Vec<Descriptor>),
) -> Result<(Workload<'a>, (Streams, Vec<Connected>)), MonitorError> {
    let terminal = wants_terminal(spec);
    let agent = boot.connect_agent()?;
    let (streams, tokens) = if terminal { boot.connect_terminal()? } else { boot.connect_streams()? };
    let (connected, descriptors) = boot.connect_descriptors(descriptors)?;
    let Boot { sandbox, signals, .. } = boot;
    let (container_id, exec_id) = (place.container_id(), String::new());
    let mut workload = Workload { sandbox, signals, agent, container_id, exec_id, passed_on: None };

    let mut request = to_agent::create_request(place, spec, tokens)?;
    request.state = state;
    if !network.interfaces.is_empty() {
        request.network = Some(network).into();
    }
    if let Some(root) = request.root.as_mut() {
        root.tmpfs_upper_bytes = u64::from(upper_mib.unwrap_or(0)) << 20;
    }
    if terminal && let Some(process) = request.process.as_mut() {
        terminal::set_size(process);
    }
    if let Some(process) = request.process.as_mut() {
        process.descriptors = descriptors;
    }
    let created = workload.call(&request, OnSignal::Abort)?;
    refused(created.failure)?;
    Ok((workload, (streams, connected)))
}

/// Has the agent execute the workload.
pub(crate) fn start(workload: &mut Workload<'_>) -> Result<(), MonitorError> {
    let container_id = workload.container_id.clone();
    let start = proto::StartContainerRequest { container_id, ..Default::default() };
    let started = workload.call(&start, OnSignal::Forward)?;
    refused(started.failure)
}

/// Whether the workload gets a terminal.
pub(crate) fn wants_terminal(spec: &Spec) -> bool {
    spec.process().as_ref().is_some_and(|process| process.terminal().unwrap_or(false))
}
