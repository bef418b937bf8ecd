//! B12: vsock itself, host program to guest program: `probe vsock-serve` is a sandbox's workload, and the host's end
//! is the socket that the device process serves. The same on the stand-alone vhost-device-vsock under QEMU, and
//! between two threads on a unix socket.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::exchange::{self, Amount};
use e2e::{Bundle, Deadline, Output, Setup};

use crate::bare::BareQemu;
use crate::emulation::median;
use crate::meter::Meter;
use crate::report::Measurement;
use crate::runtime::{self, Runtime};

const PORT: &str = "5000";
const ROUNDS: usize = 5;

type Results = Vec<(&'static str, f64)>;
type Clock<'a> = &'a dyn Fn() -> Result<f64>;

/// Asks whoever listens on [`PORT`] of the guest behind the host's socket `path`.
fn ask(path: &Path, amount: Amount, clock: Clock<'_>) -> Result<Results> {
    let mut stream =
        UnixStream::connect(path).with_context(|| format!("cannot connect to {}", path.display()))?;
    // In one piece: vhost-device-vsock takes what it reads first for the whole line.
    stream.write_all(format!("CONNECT {PORT}\n").as_bytes()).context("cannot ask for the port")?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).context("the guest does not answer")?;
        answer.extend(byte);
    }
    ensure!(answer.starts_with(b"OK "), "the device answered {:?}", String::from_utf8_lossy(&answer));
    exchange::ask(&mut stream, amount, clock)
}

fn sandboxed(amount: Amount, clock: Clock<'_>) -> Result<Results> {
    let bundle = Bundle::new(&["probe", "vsock-serve", PORT])?;
    let mut child =
        Runtime::Sandbox.run(&bundle)?.stdout(Stdio::piped()).spawn().context("cannot run sandbox")?;
    let output = Output::collect(child.stdout.take().context("no stdout")?);
    let result = output
        .wait_for("ready\n", Deadline::after(Duration::from_secs(60))?)
        .and_then(|()| ask(&host_socket(child.id())?, amount, clock));
    end(&mut child)?;
    result
}

/// The sandbox's directory has no name: it is reached through the process that holds it.
fn host_socket(shim: u32) -> Result<PathBuf> {
    let directory = format!("/proc/{shim}/fd");
    fs::read_dir(&directory)
        .with_context(|| format!("cannot read {directory}"))?
        .filter_map(|entry| Some(entry.ok()?.path().join("vsock.sock")))
        .find(|path| path.exists())
        .context("the shim holds no directory with vsock.sock")
}

fn on_vhost_device_vsock(amount: Amount, clock: Clock<'_>) -> Result<Results> {
    let bundle = Bundle::new(&["true"])?;
    let initrd = runtime::initrd(Setup::get()?.probe(), 0, &bundle.path().join("initrd"))?;
    let (socket, host) = (bundle.path().join("backend"), bundle.path().join("host"));
    let mut daemon = vhost_device_vsock(&socket, &host)?;
    let mut guest = BareQemu::new(&Setup::get()?.kernel(), &initrd)
        .vhost_user("vhost-user-vsock-device", &socket, "")
        .init_arguments(&format!("vsock-serve {PORT}"))
        .start()?;
    let console = Output::collect(guest.stdout.take().context("no stdout")?);
    let result = console
        .wait_for("ready", Deadline::after(Duration::from_secs(60))?)
        .and_then(|()| ask(&host, amount, clock));
    end(&mut guest)?;
    end(&mut daemon)?;
    result
}

/// The program of `RUNV_VHOST_DEVICE_VSOCK`. By default it gives the guest more credit than it can use: packets of
/// more than 32 KiB, which Linux sends in several buffers, it drops.
fn vhost_device_vsock(socket: &Path, host: &Path) -> Result<Child> {
    let program =
        std::env::var_os("RUNV_VHOST_DEVICE_VSOCK").context("RUNV_VHOST_DEVICE_VSOCK is not set")?;
    let daemon = Command::new(program)
        .args(["--guest-cid", "3", "--tx-buffer-size", "28672", "--socket"])
        .arg(socket)
        .arg("--uds-path")
        .arg(host)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run vhost-device-vsock")?;
    Deadline::generous()?.wait_for("vhost-device-vsock's socket", || Ok(socket.exists().then_some(())))?;
    Ok(daemon)
}

fn end(child: &mut Child) -> Result<()> {
    child.kill().context("cannot kill")?;
    child.wait().context("cannot wait")?;
    Ok(())
}

fn native(amount: Amount, clock: Clock<'_>) -> Result<Results> {
    let (mut near, mut far) = UnixStream::pair().context("cannot make a socket")?;
    let server = std::thread::spawn(move || exchange::serve(&mut far));
    let results = exchange::ask(&mut near, amount, clock)?;
    drop(near);
    server.join().ok().context("the server panicked")??;
    Ok(results)
}

fn measurements(
    amount: Amount,
    unit: &'static str,
    ours: &Results,
    peers: &[(&str, Results)],
) -> Vec<Measurement> {
    ours.iter()
        .map(|(name, value)| {
            let full = format!("vsock, {} rounds, {} MiB: {name}", amount.rounds, amount.mib);
            let measurement = Measurement::new("B12", full, *value, unit);
            peers.iter().fold(measurement, |measurement, (peer, results)| {
                let value = results.iter().find(|(other, _)| other == name).map(|(_, value)| *value);
                measurement.peer(*peer, value.unwrap_or(f64::NAN))
            })
        })
        .collect()
}

/// In the nested host, all that it executes; idle time left out.
pub(crate) fn measure_counted() -> Result<Vec<Measurement>> {
    let amount = Amount { rounds: 200, mib: 4 };
    let meter = Meter::start()?;
    let clock = || Ok(meter.read()? * 1000.0);
    let ours = sandboxed(amount, &clock)?;
    let native = native(amount, &clock)?;
    Ok(measurements(amount, "k instr.", &ours, &[("a unix socket", native)]))
}

/// On this machine, medians of rounds in turns.
pub(crate) fn measure_by_the_wall() -> Result<Vec<Measurement>> {
    let amount = Amount { rounds: 2000, mib: 64 };
    let start = Instant::now();
    let clock = || Ok(start.elapsed().as_secs_f64() * 1e6);
    let mut rounds = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        rounds[0].push(sandboxed(amount, &clock)?);
        rounds[1].push(on_vhost_device_vsock(amount, &clock)?);
        rounds[2].push(native(amount, &clock)?);
    }
    let [ours, peer, native] = rounds.map(|rounds| medians(&rounds));
    Ok(measurements(
        amount,
        "us, TCG",
        &ours,
        &[("vhost-device-vsock under QEMU", peer), ("a unix socket", native)],
    ))
}

fn medians(rounds: &[Results]) -> Results {
    let Some(first) = rounds.first() else { return Vec::new() };
    first
        .iter()
        .map(|(name, _)| {
            let all = rounds.iter().flatten().filter(|(other, _)| other == name).map(|(_, value)| *value);
            (*name, median(all.collect()))
        })
        .collect()
}
