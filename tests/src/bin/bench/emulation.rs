//! Under software emulation, on this machine: `sandbox run` to the workload's first byte, beside a bare QEMU boot
//! of the same kernel to an `/init` that prints. Wall-clock time wanders with the machine's load, so the two
//! alternate, and the ratio of medians is what counts.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result};
use e2e::Bundle;

use crate::bare::BareQemu;
use crate::report::Measurement;
use crate::runtime::{self, Runtime};

const PAIRS: usize = 7;

pub(crate) fn measure(build: &Path, guests: &Path) -> Result<Vec<Measurement>> {
    let bundle = runtime::bundle(&guests.join("true"))?;
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let initrd = runtime::initrd(&guests.join("print"), 0, &directory.path().join("print.cpio"))?;
    let kernel = build.join("share/runv/vmlinux");
    let mut ours = Vec::new();
    let mut bare = Vec::new();
    for pair in 0..PAIRS {
        // In turns: first the one, then the other.
        if pair % 2 == 0 {
            ours.push(sandbox_to_first_byte(&bundle)?);
            bare.push(qemu_to_first_line(&kernel, &initrd)?);
        } else {
            bare.push(qemu_to_first_line(&kernel, &initrd)?);
            ours.push(sandbox_to_first_byte(&bundle)?);
        }
    }
    let (ours, bare) = (median(ours), median(bare));
    Ok(vec![
        Measurement::new("TCG", "sandbox run to the first byte / bare QEMU boot", ours / bare, "ratio")
            .goal(1.5),
        Measurement::new("TCG", "  sandbox run to the first byte (noisy)", ours * 1000.0, "ms")
            .peer("bare QEMU", bare * 1000.0),
    ])
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn sandbox_to_first_byte(bundle: &Bundle) -> Result<f64> {
    let mut command = Runtime::Sandbox.run(bundle)?;
    command.stdout(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().context("cannot run sandbox")?;
    let mut byte = [0];
    child.stdout.take().context("no stdout")?.read_exact(&mut byte).context("the workload wrote nothing")?;
    let taken = start.elapsed().as_secs_f64();
    child.wait().context("cannot wait")?;
    Ok(taken)
}

fn qemu_to_first_line(kernel: &Path, initrd: &Path) -> Result<f64> {
    let start = Instant::now();
    let mut child = BareQemu::new(kernel, initrd).start()?;
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().context("no stdout")?);
    while !line.contains("first byte") {
        line.clear();
        let count = output.read_line(&mut line).context("cannot read the console")?;
        anyhow::ensure!(count > 0, "QEMU ended before /init printed");
    }
    let taken = start.elapsed().as_secs_f64();
    child.kill().context("cannot kill QEMU")?;
    child.wait().context("cannot wait")?;
    Ok(taken)
}
