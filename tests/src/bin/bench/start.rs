//! B1 to B5: from nothing to a machine, to PID 1, to the agent, to the workload, and to the end.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::{Bundle, Setup};

use crate::meter::{Meter, millions};
use crate::report::Measurement;
use crate::runtime::{self, Runtime};
use crate::trace::{self, Trace};

// A guest's mark is a byte to the debug exit port, upon which its vCPU's thread ends at once. (The tracepoint
// kvm_pio would be the mark itself, but with it enabled nested guests hang under TCG.)
const FEW: [&str; 3] = ["sched/sched_switch", "sched/sched_process_exec", "sched/sched_process_exit"];

/// Traces the command's second run. The guests of these benchmarks are no machines to live in: the status says
/// nothing.
fn traced(events: &[&str], command: impl Fn() -> Result<Command>) -> Result<Trace> {
    let once = || {
        runtime::run_to_end(command()?)?;
        trace::record(events, || runtime::run_to_end(command()?))
    };
    let mut result = once();
    for _ in 0..3 {
        if let Err(error) = &result {
            eprintln!("bench: once more, as {error:#}");
            result = once();
        }
    }
    result
}

fn to_mark(bundle: &Bundle, kernel: &Path, initrd: &Path, events: &[&str]) -> Result<(Trace, u64, u64)> {
    let trace = traced(events, || {
        let mut command = runtime::sandbox(&[("--kernel", kernel), ("--initrd", initrd)])?;
        command.arg(bundle.path());
        Ok(command)
    })?;
    let (start, vmm) = trace.exec("/runv-vmm")?;
    let end = trace.thread_end(vmm)?;
    ensure!(start < end, "the guest ran before its VMM");
    Ok((trace, start, end))
}

/// Who ran from `start` to `end`, in millions of instructions: the VMM, the device process, the shim, the rest.
fn shares(trace: &Trace, start: u64, end: u64) -> Result<BTreeMap<String, f64>> {
    let mut names = BTreeMap::new();
    for (program, name) in [("/sandbox", "shim"), ("/runv-devices", "devices"), ("/runv-vmm", "VMM")] {
        names.insert(trace.exec(program)?.1, name);
    }
    let sums = trace.attribute(start, end, |process| (*names.get(&process).unwrap_or(&"other")).to_owned());
    Ok(sums.into_iter().map(|(name, time)| (name, millions(time))).collect())
}

fn busy(shares: &BTreeMap<String, f64>) -> f64 {
    shares.iter().filter(|(name, _)| *name != "idle").map(|(_, share)| share).sum()
}

/// B1. Each figure is that of the second run, when all files are in the page cache.
pub(crate) fn bring_up(guests: &Path) -> Result<Vec<Measurement>> {
    let bundle = runtime::bundle(&guests.join("true"))?;
    let small = runtime::initrd(&guests.join("init"), 512, &bundle.path().join("small.cpio"))?;
    let (trace, start, end) = to_mark(&bundle, &guests.join("tiny"), &small, &FEW)?;
    let shares = shares(&trace, start, end)?;
    let vmm = *shares.get("VMM").context("the VMM did not run")?;
    let of = |name: &str| shares.get(name).copied().unwrap_or_default();
    Ok(vec![
        Measurement::new("B1", "VMM: exec to the guest's first instruction", vmm, "M instr.")
            .goal(3.0)
            .peer("Firecracker (quoted)", 2.07)
            .peer("Cloud Hypervisor (quoted)", 8.91),
        Measurement::new("B1", "  the device process meanwhile", of("devices"), "M instr."),
        Measurement::new("B1", "  the shim meanwhile", of("shim"), "M instr."),
    ])
}

/// The built kernel with a PID 1 that says that it has begun, in an initrd as long as the real one.
fn marked_boot(guests: &Path, events: &[&str]) -> Result<(Trace, u64, u64)> {
    let setup = Setup::get()?;
    let bundle = runtime::bundle(&guests.join("true"))?;
    let length = fs::metadata(setup.initrd()).context("initrd")?.len();
    let marked = runtime::initrd(&guests.join("init"), length, &bundle.path().join("marked.cpio"))?;
    to_mark(&bundle, &setup.kernel(), &marked, events)
}

