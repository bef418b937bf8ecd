//! `sandbox` as a test runs it, and what came of it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::marker::PhantomData;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::{Bundle, Deadline, Output, Process, Role, Setup, Terminal};

/// In the environment of every process of a sandbox, with a value of its own: whoever has it and is still there
/// when the sandbox has ended was leaked.
const MARK: &str = "RUNV_TEST_SANDBOX";

/// A command line of `sandbox`. The bundle outlives it, and all that it starts.
#[derive(Debug)]
pub struct Sandbox<'bundle> {
    arguments: Vec<OsString>,
    input: Vec<u8>,
    bundle: PhantomData<&'bundle Bundle>,
}

impl<'bundle> Sandbox<'bundle> {
    /// `sandbox run` on a bundle, with the driver and vCPUs of the set-up.
    ///
    /// # Errors
    /// When the set-up is wrong or the configuration file cannot be written.
    pub fn run(bundle: &'bundle Bundle) -> Result<Self> {
        let setup = Setup::get()?;
        let config = bundle.path().join("sandbox.toml");
        // Else the notice that QEMU emulates would be among what the workload writes to stderr; and many sandboxes
        // at once boot slowly in the nested host.
        let boot_timeout = setup.patience(Duration::from_secs(120)).as_secs();
        fs::write(
            &config,
            format!("software_emulation = \"allow\"\nboot_timeout_seconds = {boot_timeout}\n"),
        )
        .context("cannot write the configuration")?;
        Ok(Self::command(&["run"])
            .option("--config", &config)
            .option("--hypervisor", setup.hypervisor().name())
            .option("--cpus", setup.cpus().to_string())
            .last(bundle.path()))
    }

    /// The same with more lines in the configuration file.
    ///
    /// # Errors
    /// When the set-up is wrong or the configuration file cannot be written.
    pub fn configured(bundle: &'bundle Bundle, lines: &str) -> Result<Self> {
        let sandbox = Self::run(bundle)?;
        let file = fs::OpenOptions::new().append(true).open(bundle.path().join("sandbox.toml"));
        file.and_then(|mut file| file.write_all(lines.as_bytes()))
            .context("cannot write the configuration")?;
        Ok(sandbox)
    }

    /// Another command.
    #[must_use]
    pub fn command(arguments: &[&str]) -> Self {
        Self {
            arguments: arguments.iter().map(OsString::from).collect(),
            input: Vec::new(),
            bundle: PhantomData,
        }
    }

    /// Adds an option, before the bundle.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.arguments.splice(1..1, [name.into(), value.as_ref().to_owned()]);
        self
    }

    /// Adds an option without a value, before the bundle.
    #[must_use]
    pub fn flag(mut self, name: &str) -> Self {
        self.arguments.insert(1, name.into());
        self
    }

    /// What stdin gives before it ends; nothing by default.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    fn last(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Starts it with pipes, stdin left open.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self) -> Result<Running<'bundle>> {
        let mark = mark();
        let mut command = Command::new(Setup::get()?.sandbox());
        command.args(&self.arguments).env(MARK, &mark);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let stdin = child.stdin.take();
        let streams = Streams { stdin, stdout: Output::collect(stdout), stderr: Output::collect(stderr) };
        Ok(Running { child, streams, mark, bundle: PhantomData })
    }

    /// Starts it on a terminal of the given size, as the leader of a session.
    ///
    /// # Errors
    /// When there is no terminal or it cannot be started.
    pub fn start_on_terminal(&self, rows: u16, columns: u16) -> Result<(Running<'bundle>, Terminal)> {
        let mark = mark();
        let (near, far) = pty_process::blocking::open().context("cannot open a terminal")?;
        near.resize(pty_process::Size::new(rows, columns)).context("cannot size the terminal")?;
        let command = pty_process::blocking::Command::new(Setup::get()?.sandbox())
            .args(&self.arguments)
            .env(MARK, &mark)
            .stderr(Stdio::piped());
        let mut child = command.spawn(far).context("cannot start sandbox on a terminal")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let streams = Streams {
            stdin: None,
            stdout: Output::collect(std::io::empty()),
            stderr: Output::collect(stderr),
        };
        Ok((Running { child, streams, mark, bundle: PhantomData }, Terminal::new(near)?))
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it does not end within a minute, or leaves a process behind.
    pub fn finish(&self) -> Result<Finished> {
        self.finish_by(Deadline::generous()?)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it does not end by the deadline, or leaves a process behind.
    pub fn finish_by(&self, deadline: Deadline) -> Result<Finished> {
        let mut running = self.start()?;
        if let Some(mut stdin) = running.streams.stdin.take() {
            let input = self.input.clone();
            // On a thread: who writes more than a pipe holds must not wait for who waits for the end.
            // An error means that the workload did not read it all, which is its right.
            std::thread::spawn(move || drop(stdin.write_all(&input)));
        }
        running.finish(deadline)
    }
}

fn mark() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[derive(Debug)]
struct Streams {
    stdin: Option<ChildStdin>,
    stdout: Output,
    stderr: Output,
}

/// A `sandbox` that runs. Dropped early, it is killed.
#[derive(Debug)]
pub struct Running<'bundle> {
    child: Child,
    streams: Streams,
    mark: String,
    bundle: PhantomData<&'bundle Bundle>,
}

