//! The network of a container, between it and this host: beside runc, which has the same veth without a machine behind it. Here
//! the guest is emulated, so that a ratio says how much that costs.

use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::network::{Namespace, ip};
use e2e::{Bundle, Deadline, Process, Program, Role, Runtime};
use rustix::process::Pid;
use serde_json::json;

use crate::emulation::median;
use crate::iperf;
use crate::report::Measurement;

/// Size of a stream, requests and connections one after the other, datagrams, and starts.
const STREAM_MIB: usize = 256;
const REQUESTS: usize = 1000;
const CONNECTIONS: usize = 200;
const DATAGRAMS: usize = 20_000;
const STARTS: usize = 5;

/// How long a socket waits for what may be lost.
const SILENCE: Duration = Duration::from_millis(500);

/// `place` says where, as figures of several places are put together.
pub(crate) fn measure(place: &str, guests: &Path) -> Result<Vec<Measurement>> {
    let ours = Figures::of(Program::Runv, 1, guests)?;
    let runc = Figures::of(Program::Runc, 2, guests)?;
    let mut all = Vec::new();
    for (name, unit, value) in ours.0 {
        let peer = runc.0.iter().find(|(other, _, _)| *other == name);
        let one = Measurement::new("B13", format!("{name} ({place}, noisy)"), value, unit);
        // What the host's kernel does for runc's is nobody's process.
        all.push(if let Some((_, _, value)) = peer { one.peer("runc", *value) } else { one });
    }
    Ok(all)
}

/// Names, units and values.
struct Figures(Vec<(&'static str, &'static str, f64)>);

impl Figures {
    fn of(program: Program, number: u8, guests: &Path) -> Result<Self> {
        let namespace = Namespace::new(number)?;
        let bundle = Bundle::shell("exec probe echo 80")?;
        iperf::install(guests, &bundle)?;
        let alone = started(&Runtime::of(program, &bundle)?)?;
        let bundle = inside(bundle, &namespace)?;
        let runtime = Runtime::of(program, &bundle)?;
        let added = started(&runtime)? - alone;
        runtime.run_detached("c1")?;
        let to = format!("10.77.{number}.2:80");
        Deadline::generous()?.wait_for("the server", || Ok(TcpStream::connect(&to).ok()))?;
        // Nobody need ask for addresses.
        let (host, peer) = (format!("10.77.{number}.1"), namespace.peer());
        ip(&format!("neigh replace 10.77.{number}.2 lladdr {} dev {peer}", namespace.mac()))?;
        let devices = devices_of(&runtime)?;
        let mut figures = Vec::new();
        // A figure, and the time that the device process was on a processor for each of so many.
        let mut add =
            |(name, unit): Named, of_devices: Named, act: &dyn Fn() -> Result<(f64, f64)>| -> Result<()> {
                let before = devices.as_ref().map(on_processors).transpose()?;
                let (value, count) = act()?;
                figures.push((name, unit, value));
                if let (Some(devices), Some(before)) = (&devices, before) {
                    figures.push((of_devices.0, of_devices.1, (on_processors(devices)? - before) / count));
                }
                Ok(())
            };
        let (mib, each) = ("us/MiB", "us");
        add(("TCP to the container", "MiB/s"), ("TCP to the container: device process", mib), &|| {
            iperf::stream(guests, &runtime, &host, STREAM_MIB, true)
        })?;
        add(("TCP from the container", "MiB/s"), ("TCP from the container: device process", mib), &|| {
            iperf::stream(guests, &runtime, &host, STREAM_MIB, false)
        })?;
        add(
            ("datagrams of 64 bytes from the container", "1/s"),
            ("a datagram from the container: device process", each),
            &|| datagrams(&runtime, &host),
        )?;
        add(
            ("datagrams of 64 bytes to the container", "1/s"),
            ("a datagram to the container: device process", each),
            &|| datagrams_in(&runtime, &bundle, &format!("10.77.{number}.2:9")),
        )?;
        let requests = f64::from(u32::try_from(REQUESTS)?);
        let most = Cell::new(0.0);
        add(("a byte and back, median", "us"), ("a byte and back: device process", each), &|| {
            let (half, of_99) = latency(&to)?;
            most.set(of_99);
            Ok((half, requests))
        })?;
        figures.push(("a byte and back, 99th of 100", "us", most.get()));
        figures.push(("connections, one after the other", "1/s", connections(&to)?));
        figures.push(("start, with an interface less without", "ms", added));
        Ok(Self(figures))
    }
}

