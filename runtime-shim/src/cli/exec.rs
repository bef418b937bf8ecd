//! `exec`: another process in a container.

use std::fs;
use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, anyhow};
use clap::Args;
use oci_spec::runtime::Process;
use serde_json::{Value, json};

use super::flags::Global;
use crate::bundle::{fields, rights, validate};
use crate::container::id::ContainerId;
use crate::container::make::write_pid_file;
use crate::container::process::ProcessId;
use crate::container::record::{Record, Status};
use crate::control::message::receive;
use crate::exit_code;
use crate::failure::Failure;
use crate::io::{console, terminal};
use crate::monitor::launch::{Parent, Streams, launch};
use crate::monitor::plan::{Announcement, ExecPlan};
use crate::monitor::{ending, proxy};
use crate::preserved::{Descriptor, Preserved};
use crate::sandbox::inherited_fds::withhold_inherited_fds;

/// Execute another process in a container that runs
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The process as JSON, like `process` of config.json; instead of the flags below
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Directory to start in
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// NAME=VALUE, besides the container's; may be given several times
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// User, and group
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// More groups
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// More capabilities
    #[arg(short, long, value_name = "CAPABILITY")]
    cap: Vec<String>,
    /// It gains no privileges by what it executes
    #[arg(long)]
    no_new_privs: bool,
    /// `AppArmor` profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// `SELinux` label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// cgroup below the container's
    #[arg(long, value_name = "PATH", default_value = "")]
    cgroup: String,
    /// Do not wait for its end
    #[arg(short, long)]
    detach: bool,
    /// File for the process id that stands for it on the host
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Socket that gets the master of its terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// How many descriptors from 3 on it has too: pipes, files, stream sockets
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Also in a paused container
    #[arg(long)]
    ignore_paused: bool,
    /// For runc's sake; without effect
    #[arg(long)]
    no_subreaper: bool,
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(super) fn main(
    arguments: &Arguments,
    global: &Global,
    taken: Result<Preserved, Failure>,
) -> Result<u8, Failure> {
    taken.and_then(|preserved| exec(arguments, global, preserved)).map_err(|failure| {
        let own = failure.exit_code == exit_code::OWN_ERROR;
        let exit_code = if own { exit_code::EXEC_FAILED } else { failure.exit_code };
        Failure { exit_code, ..failure.context("exec failed") }
    })
}

fn exec(arguments: &Arguments, global: &Global, preserved: Preserved) -> Result<u8, Failure> {
    withhold_inherited_fds()?;
    let (folder, record) = global.find(&arguments.id)?;
    match record.status() {
        Status::Stopped => return Err(anyhow!("cannot exec in a stopped container").into()),
        Status::Paused if !arguments.ignore_paused => {
            let text = "cannot exec in a paused container (use --ignore-paused to override)";
            return Err(anyhow!(text).into());
        }
        _ => {}
    }
    let process = arguments.process(&record)?;
    let wants_terminal = process.terminal().unwrap_or(false);
    check_console(arguments, wants_terminal)?;
    let streams = match &arguments.console_socket {
        Some(socket) => {
            let size = process.console_size();
            let cells = |cells: u64| u16::try_from(cells).unwrap_or(0);
            let (rows, columns) = size.map_or((0, 0), |size| (cells(size.height()), cells(size.width())));
            Streams::Terminal(console::open_for(socket, rows, columns)?)
        }
        None => Streams::Inherited,
    };
    let plan = ExecPlan {
        folder: absolute(folder.path())?,
        guest_id: record.guest_id(),
        process,
        cgroup: arguments.cgroup.clone(),
        ignore_paused: arguments.ignore_paused,
        log: global.log.as_deref().map(absolute).transpose()?,
        log_format: global.log_format,
        cgroups: record.cgroups,
        descriptors: preserved.kinds(),
    };
    let pid_file = arguments.pid_file.as_deref();
    let descriptors = preserved.descriptors;
    if arguments.detach {
        detached(&plan, (streams, descriptors), pid_file)
    } else {
        attached(&plan, descriptors, pid_file)
    }
}

fn detached(
    plan: &ExecPlan,
    given: (Streams, Vec<Descriptor>),
    pid_file: Option<&Path>,
) -> Result<u8, Failure> {
    let launched = launch("proxy", Some(&plan.process), plan, given, Parent::Subreaper);
    let launched = launched.context("cannot start the proxy")?;
    match receive::<Announcement>(&launched.socket).context("cannot hear of the proxy")? {
        Some((Announcement::Running { pid }, _)) => {
            let Some(path) = pid_file else { return Ok(0) };
            let written = write_pid_file(path, pid).context("cannot write the pid file");
            written.map(|()| 0).map_err(|error| Failure::from(error).after(end(pid)))
        }
        Some((Announcement::Failed { message, exit_code }, _)) => {
            Err(Failure::new(anyhow!(message), exit_code))
        }
        Some(_) | None => Err(anyhow!("the process's proxy died while it made the process").into()),
    }
}

