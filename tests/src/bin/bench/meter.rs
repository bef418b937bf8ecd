//! Instructions that the whole nested host executes, idle time left out.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

/// One instruction under `-icount shift=4`.
const NANOSECONDS_PER_INSTRUCTION: f64 = 16.0;

/// Nanoseconds of counted time as millions of instructions.
pub(crate) fn millions(nanoseconds: u64) -> f64 {
    // Exact up to 2^53 ns.
    #[expect(clippy::cast_precision_loss, reason = "no run takes 100 days")]
    let nanoseconds = nanoseconds as f64;
    nanoseconds / NANOSECONDS_PER_INSTRUCTION / 1e6
}

/// Counts from its start.
#[derive(Debug)]
pub(crate) struct Meter {
    start: Instant,
    idle: u64,
}

impl Meter {
    pub(crate) fn start() -> Result<Self> {
        let idle = idle()?;
        Ok(Self { start: Instant::now(), idle })
    }

    /// Millions of instructions since the start.
    pub(crate) fn read(&self) -> Result<f64> {
        let elapsed = self.start.elapsed();
        let idle = idle()?.saturating_sub(self.idle);
        Ok(millions(u64::try_from(elapsed.as_nanos())?.saturating_sub(idle)))
    }
}

/// How long the only processor has been idle, in nanoseconds. `/proc/stat` knows it to 10 ms only.
fn idle() -> Result<u64> {
    let list = fs::read_to_string("/proc/timer_list").context("cannot read /proc/timer_list")?;
    list.lines()
        .find_map(|line| line.trim().strip_prefix(".idle_sleeptime : ")?.split(' ').next()?.parse().ok())
        .context("no idle_sleeptime in /proc/timer_list")
}
