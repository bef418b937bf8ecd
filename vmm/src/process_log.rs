//! The VMM's own log: lines on standard error, and only when the user wants to see what happens.

use log::{LevelFilter, Log, Metadata, Record};

struct StandardError;

impl Log for StandardError {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        eprintln!("runv-vmm: {}: {}", record.level(), record.args());
    }

    fn flush(&self) {}
}

/// Lets log lines appear: all of them if `verbose`, else none, as what matters is told by the control socket.
pub(crate) fn start(verbose: bool) {
    if verbose && log::set_logger(&StandardError).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
}
