//! The device process of a sandbox: `runv-devices --config-fd N`.
//!
//! Started by the shim, never by people: the configuration comes as JSON from an inherited descriptor.

use std::process::ExitCode;

mod inherit;
mod run;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let config_fd = match arguments.as_slice() {
        [option, number] if option == "--config-fd" => number.parse().ok(),
        _ => None,
    };
    let Some(config_fd) = config_fd else {
        eprintln!("runv-devices: usage: runv-devices --config-fd NUMBER (the shim starts this program)");
        return ExitCode::FAILURE;
    };
    run::run(config_fd)
}
