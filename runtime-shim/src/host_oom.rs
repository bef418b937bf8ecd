//! Tells engines of a want of memory in the guest, in the one way that they look at: as an event of the container's
//! cgroup on the host.
//!
//! containerd's shim, conmon and kubelet watch that cgroup and know nothing of a guest's. So, once a workload has ended
//! of which the guest's kernel has killed processes, a process of this program is let run out of memory there: the
//! cgroup's limit is set to little more than what is used, and the process takes it until the kernel kills it, which
//! is what the watchers see. Then the limit is as it was.
//!
//! The kernel ends the process that has most: its own memory, and as much of the limit as its `oom_score_adj` says. Ours
//! says all of it. The others have pages that are charged elsewhere, those of QEMU's program for one, and a score that they
//! inherited, so the limit has to be large enough for all of it to be more than what any of them comes to.

use crate::path_error::{PathError, failed};
use rustix::process::Signal;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Room for the process to start in, beside what is used.
const ROOM: u64 = 8 << 20;

/// What the process takes beyond the limit before it gives up: the limit does not hold.
const EXCESS: u64 = 64 << 20;

/// The process takes no more of the host's memory than this, for the sake of an event.
const MOST: u64 = 1 << 30;

/// linux/oom.h.
const OOM_SCORE_ADJ_MAX: i64 = 1000;

/// How long the kernel may take, on a host that is busy or emulated too.
const PATIENCE: Duration = Duration::from_secs(20);

/// The event could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OomError {
    /// A file of the cgroup.
    #[error(transparent)]
    File(#[from] PathError),
    /// The process.
    #[error("cannot run a process out of memory")]
    Process(#[source] io::Error),
    /// The machine's processes have been given scores that ours can exceed at too high a price.
    #[error("the oom_score_adj of the machine's processes is so high that they would be ended first")]
    Outscored,
    /// The kernel.
    #[error("the kernel did not end the process that was to run out of memory")]
    Survived,
}

/// Files of a cgroup's memory controller.
struct Names {
    limit: &'static str,
    usage: &'static str,
    /// What keeps the process from being swapped out instead, and its value.
    no_swap: (&'static str, &'static str),
}

const V1: Names = Names {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    no_swap: ("memory.swappiness", "0"),
};
const V2: Names = Names { limit: "memory.max", usage: "memory.current", no_swap: ("memory.swap.max", "0") };

/// A thread that makes the event when it is told to, by the host's paths, whatever the caller's have become.
#[derive(Debug)]
pub(crate) struct Herald {
    order: Sender<()>,
    done: Receiver<Result<(), OomError>>,
}

impl Herald {
    /// Starts the thread, for the cgroup of these folders. It ends with this.
    pub(crate) fn start(folders: Vec<PathBuf>) -> io::Result<Self> {
        let (order, ordered) = channel();
        let (report, done) = channel();
        thread::Builder::new().name("oom".into()).spawn(move || {
            if ordered.recv().is_ok() {
                // Nobody to tell when the other end has gone.
                let _ = report.send(make_event(&folders));
            }
        })?;
        Ok(Self { order, done })
    }

    /// Makes the event.
    pub(crate) fn tell(self) -> Result<(), OomError> {
        // Either fails only if the thread has panicked.
        let told = self.order.send(()).is_ok();
        let done = if told { self.done.recv().ok() } else { None };
        done.unwrap_or(Err(OomError::Survived))
    }
}

/// In whichever of `folders` has the memory controller; nothing, if none has.
fn make_event(folders: &[PathBuf]) -> Result<(), OomError> {
    let of = |folder: &Path| [V1, V2].into_iter().find(|names| folder.join(names.limit).exists());
    let Some((folder, names)) = folders.iter().find_map(|folder| Some((folder, of(folder)?))) else {
        return Ok(());
    };
    let limit = folder.join(names.limit);
    let before = read(&limit)?;
    let used = read(&folder.join(names.usage))?.parse().unwrap_or(0_u64);
    let narrow = used.max(decisive(folder)?).saturating_add(ROOM);
    if narrow - used > MOST {
        return Err(OomError::Outscored);
    }
    // Where there is no swap, there is no such file.
    let swap = folder.join(names.no_swap.0);
    let swap_before = fs::read_to_string(&swap);
    let _ = fs::write(&swap, names.no_swap.1);
    fs::write(&limit, narrow.to_string()).map_err(failed("set", &limit))?;
    let end = run_out(narrow.saturating_sub(used).saturating_add(EXCESS));
    fs::write(&limit, before).map_err(failed("restore", &limit))?;
    if let Ok(before) = swap_before {
        fs::write(&swap, before.trim()).map_err(failed("restore", &swap))?;
    }
    end
}

/// The limit that makes more of one process than of any other in a cgroup, in bytes: that which has all of it to its
/// account, as its `oom_score_adj` is the highest there is.
fn decisive(folder: &Path) -> Result<u64, OomError> {
    let processes = read(&folder.join("cgroup.procs"))?;
    // One that has ended meanwhile has nothing.
    let needed = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?;
        Some(decisive_over(memory_of(&status), score.trim().parse().ok()?))
    };
    Ok(processes.lines().filter_map(needed).max().unwrap_or(0))
}

