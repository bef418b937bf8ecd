//! PID 1 of the guest, as a recipe.
//!
//! `main` is the C library's, without what Rust's standard library does before its own: the kernel gives PID 1 its
//! three descriptors and no SIGPIPE, and a stack overflow ends the guest with or without a message. Under software
//! emulation, where code costs most when it runs for the first time, that is 1 % of a boot.

#![no_main]
#![allow(unsafe_code, reason = "a symbol's name is unsafe to choose: there must be no other `main`")]

use std::convert::Infallible;
use std::ffi::c_int;
use std::path::Path;
use std::sync::Arc;

use agent::container::Containers;
use agent::failure::{Failure, FailureKind};
use agent::process::executable;
use agent::reaper::Reaper;
use agent::service::Power;
use agent::streams::Streams;
use agent::vsock::{self, HostConnections};
use agent::{early, kmsg, power};

type Fatal = Box<dyn std::error::Error>;

/// Turns debug lines on when it is on the kernel command line.
const DEBUG_PARAMETER: &str = "runv_debug";

/// Where the kernel takes PID 1 from.
const PROGRAM: &str = "/init";

#[unsafe(no_mangle)]
extern "C" fn main() -> c_int {
    kmsg::report_panics();
    if std::env::args_os().any(|argument| argument == DEBUG_PARAMETER) {
        kmsg::enable_debug();
    }
    let Err(error) = run();
    kmsg::fatal(&Failure::from_error(FailureKind::System, &*error));
    // The end of PID 1 is the end of the guest, and the VMM reports it.
    1
}

fn run() -> Result<Infallible, Fatal> {
    let places = early::prepare()?;
    executable::remember_own(Path::new(PROGRAM));
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
