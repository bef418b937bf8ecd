//! The shim: one program with a face for each way to call it, chosen by the name under which it runs.
//!
//! | name | face |
//! |---|---|
//! | `sandbox` | for people ([`sandbox_cli`]) |
//! | any other, `runv` by default | the OCI command line, as engines call it ([`cli`]) |
//!
//! Below the faces: [`config`] and [`bundle`] say what is asked, [`sandbox`] starts it, [`monitor`] watches it, and
//! [`io`] carries its streams. What outlives a command is [`container`]'s, and [`control`] is how the next one reaches
//! it. [`preserved`] has what else the caller hands over. [`container_view`] is what the host sees of its files. [`check`] looks at the host; [`host_cgroup`],
//! [`host_namespace`], [`host_oom`] and [`hooks`] change it.

mod bundle;
mod check;
mod cli;
mod config;
mod container;
mod container_view;
mod control;
mod exit_code;
mod failure;
mod hooks;
mod host_cgroup;
mod host_namespace;
mod host_oom;
mod io;
mod monitor;
mod network;
mod path_error;
mod preserved;
mod report;
mod sandbox;
mod sandbox_cli;

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = env::args_os();
    let program = arguments.next().unwrap_or_default();
    match Path::new(&program).file_name().and_then(OsStr::to_str) {
        Some("sandbox") => ExitCode::from(sandbox_cli::main()),
        _ => ExitCode::from(cli::main()),
    }
}
