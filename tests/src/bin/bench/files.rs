//! B11: virtio-fs. `probe bench-files` does the work, and times it with the clock it has: counted in the nested
//! host, by the wall here. The same without a virtual machine, and, here, on the stand-alone virtiofsd under QEMU:
//! QEMU's own guests do not get through their boot in the nested host.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Bundle, Deadline, Output, Setup, crowd};

use crate::bare::BareQemu;
use crate::meter::millions;
use crate::report::Measurement;
use crate::runtime::{self, Runtime};

const ROUNDS: usize = 4;
const OURS: &str = "sandbox";

/// Nanoseconds for each of an operation, by its name, in the order of the work.
type Times = Vec<(String, f64)>;
/// Measures once.
type Arm = fn(Size) -> Result<Times>;

fn parse(text: &str) -> Result<Times> {
    let times: Times = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("took ")?.split_once(": "))
        .filter_map(|(name, time)| Some((name.to_owned(), time.parse().ok()?)))
        .collect();
    ensure!(times.len() > 1, "probe printed no times: {text:?}");
    Ok(times)
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
struct Size {
    mib: u64,
    count: u64,
}

impl Size {
    fn arguments(self) -> [String; 2] {
        [self.mib.to_string(), self.count.to_string()]
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} MiB, {} files", self.mib, self.count)
    }
}

/// In a sandbox, in its root file system.
fn sandboxed(size: Size) -> Result<Times> {
    let [mib, count] = size.arguments();
    let bundle = Bundle::new(&["probe", "bench-files", "/work", &mib, &count, "cold"])?;
    let directory = bundle.rootfs().join("work");
    fs::create_dir(&directory).context("cannot make a directory")?;
    crowd::make(&directory, size.count)?;
    let output =
        Runtime::Sandbox.run(&bundle)?.stdout(Stdio::piped()).output().context("cannot run sandbox")?;
    ensure!(output.status.success(), "sandbox ended with {}", output.status);
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// On the host itself, where everything is in the page cache.
fn native(size: Size) -> Result<Times> {
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    crowd::make(directory.path(), size.count)?;
    let output = Command::new(Setup::get()?.probe())
        .arg("bench-files")
        .arg(directory.path())
        .args(size.arguments())
        .arg("warm")
        .output()
        .context("cannot run probe")?;
    ensure!(output.status.success(), "probe: {}", String::from_utf8_lossy(&output.stderr));
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// On a bare QEMU with the stand-alone virtiofsd, which is the device there: `probe` is PID 1.
fn on_virtiofsd(size: Size) -> Result<Times> {
    let bundle = Bundle::new(&["true"])?;
    let share = bundle.host_directory("share")?;
    crowd::make(&share, size.count)?;
    let initrd = runtime::initrd(Setup::get()?.probe(), 0, &bundle.path().join("initrd"))?;
    let socket = bundle.path().join("fs.sock");
    let log = bundle.path().join("log");
    let mut daemon = virtiofsd(&share, &socket, &log)?;
    let mut guest = BareQemu::new(&Setup::get()?.kernel(), &initrd)
        .vhost_user("vhost-user-fs-device", &socket, "tag=share")
        .init_arguments(&format!("bench-files-init {} {}", size.mib, size.count))
        .start()?;
    let console = Output::collect(guest.stdout.take().context("no stdout")?);
    // A guest whose share does not answer would wait for ever.
    let text = console.to_end(Deadline::after(Duration::from_secs(300))?);
    for process in [&mut guest, &mut daemon] {
        process.kill().context("cannot kill")?;
        process.wait().context("cannot wait")?;
    }
    let log = fs::read_to_string(&log).unwrap_or_default();
    parse(&String::from_utf8_lossy(&text?)).with_context(|| format!("virtiofsd says {log:?}"))
}

/// The program of `RUNV_VIRTIOFSD`, confined as it is by default, with what the sandbox's share has.
fn virtiofsd(share: &Path, socket: &Path, log: &Path) -> Result<Child> {
    let program = std::env::var_os("RUNV_VIRTIOFSD").context("RUNV_VIRTIOFSD names no virtiofsd")?;
    let log = fs::File::create(log).context("cannot make a log")?;
    let daemon = Command::new(program)
        .arg("--socket-path")
        .arg(socket)
        .arg("--shared-dir")
        .arg(share)
        .args(["--xattr", "--cache", "auto"])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("cannot run virtiofsd")?;
    Deadline::generous()?.wait_for("virtiofsd's socket", || Ok(socket.exists().then_some(())))?;
    Ok(daemon)
}

/// One measurement for each operation, from the times of each arm.
fn measurements(
    unit: &'static str,
    scale: impl Fn(f64) -> f64,
    size: Size,
    arms: &[(&str, Times)],
) -> Vec<Measurement> {
    let Some((_, ours)) = arms.iter().find(|(name, _)| *name == OURS) else { return Vec::new() };
    let peers: Vec<(&str, BTreeMap<&str, f64>)> = arms
        .iter()
        .filter(|(name, _)| *name != OURS)
        .map(|(name, times)| (*name, times.iter().map(|(key, time)| (key.as_str(), *time)).collect()))
        .collect();
    ours.iter()
        .map(|(name, time)| {
            let value = scale(*time);
            peers.iter().fold(
                Measurement::new("B11", format!("virtio-fs, {size}: {name}"), value, unit),
                |measurement, (peer, times)| match times.get(name.as_str()) {
                    Some(time) => measurement.peer(*peer, scale(*time)),
                    None => measurement,
                },
            )
        })
        .collect()
}

pub(crate) fn measure_counted() -> Result<Vec<Measurement>> {
    let size = Size { mib: 2, count: 200 };
    let arms = [(OURS, sandboxed(size)?), ("no sandbox, tmpfs", native(size)?)];
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds, above 0")]
    let thousands = |time: f64| millions(time as u64) * 1000.0;
    Ok(measurements("k instr.", thousands, size, &arms))
}

pub(crate) fn measure_by_the_wall() -> Result<Vec<Measurement>> {
    let size = Size { mib: 64, count: 10_000 };
    let arms: [(&str, Arm); 3] =
        [(OURS, sandboxed), ("virtiofsd under QEMU", on_virtiofsd), ("no sandbox", native)];
    let mut all: Vec<Vec<Times>> = vec![Vec::new(); arms.len()];
    for round in 0..ROUNDS {
        for (index, (name, arm)) in arms.iter().enumerate() {
            eprintln!("bench: files: {name}, {} of {ROUNDS}", round + 1);
            let times = arm(size).with_context(|| format!("files: {name}"))?;
            if let Some(rounds) = all.get_mut(index) {
                rounds.push(times);
            }
        }
    }
    let best: Vec<(&str, Times)> =
        arms.iter().zip(&all).map(|((name, _), rounds)| (*name, best(rounds))).collect();
    Ok(measurements("us, TCG", |time| time / 1000.0, size, &best))
}

/// What a busy machine adds differs from round to round, and is never negative.
fn best(rounds: &[Times]) -> Times {
    let Some(first) = rounds.first() else { return Vec::new() };
    let of = |name: &str| {
        let all = rounds.iter().flatten().filter(|(other, _)| other == name).map(|(_, time)| *time);
        all.fold(f64::INFINITY, f64::min)
    };
    first.iter().map(|(name, _)| (name.clone(), of(name))).collect()
}
