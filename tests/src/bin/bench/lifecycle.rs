//! B4, B5, B7 to B9: the OCI command line, step by step, beside runc and crun.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Bundle, Deadline, Output, Setup};
use tempfile::TempDir;

use crate::emulation::median;
use crate::meter::{Meter, millions};
use crate::report::Measurement;
use crate::runtime;
use crate::trace;

const ROUNDS: usize = 5;
const AT_ONCE: usize = 50;

const FIRST_BYTE: &str = "create, start, to the workload's first byte";
const EXEC: &str = "exec of a static true";
const RUN: &str = "run of a static true";

/// Benchmark, step, and what the meter grew by meanwhile.
type Steps = Vec<(&'static str, &'static str, f64)>;
type Clock<'a> = &'a dyn Fn() -> Result<f64>;

/// An OCI runtime with a state directory of its own.
struct Oci {
    name: &'static str,
    program: PathBuf,
    state: TempDir,
}

impl Oci {
    fn new(name: &'static str) -> Result<Self> {
        let setup = Setup::get()?;
        let state = tempfile::tempdir().context("cannot make a state directory")?;
        let driver = setup.hypervisor().name();
        let config =
            format!("hypervisor = \"{driver}\"\nmemory = 128\ncpus = 1\nsoftware_emulation = \"allow\"\n");
        fs::write(state.path().join("config.toml"), config).context("cannot write the configuration")?;
        let program = if name == "runv" { setup.program(name) } else { name.into() };
        Ok(Self { name, program, state })
    }

    /// Ours, then the peers that this host's cgroups suit: crun 1.8 refuses a mixture of both versions.
    fn all(bundle: &Bundle, clock: Clock<'_>) -> Result<Vec<Self>> {
        let mut all = vec![Self::new("runv")?];
        for name in ["runc", "crun"] {
            let peer = Self::new(name)?;
            match peer.life(bundle, clock) {
                Ok(_) => all.push(peer),
                Err(error) => eprintln!("bench: without {name}: {error:#}"),
            }
        }
        Ok(all)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.state.path().join("root"));
        if self.name == "runv" {
            command.arg("--config").arg(self.state.path().join("config.toml"));
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn call(&self, arguments: &[&str]) -> Result<()> {
        run(&mut self.command(arguments))
    }

    /// Creates and starts a container, up to its workload's first byte.
    fn to_first_byte(&self, bundle: &Bundle) -> Result<()> {
        let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
        let output = Output::collect(reader);
        let path = bundle.path().to_string_lossy();
        run(self.command(&["create", "--bundle", &path, "one"]).stdout(writer))?;
        self.call(&["start", "one"])?;
        output.wait_for("x", Deadline::after(Duration::from_secs(60))?).map(drop)
    }

    /// The life of one container; its workload writes a byte and waits, `/true` writes one and ends.
    fn life(&self, bundle: &Bundle, clock: Clock<'_>) -> Result<Steps> {
        let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
        let output = Output::collect(reader);
        let path = bundle.path().to_string_lossy();

        let begin = clock()?;
        run(self.command(&["create", "--bundle", &path, "one"]).stdout(writer))?;
        let created = clock()?;
        self.call(&["start", "one"])?;
        output.wait_for("x", Deadline::after(Duration::from_secs(60))?)?;
        let started = clock()?;
        self.call(&["state", "one"])?;
        let stated = clock()?;
        self.call(&["exec", "one", "/true"])?;
        let executed = clock()?;
        self.call(&["kill", "one", "KILL"])?;
        let killed = clock()?;
        self.call(&["delete", "--force", "one"])?;
        let deleted = clock()?;
        Ok(vec![
            ("B5", FIRST_BYTE, started - begin),
            ("B5", "  of it, create", created - begin),
            ("B7", EXEC, executed - stated),
            ("B8", "state", stated - started),
            ("B8", "kill", killed - executed),
            ("B8", "delete --force", deleted - killed),
        ])
    }

    /// From before the fork to the end.
    fn run(&self, bundle: &Bundle, clock: Clock<'_>) -> Result<f64> {
        let begin = clock()?;
        self.call(&["run", "--bundle", &bundle.path().to_string_lossy(), "one"])?;
        Ok(clock()? - begin)
    }

    /// Many at once, from the first one's start to the last one's end.
    fn at_once(&self, bundle: &Bundle, count: usize) -> Result<f64> {
        let path = bundle.path().to_string_lossy();
        let begin = Instant::now();
        let mut children = Vec::new();
        for number in 0..count {
            let id = format!("number-{number}");
            let child = self.command(&["run", "--bundle", &path, &id]).stderr(Stdio::null()).spawn();
            children.push(child.with_context(|| format!("cannot run {}", self.name))?);
        }
        for mut child in children {
            let status = child.wait().context("cannot wait")?;
            ensure!(status.success(), "{}: one of {count} ended with {status}", self.name);
        }
        Ok(begin.elapsed().as_secs_f64())
    }
}

/// Where the way to the first byte and `delete --force` go, by program and within the machine by what it does, with an
/// event at each switch and exit, which costs something itself.
pub(crate) fn measure_shares(guests: &Path) -> Result<Vec<Measurement>> {
    let bundle = bundle(guests)?;
    let runv = Oci::new("runv")?;
    // Warm.
    runv.life(&bundle, &|| Ok(0.0))?;
    let start = trace::record(&trace::ALL, || runv.to_first_byte(&bundle))?;
    let end = trace::record(&trace::ALL, || runv.call(&["delete", "--force", "one"]))?;
    let mut results = Vec::new();
    for (id, what, trace) in [("B5", "to the first byte", start), ("B8", "delete --force", end)] {
        let shares = trace.by_program().into_iter().map(|(name, time)| (name, millions(time)));
        results.extend(shares.filter(|(name, share)| name != "idle" && *share >= 0.05).map(
            |(name, share)| Measurement::new(id, format!("  of {what}, traced: {name}"), share, "M instr."),
        ));
    }
    Ok(results)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn bundle(guests: &Path) -> Result<Bundle> {
    let bundle = runtime::bundle(&guests.join("idle"))?;
    fs::copy(guests.join("true"), bundle.rootfs().join("true")).context("cannot copy true")?;
    Ok(bundle)
}

fn measurements(unit: &'static str, arms: &[(&'static str, Steps)]) -> Vec<Measurement> {
    let Some(((_, ours), peers)) = arms.split_first() else { return Vec::new() };
    let measurement = |(index, (id, name, value)): (usize, &(&'static str, &'static str, f64))| {
        let measurement = Measurement::new(id, *name, *value, unit);
        peers.iter().fold(measurement, |measurement, (peer, steps)| {
            measurement.peer(*peer, steps.get(index).map_or(f64::NAN, |(_, _, value)| *value))
        })
    };
    ours.iter().enumerate().map(measurement).collect()
}

