//! `events`: figures of a container as runc prints them, and word of processes killed for want of memory.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use agent_protocol::agent as proto;
use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::{Value, json};

use super::flags::Global;
use crate::container::id::ContainerId;
use crate::container::record::{Record, Status};
use crate::container::store::Folder;
use crate::control::agent::{Agent, CallError};
use crate::failure::Failure;

/// How long after a container's figures its end may be heard of.
const GRACE: Duration = Duration::from_secs(2);

/// Print figures and events of a container, a line of JSON each
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print the figures once
    #[arg(long)]
    stats: bool,
    /// Time between figures
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

pub(super) fn main(arguments: &Arguments, global: &Global) -> Result<u8, Failure> {
    let (folder, record) = global.find(&arguments.id)?;
    if record.status() == Status::Stopped {
        return Err(anyhow!("container with id {} is not running", arguments.id).into());
    }
    if arguments.interval.is_zero() {
        return Err(anyhow!("duration interval must be greater than 0").into());
    }
    let mut agent = Agent::connect(&folder)?;
    if arguments.stats {
        print("stats", &arguments.id, &Some(figures(&mut agent, &record)?))?;
        return Ok(0);
    }
    follow(arguments, &folder, &record, &mut agent)
}

/// Until the container ends. A thread waits for the kernel's kills, as the agent answers when there are some.
fn follow(arguments: &Arguments, folder: &Folder, record: &Record, agent: &mut Agent) -> Result<u8, Failure> {
    let (kills, killed) = channel();
    let waiting = Agent::connect(folder)?;
    let request = proto::WaitOomRequest { container_id: record.guest_id(), ..Default::default() };
    thread::spawn(move || wait_for_kills(waiting, request, &kills));
    loop {
        match killed.recv_timeout(arguments.interval) {
            Ok(()) => print("oom", &arguments.id, &None)?,
            Err(RecvTimeoutError::Timeout) => match figures(agent, record) {
                Ok(figures) => print("stats", &arguments.id, &Some(figures))?,
                Err(error) => return last_kills(arguments, &killed, error),
            },
            Err(RecvTimeoutError::Disconnected) => return Ok(0),
        }
    }
}

/// Of a container that has no figures any more: it has ended, or the error is one.
fn last_kills(arguments: &Arguments, killed: &Receiver<()>, error: CallError) -> Result<u8, Failure> {
    loop {
        match killed.recv_timeout(GRACE) {
            Ok(()) => print("oom", &arguments.id, &None)?,
            Err(RecvTimeoutError::Disconnected) => return Ok(0),
            Err(RecvTimeoutError::Timeout) => return Err(error.into()),
        }
    }
}

/// Ends, and with it the channel, when the container does.
fn wait_for_kills(mut agent: Agent, mut request: proto::WaitOomRequest, kills: &Sender<()>) {
    while let Ok(answer) = agent.call_within(&request, None) {
        let new = answer.oom_kills.saturating_sub(request.seen);
        for _ in 0..new.min(1000) {
            if kills.send(()).is_err() {
                return;
            }
        }
        if answer.ended {
            return;
        }
        request.seen = answer.oom_kills;
    }
}

fn print(kind: &str, id: &ContainerId, data: &Option<Value>) -> Result<(), Failure> {
    let mut event = json!({ "type": kind, "id": id.as_str() });
    if let Some(data) = data {
        event["data"] = data.clone();
    }
    writeln!(io::stdout(), "{event}").context("cannot write to stdout")?;
    Ok(())
}

fn figures(agent: &mut Agent, record: &Record) -> Result<Value, CallError> {
    let request = proto::ContainerStatsRequest { container_id: record.guest_id(), ..Default::default() };
    Ok(to_runc(&agent.call(&request)?))
}

/// runc's document (its `types/events.go`).
fn to_runc(stats: &proto::ContainerStatsResponse) -> Value {
    let (cpu, memory, pids) = (&stats.cpu, &stats.memory, &stats.pids);
    let nanoseconds = |microseconds: u64| microseconds.saturating_mul(1000);
    let raw: BTreeMap<_, _> = memory.stat.iter().collect();
    let page_cache = memory.stat.get("file").copied().unwrap_or(0);
    let swap_max = memory.swap_limit_bytes.unwrap_or(u64::MAX);
    json!({
        "cpu": {
            "usage": {
                "total": nanoseconds(cpu.usage_microseconds),
                "kernel": nanoseconds(cpu.system_microseconds),
                "user": nanoseconds(cpu.user_microseconds),
            },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": nanoseconds(cpu.throttled_microseconds),
            },
        },
        "cpuset": {},
        "memory": {
            "cache": page_cache,
            "usage": {
                "limit": memory.limit_bytes.unwrap_or(u64::MAX),
                "usage": memory.usage_bytes,
                "max": memory.peak_bytes,
                "failcnt": memory.oom_kills,
            },
            "swap": { "limit": swap_max, "usage": memory.swap_usage_bytes, "failcnt": 0 },
            "kernel": { "limit": 0, "failcnt": 0 },
            "kernelTCP": { "limit": 0, "failcnt": 0 },
            "raw": raw,
        },
        "pids": { "current": pids.current, "limit": pids.limit.unwrap_or(0) },
        "blkio": block_io(&stats.io),
        "hugetlb": hugetlb(&stats.hugetlb),
        "intel_rdt": {},
        "network_interfaces": network(&stats.network),
    })
}

fn block_io(devices: &[proto::IoStats]) -> Value {
    let entry = |device: &proto::IoStats, op: &str, value: u64| json!({ "major": device.major, "minor": device.minor, "op": op, "value": value });
    let bytes = devices.iter().flat_map(|device| {
        [entry(device, "Read", device.read_bytes), entry(device, "Write", device.written_bytes)]
    });
    let operations = devices
        .iter()
        .flat_map(|device| [entry(device, "Read", device.reads), entry(device, "Write", device.writes)]);
    json!({
        "ioServiceBytesRecursive": bytes.collect::<Vec<_>>(),
        "ioServicedRecursive": operations.collect::<Vec<_>>(),
    })
}

fn hugetlb(sizes: &[proto::HugetlbStats]) -> Value {
    let entries = sizes.iter().map(|size| {
        let figures = json!({ "usage": size.usage_bytes, "failcnt": size.failures });
        (size.page_size.clone(), figures)
    });
    Value::Object(entries.collect())
}

fn network(interfaces: &[proto::NetworkStats]) -> Value {
    let entry = |interface: &proto::NetworkStats| {
        json!({
            "Name": interface.name,
            "RxBytes": interface.received_bytes,
            "RxPackets": interface.received_packets,
            "RxErrors": interface.received_errors,
            "RxDropped": interface.received_dropped,
            "TxBytes": interface.sent_bytes,
            "TxPackets": interface.sent_packets,
            "TxErrors": interface.sent_errors,
            "TxDropped": interface.sent_dropped,
        })
    };
    interfaces.iter().map(entry).collect()
}
