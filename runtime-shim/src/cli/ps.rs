//! `ps`: the processes of a container.
//!
//! As JSON it gives engines the host's processes that stand for the container's, as they look those up in the host's
//! `/proc`; as a table it gives people the guest's.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use agent_protocol::agent as proto;
use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};

use super::flags::Global;
use super::ps_table::Columns;
use crate::container::id::ContainerId;
use crate::container::record::{Record, Status};
use crate::control::agent::Agent;
use crate::failure::Failure;

/// List the processes of a container
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A table, or JSON
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// Arguments of ps(1) that choose columns: -ef (the default), aux, -o COLUMN,...
    #[arg(value_name = "PS ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

pub(super) fn main(arguments: &Arguments, global: &Global) -> Result<u8, Failure> {
    let (folder, record) = global.find(&arguments.id)?;
    if record.status() == Status::Stopped {
        return Err(anyhow!("container not running").into());
    }
    let text = match arguments.format {
        Format::Json => serde_json::to_string(&host_processes(&record)).context("cannot write JSON")? + "\n",
        Format::Table => {
            let columns = Columns::parse(&arguments.arguments).context("cannot list")?;
            let request =
                proto::ListProcessesRequest { container_id: record.guest_id(), ..Default::default() };
            columns.table(&Agent::connect(&folder)?.call(&request)?.processes)
        }
    };
    io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")?;
    Ok(0)
}

/// The monitor, and the proxies of `exec`, which are in the container's cgroup and run this program.
fn host_processes(record: &Record) -> Vec<u32> {
    let members = record.cgroups.first().map(|folder| folder.join("cgroup.procs"));
    let members = members.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    let proxies =
        members.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != record.monitor.pid);
    std::iter::once(record.monitor.pid).chain(proxies.filter(|pid| runs_this_program(*pid))).collect()
}

fn runs_this_program(pid: u32) -> bool {
    let identity = |path: PathBuf| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let this = identity(PathBuf::from("/proc/self/exe"));
    this.is_some() && this == identity(PathBuf::from(format!("/proc/{pid}/exe")))
}
