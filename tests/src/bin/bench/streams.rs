//! B12: vsock, by the path that users have: a workload's standard streams.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result};
use e2e::Bundle;
use e2e::pattern::Pattern;

use crate::meter::Meter;
use crate::report::Measurement;
use crate::runtime::Runtime;

const ROUNDS: u32 = 200;
const MIB: u32 = 8;

pub(crate) fn measure() -> Result<Vec<Measurement>> {
    let bundle = Bundle::new(&["cat"])?;
    let (round, mib) = echo(Runtime::Sandbox.run(&bundle)?)?;
    let (pipe_round, pipe_mib) = echo(Command::new("cat"))?;
    Ok(vec![
        Measurement::new("B12", "one byte to `cat` and back", round * 1000.0, "k instr.")
            .peer("a pipe, no sandbox", pipe_round * 1000.0),
        Measurement::new("B12", "one MiB to `cat` and back", mib, "M instr.")
            .peer("a pipe, no sandbox", pipe_mib),
    ])
}

/// Millions of instructions for one byte there and back, and for one MiB.
fn echo(mut command: Command) -> Result<(f64, f64)> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let mut input = child.stdin.take().context("no stdin")?;
    let mut output = child.stdout.take().context("no stdout")?;
    let mut byte = [0];
    let mut round = || -> Result<()> {
        input.write_all(b"x").context("cannot write")?;
        output.read_exact(&mut byte).context("no echo")
    };
    round()?;
    let meter = Meter::start()?;
    for _ in 0..ROUNDS {
        round()?;
    }
    let per_round = meter.read()? / f64::from(ROUNDS);

    let meter = Meter::start()?;
    let writer = thread::spawn(move || Pattern::new(1).write(u64::from(MIB) << 20, &mut input));
    Pattern::new(1).verify(&mut output).context("the echo is wrong")?;
    writer.join().ok().context("the writer panicked")?.context("cannot write")?;
    let per_mib = meter.read()? / f64::from(MIB);
    child.wait().context("cannot wait")?;
    Ok((per_round, per_mib))
}
