//! `bench`: speed and size, as numbers that repeat. `tests/bench/run` drives it; `tests/bench/README.md` says
//! what each number is and how it is read.
//!
//! In the nested host, where QEMU counts instructions (`-icount shift=4`), an [`meter::Meter`] and the kernel's
//! tracepoints give instruction counts; on a machine of one's own there are only ratios and sizes. A benchmark
//! is a function that adds [`report::Measurement`]s.

mod bare;
mod docker;
mod emulation;
#[path = "../../../engines/engine.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "what the tests use and a benchmark does not")]
mod engine;
mod files;
mod iperf;
mod lifecycle;
mod memory;
mod meter;
mod network;
mod report;
mod runtime;
mod sizes;
mod start;
mod streams;
mod trace;
mod vsock;

use std::env;
use std::path::Path;

use anyhow::{Context, Result, bail};

use report::Report;

const USAGE: &str =
    "usage: bench nested SUBJECT GUESTS  what is counted, in the nested host; JSON on stdout; SUBJECT is
                                    bring-up, boot, boot-shares, agent, runs, lifecycle,
                                    lifecycle-shares, docker, network, memory, streams, vsock
                                    or files
       bench here SUBJECT BUILD GUESTS
                                    sizes and ratios, on this machine; JSON on stdout; SUBJECT is
                                    sizes, emulation, lifecycle, docker, vsock,
                                    network or files
       bench merge FILE...          such JSON of several files as one
       bench table FILE...          the table of it";

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let argument = |index: usize| arguments.get(index).map(Path::new).context(USAGE);
    match arguments.first().map(String::as_str) {
        Some("nested") => {
            let (subject, guests) = (argument(1)?.to_string_lossy().into_owned(), argument(2)?);
            let mut report = Report::default();
            report.add(&subject, || match subject.as_str() {
                "bring-up" => start::bring_up(guests),
                "boot" => start::boot(guests),
                "boot-shares" => start::boot_shares(guests),
                "agent" => start::agent_ready(guests),
                "runs" => start::whole_runs(guests),
                "lifecycle" => lifecycle::measure_counted(guests),
                "lifecycle-shares" => lifecycle::measure_shares(guests),
                "memory" => memory::measure(guests),
                "streams" => streams::measure(),
                "vsock" => vsock::measure_counted(),
                "files" => files::measure_counted(),
                "docker" => docker::measure("ms, nested"),
                "network" => network::measure("nested", guests),
                _ => bail!(USAGE),
            });
            report.print()
        }
        Some("here") => {
            let (subject, build, guests) =
                (argument(1)?.to_string_lossy().into_owned(), argument(2)?, argument(3)?);
            let mut report = Report::default();
            report.add(&subject, || match subject.as_str() {
                "sizes" => sizes::measure(build),
                "lifecycle" => lifecycle::measure_by_the_wall(guests),
                "emulation" => emulation::measure(build, guests),
                "files" => files::measure_by_the_wall(),
                "docker" => docker::measure("ms, TCG"),
                "network" => network::measure("TCG", guests),
                "vsock" => vsock::measure_by_the_wall(),
                _ => bail!(USAGE),
            });
            report.print()
        }
        Some("merge") => report::merge(arguments.get(1..).unwrap_or_default()),
        Some("table") => report::table(arguments.get(1..).unwrap_or_default()),
        _ => bail!(USAGE),
    }
}
