//! Hooks that run on the host (runtime specification, `config.md`, "POSIX-platform Hooks"): where, with which state on
//! stdin, and how long. `startContainer` hooks are the guest's.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use child::{BoundProcess, sealed_file};
use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::container::record::{Record, Status};
use crate::container::state::State;
use crate::io::poll::poll_until;
use crate::report;

/// How much of a failed hook's output is told.
const OUTPUT_MAX: u64 = 1024;

/// A hook failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// It did not run.
    #[error("error running {kind} hook #{index} ({}): cannot {step}", path.display())]
    Host {
        /// Its list.
        kind: &'static str,
        /// Its place there.
        index: usize,
        /// Its program.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ran too long.
    #[error("error running {kind} hook #{index} ({}): hook ran past specified timeout of {seconds}s", path.display())]
    Timeout {
        /// Its list.
        kind: &'static str,
        /// Its place there.
        index: usize,
        /// Its program.
        path: PathBuf,
        /// How long it had.
        seconds: u64,
    },
    /// It said so.
    #[error("error running {kind} hook #{index} ({}): {end}, output: {output}", path.display())]
    Failed {
        /// Its list.
        kind: &'static str,
        /// Its place there.
        index: usize,
        /// Its program.
        path: PathBuf,
        /// `exit status 3` or `signal 9`.
        end: String,
        /// What it printed, one line.
        output: String,
    },
}

/// When hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The monitor, its cgroups and its network namespace are there.
    Prestart,
    /// The same; the newer name.
    CreateRuntime,
    /// The same, but in the container's network namespace.
    CreateContainer,
    /// The workload runs.
    Poststart,
    /// Nothing of the container is left.
    Poststop,
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    fn status(self) -> Status {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => Status::Creating,
            Self::Poststart => Status::Running,
            Self::Poststop => Status::Stopped,
        }
    }

    fn hooks(self, record: &Record) -> &[Hook] {
        let Some(hooks) = &record.hooks else { return &[] };
        let list = match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }
}

/// Runs the hooks of a moment, one after the other, up to the first that fails. Those that come when all is over are
/// all run, and failures only logged (`runtime.md`, "Lifecycle").
pub(crate) fn run(moment: Moment, record: &Record) -> Result<(), HookError> {
    let hooks = moment.hooks(record);
    if hooks.is_empty() {
        return Ok(());
    }
    let state = State::with_status(record, moment.status()).for_hooks();
    let all = || {
        for (index, hook) in hooks.iter().enumerate() {
            match (Run { kind: moment.name(), index, hook }).run(state.as_bytes()) {
                Err(error) if moment == Moment::Poststop => report::warning(&report::chain(&error)),
                other => other?,
            }
        }
        Ok(())
    };
    if moment == Moment::CreateContainer { in_network_of(record, hooks, all) } else { all() }
}

/// On a thread of its own, as a thread has a network namespace of its own and there is no way back for this one.
fn in_network_of(
    record: &Record,
    hooks: &[Hook],
    act: impl FnOnce() -> Result<(), HookError> + Send,
) -> Result<(), HookError> {
    let failed = |source| HookError::Host {
        kind: Moment::CreateContainer.name(),
        index: 0,
        path: hooks.first().map(|hook| hook.path().clone()).unwrap_or_default(),
        step: "join the container's network namespace",
        source,
    };
    let path = format!("/proc/{}/ns/net", record.monitor.pid);
    let namespace = File::open(path).map_err(failed)?;
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
            act()
        });
        thread.join().unwrap_or_else(|_| Err(failed(io::Error::other("the thread ended"))))
    })
}

struct Run<'a> {
    kind: &'static str,
    index: usize,
    hook: &'a Hook,
}

impl Run<'_> {
    fn host(&self, step: &'static str) -> impl FnOnce(io::Error) -> HookError {
        let (kind, index, path) = (self.kind, self.index, self.hook.path().clone());
        move |source| HookError::Host { kind, index, path, step, source }
    }

    fn run(&self, state: &[u8]) -> Result<(), HookError> {
        let (kind, index, path) = (self.kind, self.index, self.hook.path().clone());
        // Files, not pipes: nothing waits for whoever still holds them.
        let stdin = sealed_file("hook-state", state).map_err(self.host("write its state"))?;
        let output = memfd_create("hook-output", MemfdFlags::CLOEXEC)
            .map_err(|errno| self.host("make a file for its output")(errno.into()))?;
        let mut output = File::from(output);
        let duplicate = || output.try_clone().map_err(self.host("duplicate a descriptor"));
        let mut command = self.command();
        command.stdin(Stdio::from(stdin)).stdout(duplicate()?).stderr(duplicate()?);
        let mut process = BoundProcess::spawn(command).map_err(self.host("execute it"))?;

        let timeout = self.hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
        let deadline = timeout.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
        let mut fds = [PollFd::from_borrowed_fd(process.ended(), PollFlags::IN)];
        if !poll_until(&mut fds, deadline).map_err(self.host("wait for it"))? {
            // Dropping it kills it.
            return Err(HookError::Timeout { kind, index, path, seconds: timeout.unwrap_or(0) });
        }
        let status = process.wait().map_err(self.host("wait for it"))?;
        if status.success() {
            return Ok(());
        }
        let end = match status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => format!("exit status {}", status.code().unwrap_or(-1)),
        };
        Err(HookError::Failed { kind, index, path, end, output: head(&mut output) })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.hook.path());
        let mut args = self.hook.args().iter().flatten();
        if let Some(name) = args.next() {
            command.arg0(name);
        }
        command.args(args);
        // As with runc, no list at all is the environment of this process.
        if let Some(variables) = self.hook.env() {
            command.env_clear();
            command.envs(variables.iter().filter_map(|variable| variable.split_once('=')));
        }
        command
    }
}

/// The start of a file as one line.
fn head(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read is not told; the hook's failure is.
    let _ = file.rewind().and_then(|()| file.take(OUTPUT_MAX).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).trim().replace(|c: char| c.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run_one(hook: serde_json::Value) -> Result<(), String> {
        let hook: Hook = serde_json::from_value(hook).unwrap();
        Run { kind: "prestart", index: 0, hook: &hook }.run(b"{}").map_err(|error| error.to_string())
    }

    #[test]
    fn a_hook_gets_the_state_its_arguments_and_only_its_environment() {
        let script = "test \"$(cat)\" = {} && test \"$A\" = b && test -z \"$HOME\"";
        run_one(json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b"]})).unwrap();
    }

    #[test]
    fn failures_say_which_hook_and_why() {
        let error = run_one(json!({"path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 3"]}));
        assert_eq!(
            error.unwrap_err(),
            "error running prestart hook #0 (/bin/sh): exit status 3, output: no luck"
        );
        let error = run_one(json!({"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $$"]})).unwrap_err();
        assert!(error.contains("signal 9"), "{error}");
        let error = run_one(json!({"path": "/nonexistent"})).unwrap_err();
        assert!(error.contains("cannot execute it"), "{error}");
    }

    #[test]
    fn a_hook_that_hangs_is_killed() {
        let error =
            run_one(json!({"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1})).unwrap_err();
        assert!(error.ends_with("hook ran past specified timeout of 1s"), "{error}");
    }
}
