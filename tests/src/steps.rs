//! Kills a command at one of its steps. A step is the begin or the end of a system call of `runv`, whichever of its
//! processes makes it: the command itself, the monitor and the proxy that it leaves, and what they fork.
//!
//! The command is traced (ptrace(2)) by a thread of its own. When the command has ended, the thread ends too, and
//! what the command has left runs on untraced.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::Deadline;

/// Stops, so that it can be seized before its first step, and becomes the command.
const STOPPED: &str = "kill -STOP $$; exec \"$@\"";

/// The program whose steps count.
const PROGRAM: &str = "runv";

/// What came of a traced command.
#[derive(Debug)]
pub struct Traced {
    /// How many steps there were until it ended.
    pub steps: u64,
    /// At which system call (its number) of which process it was killed.
    pub killed: Option<(i64, Pid)>,
    /// Its exit status, as a shell has it.
    pub code: i32,
}

/// Runs a command to its end, and kills whichever process of `runv` makes step `kill_at`.
///
/// # Errors
/// When it cannot be traced, or does not end in a minute.
pub fn trace(words: &[OsString], directory: &Path, output: File, kill_at: Option<u64>) -> Result<Traced> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", STOPPED, "sh"]).args(words).current_dir(directory);
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("cannot duplicate a file")?)
        .stderr(output);
    let deadline = Deadline::generous()?;
    let (started, start) = channel();
    let (ended, end) = channel();
    thread::spawn(move || {
        let traced = seize(command).and_then(|child| {
            // Nobody to tell when the test has ended.
            let _ = started.send(child.id());
            Tracer::new(&child)?.follow(kill_at)
        });
        let _ = ended.send(traced);
    });
    end.recv_timeout(deadline.left()).unwrap_or_else(|_late| {
        if let Ok(pid) = start.try_recv() {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).context("cannot kill the command")?;
        }
        bail!("{words:?} did not end, traced to step {kill_at:?}")
    })
}

/// Starts the command, stopped, as a tracee of this thread.
fn seize(mut command: Command) -> Result<Child> {
    let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).context("cannot wait for the shell")?;
    ensure!(matches!(stopped, WaitStatus::Stopped(..)), "the shell did not stop: {stopped:?}");
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(pid, options).context("cannot seize the shell")?;
    kill(pid, Signal::SIGCONT).context("cannot continue the shell")?;
    Ok(child)
}

struct Tracer {
    root: Pid,
    /// Whether the steps of a thread count.
    counted: HashMap<Pid, bool>,
    steps: u64,
    killed: Option<(i64, Pid)>,
}

impl Tracer {
    fn new(child: &Child) -> Result<Self> {
        let root = Pid::from_raw(child.id().cast_signed());
        Ok(Self { root, counted: HashMap::new(), steps: 0, killed: None })
    }

    fn follow(mut self, kill_at: Option<u64>) -> Result<Traced> {
        loop {
            // Of this thread alone: other tests of the process have children too.
            let status = waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD));
            match status.context("cannot wait for the command")? {
                WaitStatus::Exited(pid, code) if pid == self.root => return Ok(self.end(code)),
                WaitStatus::Signaled(pid, signal, _) if pid == self.root => {
                    return Ok(self.end(128 + signal as i32));
                }
                WaitStatus::PtraceSyscall(pid) => self.step(pid, kill_at)?,
                WaitStatus::PtraceEvent(pid, _, event)
                    if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 =>
                {
                    self.executed(pid)?;
                }
                WaitStatus::PtraceEvent(pid, ..) => go_on(pid, None)?,
                WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal))?,
                _ => {}
            }
        }
    }

    fn end(self, code: i32) -> Traced {
        Traced { steps: self.steps, killed: self.killed, code }
    }

    fn step(&mut self, pid: Pid, kill_at: Option<u64>) -> Result<()> {
        if !*self.counted.entry(pid).or_insert_with(|| program(pid).as_deref() == Some(PROGRAM)) {
            return go_on(pid, None);
        }
        self.steps += 1;
        if Some(self.steps) != kill_at {
            return go_on(pid, None);
        }
        let call = ptrace::getregs(pid).map_or(-1, |registers| registers.orig_rax.cast_signed());
        self.killed = Some((call, pid));
        match kill(pid, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).context("cannot kill a process"),
        }
    }

    /// A machine and its devices are none of ours to trace, and would be slow.
    fn executed(&mut self, pid: Pid) -> Result<()> {
        let program = program(pid);
        self.counted.insert(pid, program.as_deref() == Some(PROGRAM));
        match program.as_deref() {
            Some(PROGRAM | "sh" | "dash" | "busybox") | None => go_on(pid, None),
            Some(_) => gone_is_fine(ptrace::detach(pid, None)),
        }
    }
}

fn program(pid: Pid) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.file_name()?.to_string_lossy().into_owned())
}

fn go_on(pid: Pid, signal: Option<Signal>) -> Result<()> {
    gone_is_fine(ptrace::syscall(pid, signal))
}

fn gone_is_fine(done: nix::Result<()>) -> Result<()> {
    match done {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).context("cannot trace on"),
    }
}