impl Running<'_> {
    /// Its process id.
    ///
    /// # Errors
    /// Never in practice: a process has an id.
    pub fn pid(&self) -> Result<Pid> {
        Pid::from_raw(self.child.id().cast_signed()).context("process id 0")
    }

    /// Its stdout.
    #[must_use]
    pub fn stdout(&self) -> &Output {
        &self.streams.stdout
    }

    /// Its stderr.
    #[must_use]
    pub fn stderr(&self) -> &Output {
        &self.streams.stderr
    }

    /// Its stdin, until [`Self::close_stdin`].
    ///
    /// # Errors
    /// When it is closed or on a terminal.
    pub fn stdin(&mut self) -> Result<&mut ChildStdin> {
        self.streams.stdin.as_mut().context("stdin is closed")
    }

    /// Ends its stdin.
    pub fn close_stdin(&mut self) {
        self.streams.stdin = None;
    }

    /// Its processes: itself and all that descends from it.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn processes(&self) -> Result<Vec<Process>> {
        Process::tree(self.pid()?)
    }

    /// The process that is the given part, waiting for it to start.
    ///
    /// # Errors
    /// When there is none by the deadline.
    pub fn process(&self, role: Role, deadline: Deadline) -> Result<Process> {
        deadline.wait_for(&format!("the process {role:?}"), || {
            Ok(self.processes()?.into_iter().find(|process| process.role() == Some(role)))
        })
    }

    /// Sends a signal to the process `sandbox`.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        rustix::process::kill_process(self.pid()?, signal).context("cannot signal sandbox")
    }

    /// Waits for its end; asserts that none of its processes is left.
    ///
    /// # Errors
    /// When it does not end by the deadline, or leaves a process behind.
    pub fn finish(mut self, deadline: Deadline) -> Result<Finished> {
        let end = deadline.wait_for("the end of sandbox", || self.child.try_wait().context("cannot wait"));
        let status = match end {
            Ok(status) => status,
            Err(error) => bail!("{error:#}; {}", self.describe()),
        };
        let left = self.left_behind()?;
        ensure!(left.is_empty(), "sandbox ended and left {left:?}");
        self.outcome(status, deadline)
    }

    /// Waits for its end after it or a part of it was killed; its processes have until `deadline` to go.
    ///
    /// # Errors
    /// When something of it is still there at the deadline.
    pub fn finish_killed(mut self, deadline: Deadline) -> Result<Finished> {
        let status =
            deadline.wait_for("the end of sandbox", || self.child.try_wait().context("cannot wait"))?;
        deadline
            .wait_for("the end of its processes", || Ok(self.left_behind()?.is_empty().then_some(())))
            .with_context(|| format!("left: {:?}", self.left_behind()))?;
        self.outcome(status, deadline)
    }

    fn outcome(mut self, status: ExitStatus, deadline: Deadline) -> Result<Finished> {
        let empty = || Streams {
            stdin: None,
            stdout: Output::collect(std::io::empty()),
            stderr: Output::collect(std::io::empty()),
        };
        let streams = std::mem::replace(&mut self.streams, empty());
        Ok(Finished {
            status,
            stdout: streams.stdout.to_end(deadline)?,
            stderr: streams.stderr.to_end(deadline)?,
        })
    }

    fn describe(&self) -> String {
        let tail = |output: &Output| {
            let text = output.text();
            text.char_indices()
                .rev()
                .nth(2000)
                .map_or(text.clone(), |(start, _)| text.split_at(start).1.to_owned())
        };
        format!(
            "processes {:?}; stdout ends {:?}; stderr ends {:?}",
            self.processes().map(|all| all.iter().map(|process| process.program.clone()).collect::<Vec<_>>()),
            tail(&self.streams.stdout),
            tail(&self.streams.stderr)
        )
    }

    fn left_behind(&self) -> Result<Vec<Process>> {
        let mark = format!("{MARK}={}", self.mark);
        let own = self.child.id().cast_signed();
        Ok(Process::all()?
            .into_values()
            .filter(|process| process.pid.as_raw_nonzero().get() != own)
            .filter(|process| process.environment_has(&mark))
            .collect())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Ended and reaped already: the usual case, and then both calls do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a `sandbox` that has ended left to look at.
#[derive(Debug)]
pub struct Finished {
    status: ExitStatus,
    /// All that it wrote to stdout.
    pub stdout: Vec<u8>,
    /// All that it wrote to stderr.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Its exit status; `None` when a signal killed `sandbox` itself.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that killed `sandbox` itself.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Its stdout as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its stderr as text.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Demands an exit status.
    ///
    /// # Errors
    /// When it is another, with what was written.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        ensure!(
            self.code() == Some(code),
            "expected exit status {code}, got {}; stdout {:?}; stderr {:?}",
            self.status,
            self.text(),
            self.errors()
        );
        Ok(self)
    }
}
