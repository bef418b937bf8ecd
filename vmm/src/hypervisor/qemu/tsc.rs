//! The frequency of the host's time stamp counter.
//!
//! Under TCG the guest's TSC is the host's, and the guest kernel cannot calibrate it: its timers are late by
//! whatever the emulation takes. Without a known TSC it keeps time in jiffies and loses them under load.

#![allow(unsafe_code, reason = "CPUID and RDTSC are intrinsics")]
// CPUID is a safe intrinsic in newer compilers than the oldest that builds this.
#![allow(unused_unsafe, reason = "__cpuid was unsafe up to Rust 1.93")]

use std::arch::x86_64::{__cpuid, _rdtsc};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// Shortest span between two readings: some 40 ns of doubt at each end make 20 parts per million.
const SPAN: Duration = Duration::from_millis(4);

/// The first reading of this process.
static FIRST: OnceLock<Reading> = OnceLock::new();

/// A reading that [`Calibration::finish`] compares with a later one.
#[derive(Debug)]
pub(crate) struct Calibration {
    start: Reading,
}

/// Takes the first reading, if none was taken: the longer ago it is, the less there is to wait for.
pub(crate) fn begin() {
    FIRST.get_or_init(Reading::take);
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    ticks: u64,
    time: Instant,
}

impl Calibration {
    pub(crate) fn start() -> Self {
        Self { start: *FIRST.get_or_init(Reading::take) }
    }

    /// TSC frequency in kHz: what the CPU says, else what was measured since the start. Sleeps if the start
    /// was less than a few milliseconds ago.
    pub(crate) fn finish(self) -> u64 {
        if let Some(khz) = declared_khz() {
            return khz;
        }
        thread::sleep(SPAN.saturating_sub(self.start.time.elapsed()));
        let end = Reading::take();
        let ticks = u128::from(end.ticks.saturating_sub(self.start.ticks));
        let nanoseconds = end.time.duration_since(self.start.time).as_nanos().max(1);
        u64::try_from(ticks * 1_000_000 / nanoseconds).unwrap_or(u64::MAX)
    }
}

impl Reading {
    /// The best of a few tries: one during which the thread was not interrupted.
    fn take() -> Self {
        let mut best = Self::bracketed();
        for _ in 0..7 {
            let next = Self::bracketed();
            if next.0 < best.0 {
                best = next;
            }
        }
        best.1
    }

    /// A reading and the width of its doubt in ticks.
    fn bracketed() -> (u64, Self) {
        let before = ticks();
        let time = Instant::now();
        let width = ticks().saturating_sub(before);
        (width, Self { ticks: before + width / 2, time })
    }
}

fn ticks() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 CPU, and Linux leaves it to user mode unless asked by prctl.
    unsafe { _rdtsc() }
}

/// CPUID leaf 15h (Intel SDM volume 2, CPUID): crystal frequency times ratio. Most virtual hosts have none.
fn declared_khz() -> Option<u64> {
    if cpuid(0)[0] < 0x15 {
        return None;
    }
    let [denominator, numerator, crystal_hz, _] = cpuid(0x15).map(u64::from);
    match crystal_hz * numerator {
        0 => None,
        product => product.checked_div(denominator * 1000),
    }
}

fn cpuid(leaf: u32) -> [u32; 4] {
    // SAFETY: CPUID exists on every x86-64 CPU and has no memory operands.
    let result = unsafe { __cpuid(leaf) };
    [result.eax, result.ebx, result.ecx, result.edx]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_frequency_is_that_of_the_counter() {
        let khz = Calibration::start().finish();
        let start = Reading::take();
        thread::sleep(5 * SPAN);
        let end = Reading::take();
        let micros = u64::try_from(end.time.duration_since(start.time).as_micros()).unwrap();
        let reference = (end.ticks - start.ticks) * 1000 / micros;
        assert!(khz.abs_diff(reference) * 1000 < reference, "{khz} kHz, but {reference} kHz");
    }
}