fn inside(bundle: Bundle, namespace: &Namespace) -> Result<Bundle> {
    bundle.edit(|spec| {
        let list = spec["linux"]["namespaces"].as_array_mut();
        for one in list.into_iter().flatten().filter(|one| one["type"] == "network") {
            one["path"] = json!(namespace.path());
        }
    })
}

/// A name and a unit.
type Named = (&'static str, &'static str);

/// The device process of the container, if it has one.
fn devices_of(runtime: &Runtime<'_>) -> Result<Option<Process>> {
    let pid = Pid::from_raw(runtime.read("pid").parse()?).context("process 0")?;
    Process::part(pid, Role::Devices)
}

/// Microseconds of all of its threads.
fn on_processors(process: &Process) -> Result<f64> {
    let mut sum = 0.0;
    for thread in fs::read_dir(format!("/proc/{}/task", process.pid.as_raw_nonzero()))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        sum += text.split_whitespace().next().context("no time")?.parse::<f64>()? / 1000.0;
    }
    Ok(sum)
}

/// Milliseconds of `run --detach`.
fn started(runtime: &Runtime<'_>) -> Result<f64> {
    let mut all = Vec::new();
    for _ in 0..STARTS {
        let begin = Instant::now();
        runtime.run_detached("c0")?;
        all.push(begin.elapsed().as_secs_f64() * 1000.0);
        runtime.call(&["delete", "--force", "c0"])?.expect(0)?;
    }
    Ok(median(all))
}

/// Those that arrive in the container in a second, and how many did.
fn datagrams_in(runtime: &Runtime<'_>, bundle: &Bundle, to: &str) -> Result<(f64, f64)> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let listening = bundle.rootfs().join("counting");
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| runtime.call(&["exec", "c1", "sh", "-c", "probe count 9 /counting"]));
        Deadline::generous()?.wait_for("the socket", || Ok(listening.exists().then_some(())))?;
        for _ in 0..DATAGRAMS {
            // What does not go is lost, as what is dropped on its way.
            let _ = socket.send_to(&[0; 64], to);
        }
        let said = ended.join().map_err(|_| anyhow::anyhow!("exec panicked"))??.expect(0)?.stdout;
        let (count, time) = said.trim().split_once(' ').context("no count")?;
        let (count, time) = (count.parse::<f64>()?, time.parse::<f64>()?);
        Ok((count * 1e6 / time, count))
    })
}

/// Those that arrive here in a second, and how many did.
fn datagrams(runtime: &Runtime<'_>, host: &str) -> Result<(f64, f64)> {
    let socket = UdpSocket::bind((host, 0))?;
    let to = format!("{host}:{}", socket.local_addr()?.port());
    let command = format!("probe datagrams {to} {DATAGRAMS} 64");
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| runtime.call(&["exec", "c1", "sh", "-c", &command]));
        let mut datagram = [0; 64];
        socket.recv(&mut datagram)?;
        let (begin, mut last, mut count) = (Instant::now(), Instant::now(), 0);
        socket.set_read_timeout(Some(SILENCE))?;
        while socket.recv(&mut datagram).is_ok() {
            (last, count) = (Instant::now(), count + 1);
        }
        ended.join().map_err(|_| anyhow::anyhow!("exec panicked"))??.expect(0)?;
        let count = f64::from(count);
        Ok((count / last.duration_since(begin).as_secs_f64(), count))
    })
}

/// Microseconds, the median and the 99th of 100.
fn latency(to: &str) -> Result<(f64, f64)> {
    let mut connection = TcpStream::connect(to)?;
    connection.set_nodelay(true)?;
    let mut all = Vec::new();
    for _ in 0..REQUESTS {
        let (begin, mut answer) = (Instant::now(), [0]);
        connection.write_all(&[1])?;
        connection.read_exact(&mut answer)?;
        all.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    all.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| all.get(index).copied().context("no request");
    Ok((at(REQUESTS / 2)?, at(REQUESTS * 99 / 100)?))
}

/// In a second, each with a byte and its answer.
fn connections(to: &str) -> Result<f64> {
    let begin = Instant::now();
    for _ in 0..CONNECTIONS {
        let (mut connection, mut answer) = (TcpStream::connect(to)?, [0]);
        connection.write_all(&[1])?;
        connection.read_exact(&mut answer)?;
    }
    Ok(f64::from(u32::try_from(CONNECTIONS)?) / begin.elapsed().as_secs_f64())
}