fn boot_total(guests: &Path) -> Result<f64> {
    let (trace, start, end) = marked_boot(guests, &FEW)?;
    Ok(busy(&shares(&trace, start, end)?))
}

/// B2b.
pub(crate) fn boot(guests: &Path) -> Result<Vec<Measurement>> {
    Ok(vec![
        Measurement::new(
            "B2b",
            "boot: exec of the VMM to PID 1's first instruction",
            boot_total(guests)?,
            "M instr.",
        )
        .goal(40.0)
        .peer("Firecracker, lean kernel (quoted)", 64.0)
        .peer("Cloud Hypervisor, lean kernel (quoted)", 198.5),
    ])
}

/// Where B2b goes, with an event at each entry and exit, which costs something itself.
pub(crate) fn boot_shares(guests: &Path) -> Result<Vec<Measurement>> {
    let (trace, start, end) = marked_boot(guests, &trace::ALL)?;
    let mut results: Vec<_> = shares(&trace, start, end)?
        .into_iter()
        .filter(|(name, share)| name != "idle" && *share >= 0.05)
        .map(|(name, share)| Measurement::new("B2b", format!("  of it, traced: {name}"), share, "M instr."))
        .collect();
    let exits = trace.exits(start, end);
    results.push(Measurement::new("B2b", "  exits", f64::from(exits.values().sum::<u32>()), "exits"));
    results.extend(
        exits
            .into_iter()
            .filter(|(_, count)| *count >= 20)
            .map(|(kind, count)| Measurement::new("B2b", format!("  of them {kind}"), count.into(), "exits")),
    );
    Ok(results)
}

/// B3. The agent has no mark of its own: its time is what a run of it takes longer than one of the marked PID 1.
pub(crate) fn agent_ready(guests: &Path) -> Result<Vec<Measurement>> {
    let boot = boot_total(guests)?;
    let bundle = runtime::bundle(&guests.join("true"))?;
    let accepts = ["sched/sched_switch", "sched/sched_process_exec", "syscalls/sys_exit_accept4"];
    let trace = traced(&accepts, || Runtime::Sandbox.run(&bundle))?;
    let (start, _) = trace.exec("/runv-vmm")?;
    let (_, shim) = trace.exec("/sandbox")?;
    let ready = trace
        .events
        .iter()
        .filter(|event| event.name == "sys_accept4" && event.thread == shim)
        .map(|event| event.time)
        .find(|time| *time > start)
        .context("the shim accepted no ready signal")?;
    let total = busy(&shares(&trace, start, ready)?);
    let name = "agent: PID 1's first instruction to ready";
    Ok(vec![Measurement::new("B3", name, total - boot, "M instr.").goal(3.0)])
}

/// From before the fork to the workload's first byte, and to the end with all state gone.
fn whole_run(runtime: Runtime, bundle: &Bundle) -> Result<(f64, f64)> {
    let mut command = runtime.run(bundle)?;
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    let meter = Meter::start()?;
    let mut child = command.spawn().with_context(|| format!("cannot run {}", runtime.name()))?;
    let mut byte = [0];
    child.stdout.take().context("no stdout")?.read_exact(&mut byte).context("the workload wrote nothing")?;
    let first = meter.read()?;
    let status = child.wait().context("cannot wait")?;
    let end = meter.read()?;
    ensure!(status.success(), "{} ended with {status}", runtime.name());
    Ok((first, end))
}

/// B4 and B5.
pub(crate) fn whole_runs(guests: &Path) -> Result<Vec<Measurement>> {
    let bundle = runtime::bundle(&guests.join("true"))?;
    let second = |runtime: Runtime| {
        whole_run(runtime, &bundle)?;
        whole_run(runtime, &bundle)
    };
    let (first, end) = second(Runtime::Sandbox)?;
    let mut to_end = Measurement::new("B4", "run of a static true, to the end", end, "M instr.");
    let mut to_first = Measurement::new("B5", "run, to the workload's first byte", first, "M instr.");
    for peer in Runtime::PEERS {
        let (first, end) = second(peer)?;
        to_end = to_end.peer(peer.name(), end);
        to_first = to_first.peer(peer.name(), first);
    }
    Ok(vec![to_end, to_first])
}