/// In the nested host, the second of two lives.
pub(crate) fn measure_counted(guests: &Path) -> Result<Vec<Measurement>> {
    let (bundle, ending) = (bundle(guests)?, runtime::bundle(&guests.join("true"))?);
    let meter = Meter::start()?;
    let clock = || meter.read();
    let mut arms = Vec::new();
    for runtime in Oci::all(&bundle, &clock)? {
        runtime.life(&bundle, &clock)?;
        let mut steps = runtime.life(&bundle, &clock)?;
        runtime.run(&ending, &clock)?;
        steps.push(("B4", RUN, runtime.run(&ending, &clock)?));
        arms.push((runtime.name, steps));
    }
    // The goals are shares of what a peer does.
    let goal = |measurement: Measurement, peer: &str, share: f64| {
        let value = measurement.peers.iter().find(|(name, _)| name == peer).map(|(_, value)| *value);
        value.map_or(measurement.clone(), |value| measurement.goal(value * share))
    };
    let with_goal = |measurement: Measurement| match measurement.name.as_str() {
        FIRST_BYTE => goal(measurement, "runc", 0.8),
        EXEC => goal(measurement, "crun", 0.5),
        _ => measurement,
    };
    Ok(measurements("M instr.", &arms).into_iter().map(with_goal).collect())
}

/// On this machine: milliseconds, of a guest that is emulated, beside peers that are not.
pub(crate) fn measure_by_the_wall(guests: &Path) -> Result<Vec<Measurement>> {
    let begin = Instant::now();
    let clock = || Ok(begin.elapsed().as_secs_f64() * 1000.0);
    let (waiting, ending) = (bundle(guests)?, runtime::bundle(&guests.join("true"))?);
    let runtimes = Oci::all(&waiting, &clock)?;
    let mut lives = vec![Vec::new(); runtimes.len()];
    for _ in 0..ROUNDS {
        for (runtime, lives) in runtimes.iter().zip(&mut lives) {
            let mut steps = runtime.life(&waiting, &clock)?;
            steps.push(("B4", RUN, runtime.run(&ending, &clock)?));
            lives.push(steps);
        }
    }
    let arms: Vec<_> =
        runtimes.iter().zip(&lives).map(|(runtime, lives)| (runtime.name, medians(lives))).collect();
    let mut results = measurements("ms, TCG", &arms);

    let name = format!("{AT_ONCE} runs of a static true at once");
    let (runv, peers) = runtimes.split_first().context("no runtime")?;
    let mut at_once = Measurement::new("B9", name, runv.at_once(&ending, AT_ONCE)?, "s, TCG");
    for peer in peers {
        at_once = at_once.peer(peer.name, peer.at_once(&ending, AT_ONCE)?);
    }
    results.push(at_once);
    Ok(results)
}

fn medians(lives: &[Steps]) -> Steps {
    let Some(first) = lives.first() else { return Vec::new() };
    let of = |index: usize| lives.iter().filter_map(|steps| Some(steps.get(index)?.2)).collect();
    first.iter().enumerate().map(|(index, (id, name, _))| (*id, *name, median(of(index)))).collect()
}