/// A process of which the caller has not heard is not left behind: it ends with the one that stands for it.
fn end(proxy: u32) -> anyhow::Result<()> {
    ProcessId::of(proxy).and_then(|proxy| proxy.kill()).context("cannot end the process")
}

fn attached(plan: &ExecPlan, descriptors: Vec<Descriptor>, pid_file: Option<&Path>) -> Result<u8, Failure> {
    if plan.process.terminal().unwrap_or(false) {
        terminal::check()?;
    }
    let end = proxy::run(plan, descriptors, |pid| {
        pid_file.map_or(Ok(()), |path| write_pid_file(path, pid).context("cannot write the pid file"))?;
        Ok(())
    })?;
    ending::forbid_core();
    Ok(end.exit_code())
}

/// In runc's words.
fn check_console(arguments: &Arguments, wants_terminal: bool) -> Result<(), Failure> {
    match (arguments.detach, wants_terminal, &arguments.console_socket) {
        (true, true, None) => {
            Err(anyhow!("cannot allocate tty if runv will detach without setting console socket").into())
        }
        (false, _, Some(_)) | (_, false, Some(_)) => {
            Err(anyhow!("cannot use console socket if runv will not detach or allocate tty").into())
        }
        _ => Ok(()),
    }
}

impl Arguments {
    /// As with runc, those of `LISTEN_FDS` are for a container alone.
    pub(super) fn take_descriptors(&self) -> Result<Preserved, Failure> {
        Preserved::take(0, self.preserve_fds)
    }

    /// The process that is asked for: from a file, or the container's own with the flags over it.
    fn process(&self, record: &Record) -> Result<Process, Failure> {
        let document = match &self.process {
            Some(path) => {
                let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                let mut document: Value = serde_json::from_slice(&text)
                    .with_context(|| format!("cannot parse {}", path.display()))?;
                // To Go, who is not there is root.
                if let Some(process) = document.as_object_mut() {
                    process.entry("user").or_insert_with(|| json!({ "uid": 0, "gid": 0 }));
                }
                document
            }
            None => self.derived(record)?,
        };
        let mut config = json!({ "process": document });
        rights::adapt(&mut config);
        let process: Process =
            serde_json::from_value(config["process"].clone()).context("invalid process")?;
        validate::check_process(&process).context("invalid process")?;
        fields::check(&config)?;
        Ok(process)
    }

    fn derived(&self, record: &Record) -> Result<Value, Failure> {
        let mut process = serde_json::to_value(&record.process).context("invalid state")?;
        process["args"] = json!(self.command);
        process["terminal"] = json!(self.tty);
        append(&mut process["env"], self.env.iter().map(|text| json!(text)));
        if let Some(cwd) = &self.cwd {
            process["cwd"] = json!(cwd);
        }
        if let Some(user) = &self.user {
            let (uid, gid) =
                user_and_group(user).ok_or_else(|| anyhow!("invalid --user {user:?}: say UID[:GID]"))?;
            process["user"]["uid"] = json!(uid);
            if let Some(gid) = gid {
                process["user"]["gid"] = json!(gid);
            }
            if let Some(user) = process["user"].as_object_mut() {
                user.remove("username");
            }
        }
        append(&mut process["user"]["additionalGids"], self.additional_gids.iter().map(|gid| json!(gid)));
        if !self.cap.is_empty() {
            for set in ["bounding", "effective", "permitted", "ambient"] {
                append(&mut process["capabilities"][set], self.cap.iter().map(|name| json!(name)));
            }
        }
        if self.no_new_privs {
            process["noNewPrivileges"] = json!(true);
        }
        for (field, value) in [("apparmorProfile", &self.apparmor), ("selinuxLabel", &self.process_label)] {
            if let Some(value) = value {
                process[field] = json!(value);
            }
        }
        Ok(process)
    }
}

fn append(list: &mut Value, more: impl Iterator<Item = Value>) {
    let mut all = list.as_array().cloned().unwrap_or_default();
    all.extend(more);
    if !all.is_empty() {
        *list = Value::Array(all);
    }
}

fn user_and_group(text: &str) -> Option<(u32, Option<u32>)> {
    match text.split_once(':') {
        Some((user, group)) => Some((user.parse().ok()?, Some(group.parse().ok()?))),
        None => Some((text.parse().ok()?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers_as_with_runc() {
        assert_eq!(user_and_group("5"), Some((5, None)));
        assert_eq!(user_and_group("5:6"), Some((5, Some(6))));
        for bad in ["", "root", "1:", ":1", "1:2:3", "-1"] {
            assert_eq!(user_and_group(bad), None, "{bad}");
        }
    }
}
