//! PID 1 of the guest, as a recipe.

use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::Arc;

use agent::container::Containers;
use agent::failure::{Failure, FailureKind};
use agent::reaper::Reaper;
use agent::service::Power;
use agent::streams::Streams;
use agent::vsock::{self, HostConnections};
use agent::{early, kmsg, power};

type Fatal = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    kmsg::report_panics();
    let Err(error) = run();
    kmsg::fatal(&Failure::from_error(FailureKind::System, &*error));
    // The end of PID 1 is the end of the guest, and the VMM reports it.
    ExitCode::FAILURE
}

fn run() -> Result<Infallible, Fatal> {
    let places = early::prepare()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let reaper = Reaper::start()?;
        let streams = Arc::new(Streams::default());
        let power = Arc::new(Power::default());
        tokio::spawn(HostConnections::for_streams()?.feed(Arc::clone(&streams)));
        let containers = Arc::new(Containers::new(places, reaper, streams));
        tokio::spawn(HostConnections::for_rpc()?.serve(containers, Arc::clone(&power)));
        vsock::say_ready().await?;
        kmsg::debug(|| "ready".to_owned());
        power.may_go_off().await;
        Err(power::off().into())
    })
}
