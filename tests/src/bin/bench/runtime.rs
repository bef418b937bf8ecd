//! The programs that run a bundle: `sandbox`, and the peers runc and crun.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::{Bundle, Setup};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::json;

/// A program that runs bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    Sandbox,
    Runc,
    Crun,
}

impl Runtime {
    pub(crate) const PEERS: [Self; 2] = [Self::Runc, Self::Crun];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }

    /// Runs `bundle` in the foreground, without a terminal.
    pub(crate) fn run(self, bundle: &Bundle) -> Result<Command> {
        let mut command = match self {
            Self::Sandbox => sandbox(&[])?,
            Self::Runc | Self::Crun => {
                let mut command = Command::new(self.name());
                command.args(["--root", "/run/peer", "run", "-b"]);
                command
            }
        };
        command.arg(bundle.path());
        if self != Self::Sandbox {
            command.arg("benchmark");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    }
}

/// `sandbox run` with the driver of the set-up and the memory that all benchmarks use; the bundle is to follow.
pub(crate) fn sandbox(options: &[(&str, &Path)]) -> Result<Command> {
    let setup = Setup::get()?;
    let mut command = Command::new(setup.sandbox());
    command.args(["run", "--memory", "128", "--cpus", "1", "--hypervisor", setup.hypervisor().name()]);
    for (name, value) in options {
        command.arg(name).arg(value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

/// Runs it to its end, whatever its status. Under TCG a nested guest hangs now and then, in a loop of its own: after
/// 20 s, far longer than any run takes, that is an error.
pub(crate) fn run_to_end(mut command: Command) -> Result<()> {
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let pid = Pid::from_raw(child.id().cast_signed()).context("process id 0")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch it")?;
    let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)).context("cannot wait")?;
    if ended == 0 {
        child.kill().context("cannot kill it")?;
    }
    child.wait().context("cannot wait")?;
    ensure!(ended == 1, "{command:?} hung");
    Ok(())
}

/// A bundle whose workload is one of `tests/bench/guests`.
pub(crate) fn bundle(program: &Path) -> Result<Bundle> {
    let bundle = Bundle::new(&["/workload"])?.edit(|spec| {
        // What the three runtimes, of different ages, all do.
        spec["process"]["rlimits"] = json!([]);
        // Several containers of the bundle, each in a cgroup of its own.
        spec["linux"]["cgroupsPath"] = json!(null);
    })?;
    fs::copy(program, bundle.rootfs().join("workload")).with_context(|| program.display().to_string())?;
    Ok(bundle)
}

/// An initial RAM disk with `program` as `/init`, as long as the real one: "newc", Documentation/driver-api/
/// early-userspace/buffer-format.rst.
pub(crate) fn initrd(program: &Path, length: u64, target: &Path) -> Result<PathBuf> {
    let content = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let mut archive = Vec::new();
    member(&mut archive, "init", 0o100_755, &content);
    let rest = usize::try_from(length)?.saturating_sub(archive.len());
    member(&mut archive, "rest", 0o100_644, &vec![0; rest]);
    member(&mut archive, "TRAILER!!!", 0, &[]);
    fs::write(target, archive).with_context(|| format!("cannot write {}", target.display()))?;
    Ok(target.to_owned())
}

fn member(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let fields = [1, mode, 0, 0, 1, 0, u32::try_from(content.len()).unwrap_or(0), 0, 0, 0, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    archive.extend_from_slice(format!("{:08X}{:08X}{name}\0", name.len() + 1, 0).as_bytes());
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
