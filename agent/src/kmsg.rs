//! The agent's last words, and its debug output: lines in the kernel log, which the console shows.
//!
//! The console is slow and every character costs a VM exit, so nothing is logged unless something ends the
//! agent, goes wrong on clean-up, or `runv_debug` is on the kernel command line, which
//! passes words that it does not know on to PID 1.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

/// syslog(2) levels; an emergency is printed whatever the console's log level is.
const EMERGENCY: u8 = 0;
const ERROR: u8 = 3;
const INFORMATION: u8 = 6;

static DEBUG: AtomicBool = AtomicBool::new(false);

/// Turns debug lines on.
pub fn enable_debug() {
    DEBUG.store(true, Ordering::Relaxed);
}

/// A debug line; costs nothing unless enabled.
pub fn debug(line: impl FnOnce() -> String) {
    if DEBUG.load(Ordering::Relaxed) {
        write(INFORMATION, &line());
    }
}

/// An error that ends the agent, and so the guest.
pub fn fatal(error: &dyn Display) {
    write(EMERGENCY, &error.to_string());
}

/// An error that nobody else is told of, and that the guest survives.
pub fn error(error: &dyn Display) {
    write(ERROR, &error.to_string());
}

/// Has a panic reported in the kernel log.
pub fn report_panics() {
    panic::set_hook(Box::new(|info| write(EMERGENCY, &info.to_string().replace('\n', " "))));
}

fn write(level: u8, line: &str) {
    // One write is one record. There is nobody to tell if the log itself cannot be written.
    let record = format!("<{level}>runv-agent: {line}\n");
    let written =
        OpenOptions::new().write(true).open("/dev/kmsg").and_then(|mut log| log.write_all(record.as_bytes()));
    if written.is_err() {
        let _ = std::io::stderr().write_all(record.as_bytes());
    }
}
