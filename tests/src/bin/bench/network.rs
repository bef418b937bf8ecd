//! The network of a container, between it and this host: beside runc, which has the same veth without a machine behind it. Here
//! the guest is emulated, so that a ratio says how much that costs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::network::{Namespace, ip};
use e2e::{Bundle, Deadline, Program, Runtime};
use serde_json::json;

use crate::emulation::median;
use crate::report::Measurement;

/// Bytes of a stream, requests and connections one after the other, datagrams, and starts.
const STREAM: usize = 32 << 20;
const REQUESTS: usize = 1000;
const CONNECTIONS: usize = 200;
const DATAGRAMS: usize = 20_000;
const STARTS: usize = 5;

/// How long a socket waits for what may be lost.
const SILENCE: Duration = Duration::from_millis(500);

pub(crate) fn measure() -> Result<Vec<Measurement>> {
    let ours = Figures::of(Program::Runv, 1)?;
    let runc = Figures::of(Program::Runc, 2)?;
    let pairs = ours.0.into_iter().zip(runc.0);
    Ok(pairs
        .map(|((name, unit, value), (_, _, peer))| {
            Measurement::new("B13", name, value, unit).peer("runc", peer)
        })
        .collect())
}

/// Names, units and values.
struct Figures(Vec<(&'static str, &'static str, f64)>);

impl Figures {
    fn of(program: Program, number: u8) -> Result<Self> {
        let namespace = Namespace::new(number)?;
        let bundle = Bundle::shell("exec probe echo 80")?;
        let inside = |spec: &mut serde_json::Value| {
            let list = spec["linux"]["namespaces"].as_array_mut();
            for one in list.into_iter().flatten().filter(|one| one["type"] == "network") {
                one["path"] = json!(namespace.path());
            }
        };
        let alone = started(&Runtime::of(program, &bundle)?)?;
        let bundle = bundle.edit(inside)?;
        let runtime = Runtime::of(program, &bundle)?;
        let added = started(&runtime)? - alone;
        runtime.run_detached("c1")?;
        let to = format!("10.77.{number}.2:80");
        Deadline::generous()?.wait_for("the server", || Ok(TcpStream::connect(&to).ok()))?;
        // Nobody need ask for addresses.
        let (host, peer) = (format!("10.77.{number}.1"), namespace.peer());
        ip(&format!("neigh replace 10.77.{number}.2 lladdr {} dev {peer}", namespace.mac()))?;
        let (half, most) = latency(&to)?;
        Ok(Self(vec![
            ("TCP to the container (noisy)", "MiB/s, TCG", stream(&runtime, &host, true)?),
            ("TCP from the container (noisy)", "MiB/s, TCG", stream(&runtime, &host, false)?),
            ("datagrams of 64 bytes from the container (noisy)", "1/s, TCG", datagrams(&runtime, &host)?),
            ("a byte and back, median (noisy)", "us, TCG", half),
            ("a byte and back, 99th of 100 (noisy)", "us, TCG", most),
            ("connections, one after the other (noisy)", "1/s, TCG", connections(&to)?),
            ("start, with an interface less without (noisy)", "ms, TCG", added),
        ]))
    }
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

/// MiB in a second, of a connection that a program in the container makes.
fn stream(runtime: &Runtime<'_>, host: &str, is_inward: bool) -> Result<f64> {
    let listener = TcpListener::bind((host, 0))?;
    let to = listener.local_addr()?;
    let command = format!("probe stream {to} {}", if is_inward { 0 } else { STREAM });
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| runtime.call(&["exec", "c1", "sh", "-c", &command]));
        let (mut connection, _) = listener.accept()?;
        let mut bytes = vec![0; 1 << 16];
        let begin = Instant::now();
        if is_inward {
            for _ in 0..STREAM / bytes.len() {
                connection.write_all(&bytes)?;
            }
            connection.shutdown(std::net::Shutdown::Write)?;
        }
        while connection.read(&mut bytes)? > 0 {}
        let seconds = begin.elapsed().as_secs_f64();
        drop(connection);
        ended.join().map_err(|_| anyhow::anyhow!("exec panicked"))??.expect(0)?;
        Ok(f64::from(u32::try_from(STREAM >> 20)?) / seconds)
    })
}

/// Those that arrive here in a second.
fn datagrams(runtime: &Runtime<'_>, host: &str) -> Result<f64> {
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
        Ok(f64::from(count) / last.duration_since(begin).as_secs_f64())
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
