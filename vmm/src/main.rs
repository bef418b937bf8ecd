//! The embedded VMM's process: reads its configuration, puts the machine together, runs it, tells the driver
//! how it ended.
//!
//! ```text
//! main -> machine -> {boot, virtio, platform, kvm} -> {bus, memory, arch}
//! ```
//!
//! With `--tied-to` it is no machine, but starts QEMU where that has a SELinux label (`child::tied_by`).
//!
//! It is started by the driver `builtin` (`vmm::hypervisor::builtin`) with all files open, and opens but
//! `/dev/kvm` itself. Everything after `assemble` works on descriptors only: that is where a jail and a
//! seccomp filter can be put on.

mod arch;
mod boot;
mod bus;
mod kvm;
mod machine;
mod memory;
mod platform;
mod process_log;
mod virtio;

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::process::ExitCode;
use std::time::Instant;

use machine::event_loop::End;
use vmm::control::{Channel, FdNumber, FromProcess, InheritError, ProcessConfig, inherit};
use vmm::hypervisor::VmExit;

/// How to call this program, which people do not.
const USAGE: &str = "usage: runv-vmm --config-fd N --control-fd N (started by runv)";

/// The process cannot start to work; nobody can be told but by standard error.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{USAGE}")]
    Usage,
    #[error("cannot use the control socket")]
    Control(#[source] InheritError),
}

/// The configuration cannot be read.
#[derive(Debug, thiserror::Error)]
enum ConfigError {
    #[error("cannot use the configuration's file descriptor")]
    Inherit(#[source] InheritError),
    #[error("cannot read the configuration")]
    Read(#[source] std::io::Error),
    #[error("cannot understand the configuration")]
    Parse(#[source] serde_json::Error),
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == child::TIED_TO) {
        let Err(error) = child::execute_tied(arguments);
        eprintln!("runv-vmm: error: {}", chain(&error));
        return ExitCode::FAILURE;
    }
    match start() {
        Ok((config_fd, control)) => run(config_fd, &control),
        Err(error) => {
            eprintln!("runv-vmm: error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Finds the control socket, so that all later errors can be told to the driver.
fn start() -> Result<(FdNumber, Channel), StartError> {
    let mut arguments = std::env::args().skip(1);
    let mut option = |name: &str| {
        let named = arguments.next().is_some_and(|argument| argument == name);
        let value = arguments.next()?;
        value.parse().ok().filter(|_| named)
    };
    let config_fd = option("--config-fd").ok_or(StartError::Usage)?;
    let control_fd = option("--control-fd").ok_or(StartError::Usage)?;
    let control = inherit(control_fd).map_err(StartError::Control)?;
    Ok((config_fd, Channel::new(control)))
}

/// Runs the machine and reports its end.
fn run(config_fd: FdNumber, control: &Channel) -> ExitCode {
    let exit = match run_machine(config_fd, control) {
        Ok(End::Exit(exit)) => exit,
        Ok(End::Stopped) => return ExitCode::SUCCESS,
        Err(error) => VmExit::Failed { message: chain(error.as_ref()) },
    };
    match control.send(&FromProcess::Exited(exit)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("runv-vmm: error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run_machine(config_fd: FdNumber, control: &Channel) -> Result<End, Box<dyn Error>> {
    let begin = Instant::now();
    let config = read_config(config_fd)?;
    process_log::start(config.verbose_console);
    let machine = machine::assemble::assemble(&config)?;
    log::info!("the machine was put together in {:?}", begin.elapsed());
    Ok(machine::event_loop::run(machine, control)?)
}

fn read_config(fd: FdNumber) -> Result<ProcessConfig, ConfigError> {
    let mut text = Vec::new();
    File::from(inherit(fd).map_err(ConfigError::Inherit)?)
        .read_to_end(&mut text)
        .map_err(ConfigError::Read)?;
    serde_json::from_slice(&text).map_err(ConfigError::Parse)
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
