//! The process of a container that goes into the machine of another: the same to its engine as any (`detached`), but what
//! it has of the machine is a place in it (`control::client::Seat`). Its end gives the place up, its sudden death too.

use std::io;
use std::time::Duration;

use agent_protocol::agent as proto;

use super::boot::Boot;
use super::detached::{Resident, Traces, announce_failure, settle, start_scope, tell};
use super::plan::{Announcement, Creator, MonitorPlan};
use super::signals::Signals;
use super::workload::ProcessEnd;
use super::{MonitorError, host};
use crate::bundle::load::Bundle;
use crate::bundle::place::Place;
use crate::bundle::socket_binds::host_sockets;
use crate::config;
use crate::container::membership::Membership;
use crate::container::record::Member;
use crate::container::store::Folder;
use crate::control::client::{self, ControlError, Seat};
use crate::control::server::Guest;
use crate::failure::Failure;
use crate::host_cgroup;
use crate::preserved::Descriptor;
use crate::report;
use crate::sandbox::prepare::Share;
use crate::sandbox::socket_relay::{self, Server};

/// How long the agent of a guest that runs may take to accept connections.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the machine's monitor may take to end when its machine has, which may be noticed before.
const GRACE: Duration = Duration::from_secs(5);

/// Makes the container that is planned, and follows it; returns the status with which to exit.
pub(super) fn main(
    plan: &MonitorPlan,
    membership: &Membership,
    descriptors: Vec<Descriptor>,
    creator: Creator,
) -> u8 {
    match create(plan, membership, descriptors, &creator) {
        Ok(container) => container.live(creator),
        Err(failure) => announce_failure(&creator, &failure),
    }
}

struct Container<'plan> {
    plan: &'plan MonitorPlan,
    folder: Folder,
    place: Place,
    upper_mib: Option<u32>,
    seat: Seat,
    /// Until it is there.
    traces: Option<Traces>,
    descriptors: Vec<Descriptor>,
    signals: Signals,
}

/// Makes all of the container that is on the host.
fn create<'plan>(
    plan: &'plan MonitorPlan,
    membership: &Membership,
    descriptors: Vec<Descriptor>,
    creator: &Creator,
) -> Result<Container<'plan>, Failure> {
    let folder = settle(plan)?;
    let bundle = Bundle { directory: plan.bundle.clone(), spec: plan.spec.clone() };
    let signals = Signals::block()?;
    let config = config::load(plan.config.as_deref())?;
    let Share { tree, upper_mib } = Share::prepare(&config, &bundle)?;
    let traces = Some(Traces::open(&bundle, upper_mib.is_some())?);
    let sandbox = Folder::open(membership.sandbox.clone())?;
    let seat = client::join(&sandbox, &tree).map_err(|error| match error {
        ControlError::Gone => Failure::of_monitor(ended(plan)),
        other => other.into(),
    })?;
    // Without limits: the machine is elsewhere.
    if let Some(scope) = &plan.scope {
        start_scope(plan, scope, &folder, host_cgroup::limits::properties(None, None))?;
    }
    let member = Member { sandbox: membership.sandbox.clone(), number: seat.number };
    folder.update(|record| record.member = Some(member))?;
    let place = Place { number: seat.number, joined: membership.joined.clone() };
    for socket in host_sockets(&place, &plan.spec) {
        let listener = seat.directory.listen_for_guest(socket.port)?;
        socket_relay::start(listener, Server::Unix(socket.path))?;
    }
    creator.announce(&Announcement::Prepared)?;
    Ok(Container { plan, folder, place, upper_mib, seat, traces, descriptors, signals })
}

impl Container<'_> {
    /// To the end of the workload, or of the machine.
    fn live(mut self, creator: Creator) -> u8 {
        let mut creator = Some(creator);
        let end = self.run(&mut creator).map_err(|error| {
            if error.may_follow_a_death() && self.seat.is_lost_within(GRACE) {
                ended(self.plan)
            } else {
                error
            }
        });
        let left = self.seat.leave();
        match (&end, left) {
            (Ok(_), Err(ControlError::Gone | ControlError::Refused { .. })) => {
                report::error(&ended(self.plan))
            }
            (Ok(_), Err(error)) => report::warning(&report::chain(&error)),
            _ => {}
        }
        tell(end, creator)
    }

    fn run(&mut self, creator: &mut Option<Creator>) -> Result<ProcessEnd, MonitorError> {
        let directory = || -> io::Result<_> { self.seat.directory.try_clone() };
        let guest = Guest { directory: directory().map_err(host("duplicate a descriptor"))?, members: None };
        let boot =
            Boot::of_another(directory().map_err(host("duplicate a descriptor"))?, &self.signals, PATIENCE);
        let (plan, place, upper_mib) = (self.plan, &self.place, self.upper_mib);
        let resident = Resident {
            plan,
            place,
            upper_mib,
            network: proto::Network::default(),
            live: None,
            descriptors: std::mem::take(&mut self.descriptors),
            folder: &self.folder,
        };
        Ok(resident.live_in(boot, guest, self.traces.take(), creator)?.1)
    }
}

/// The machine has gone.
fn ended(plan: &MonitorPlan) -> MonitorError {
    let sandbox = plan.membership.as_ref().and_then(|membership| membership.sandbox.file_name());
    MonitorError::SandboxEnded(sandbox.unwrap_or_default().to_string_lossy().into_owned())
}
