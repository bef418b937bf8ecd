//! `kill`: sends a signal to a container.

use std::str::FromStr;
use std::time::Duration;

use agent_protocol::agent as proto;
use anyhow::anyhow;
use clap::Args;
use nix::sys::signal::Signal;

use super::flags::Global;
use crate::container::id::ContainerId;
use crate::container::record::{Record, Status};
use crate::control::agent::{Agent, CallError};
use crate::control::client;
use crate::failure::Failure;

/// Send a signal to a container's init
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// To every process of the container
    #[arg(short, long)]
    all: bool,
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// A name, with or without SIG, or a number
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    signal: SignalNumber,
}

const SIGKILL: u32 = (Signal::SIGKILL as i32).unsigned_abs();

/// How long a guest may take to kill its container. After that, its machine is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a monitor may take that is about to end by itself, of which its guest is silent.
const GRACE: Duration = Duration::from_secs(2);

/// A signal as runc's command line takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SignalNumber(u32);

impl FromStr for SignalNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse::<u32>() {
            return Ok(Self(number));
        }
        let name = text.to_ascii_uppercase();
        let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
        let signal = name.parse::<Signal>().map_err(|_unknown| format!("unknown signal {text:?}"))?;
        Ok(Self((signal as i32).unsigned_abs()))
    }
}

pub(super) fn main(arguments: &Arguments, global: &Global) -> Result<u8, Failure> {
    let (folder, record) = global.find(&arguments.id)?;
    if record.status() == Status::Stopped {
        // With --all, runc has nothing to do and says so by success.
        return if arguments.all { Ok(0) } else { Err(anyhow!("container not running").into()) };
    }
    let request = proto::SignalProcessRequest {
        container_id: record.guest_id(),
        signal: arguments.signal.0,
        all: arguments.all,
        ..Default::default()
    };
    let is_kill = arguments.signal.0 == SIGKILL;
    let sent = if is_kill {
        Agent::connect_within(&folder, PATIENCE)
            .and_then(|mut agent| agent.call_within(&request, Some(PATIENCE)))
    } else {
        Agent::connect(&folder).and_then(|mut agent| agent.call(&request))
    };
    match sent {
        Ok(_) => Ok(0),
        // It ended between the look and the call.
        Err(CallError::Control(_) | CallError::Agent(_)) if record.status() == Status::Stopped => {
            if arguments.all { Ok(0) } else { Err(anyhow!("container not running").into()) }
        }
        // It has ended, but its machine may live on for others, and it has been asked to end before.
        Err(error) if error.says("takes no signals") => match arguments.signal.0 {
            SIGKILL if client::end_machine(&folder).is_ok() => Ok(0),
            _ => Err(anyhow!("container not running").into()),
        },
        Err(error) if is_kill && error.is_silence() => kill_from_outside(&record, &error),
        Err(error) => Err(error.into()),
    }
}

/// No guest can refuse this signal: with the monitor goes the machine, and to the engine the container has died of it.
fn kill_from_outside(record: &Record, silence: &CallError) -> Result<u8, Failure> {
    if !record.monitor.ends_within(GRACE)? {
        tracing::warn!(error = %silence, "the guest does not answer, so its machine is killed");
        record.monitor.kill()?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("9", 9), ("37", 37)] {
            assert_eq!(text.parse(), Ok(SignalNumber(number)));
        }
        assert!("NONE".parse::<SignalNumber>().is_err());
    }
}