/// Over a process with so much memory and such an `oom_score_adj`: thousandths of the limit are added to what it has.
/// Nothing is over one that has all of them, too.
fn decisive_over(memory: u64, score: i64) -> u64 {
    let others = OOM_SCORE_ADJ_MAX.checked_sub(score).and_then(|others| u64::try_from(others).ok());
    others.and_then(|others| memory.saturating_mul(1000).checked_div(others)).unwrap_or(u64::MAX)
}

/// The sum that `oom_badness` makes, of the lines of a `/proc/PID/status`.
fn memory_of(status: &str) -> u64 {
    let counted = |line: &str| {
        let rest = ["VmRSS:", "VmSwap:", "VmPTE:"].iter().find_map(|name| line.strip_prefix(name))?;
        rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    status.lines().filter_map(counted).sum::<u64>() << 10
}

fn run_out(most: u64) -> Result<(), OomError> {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["exhaust", &most.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().map_err(OomError::Process)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().map_err(OomError::Process)? {
            Some(status) if status.signal() == Some(Signal::KILL.as_raw()) => return Ok(()),
            Some(_) => return Err(OomError::Survived),
            // A cgroup whose OOM killer is off lets it hang.
            None if Instant::now() > deadline => {
                child.kill().and_then(|()| child.wait()).map_err(OomError::Process)?;
                return Err(OomError::Survived);
            }
            None => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Takes `most` bytes, or less if the kernel ends this process before; returns the status with which to exit if it does
/// not.
pub(crate) fn exhaust(most: usize) -> u8 {
    // Raising it needs no right. Without it, another process might be chosen.
    if fs::write("/proc/self/oom_score_adj", "1000").is_ok() {
        let taken = vec![1_u8; most];
        std::hint::black_box(&taken);
    }
    1
}

fn read(path: &Path) -> Result<String, OomError> {
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_without_the_memory_controller_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(make_event(&[folder.path().to_owned()]).is_ok());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_process_has_what_the_kernel_counts() {
        let status =
            "Name:\tx\nVmPeak:\t 900 kB\nVmRSS:\t    20 kB\nRssFile:\t 8 kB\nVmPTE:\t 4 kB\nVmSwap:\t 1 kB\n";
        assert_eq!(memory_of(status), 25 << 10);
        assert_eq!(memory_of("Name:\tkthreadd\n"), 0);
    }

    #[test]
    fn the_limit_decides_whatever_score_a_process_has() {
        for (memory, score) in [(0, 0), (150 << 20, 0), (150 << 20, 500), (150 << 20, -999), (7, 999)] {
            let limit = decisive_over(memory, score) + ROOM;
            let others = i64::try_from(memory).unwrap() + i64::try_from(limit).unwrap() * score / 1000;
            assert!(others < i64::try_from(limit).unwrap(), "{memory} {score}");
        }
        assert_eq!(decisive_over(7, 1000), u64::MAX);
    }
}
