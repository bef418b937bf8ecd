//! `runv` as engines call it: verb for verb, with a root of its own and files or pipes as streams. `runc` can be called
//! in the same way, to compare the two.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Bundle, Deadline, Output, Setup};

/// Whose command line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The build's.
    Runv,
    /// Debian's.
    Runc,
}

impl Program {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Runv => "runv",
            Self::Runc => "runc",
        }
    }
}

/// A root and the bundle whose containers it holds. Dropped, it deletes them by force.
#[derive(Debug)]
pub struct Runtime<'bundle> {
    bundle: &'bundle Bundle,
    root: PathBuf,
    /// The program and its flags before the verb.
    base: Vec<OsString>,
}

impl<'bundle> Runtime<'bundle> {
    /// In the bundle's directory, beside its root file system.
    ///
    /// # Errors
    /// When the set-up is wrong or nothing can be written.
    pub fn new(bundle: &'bundle Bundle) -> Result<Self> {
        Self::of(Program::Runv, bundle)
    }

    /// The same of another program.
    ///
    /// # Errors
    /// When the set-up is wrong or nothing can be written.
    pub fn of(program: Program, bundle: &'bundle Bundle) -> Result<Self> {
        let setup = Setup::get()?;
        let root = bundle.path().join("root");
        fs::create_dir_all(&root).context("cannot make the root")?;
        let mut base: Vec<OsString> = match program {
            Program::Runc => vec!["runc".into()],
            Program::Runv => {
                let config = bundle.path().join("runv.toml");
                let text =
                    format!("hypervisor = \"{}\"\ncpus = {}\n", setup.hypervisor().name(), setup.cpus());
                fs::write(&config, text).context("cannot write the configuration")?;
                vec![setup.program("runv").into(), "--config".into(), config.into()]
            }
        };
        base.extend(["--root".into(), root.clone().into()]);
        Ok(Self { bundle, root, base })
    }

    /// With the same root and configuration as another, for the containers of another bundle.
    #[must_use]
    pub fn with_root_of(other: &Runtime<'_>, bundle: &'bundle Bundle) -> Self {
        Self { bundle, root: other.root.clone(), base: other.base.clone() }
    }

    /// Where containers are kept.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file beside the bundle's configuration.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.bundle.path().join(name)
    }

    /// The command line of a verb, flags before it included.
    ///
    /// # Errors
    /// When the set-up is wrong.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let (program, flags) = self.base.split_first().context("no program")?;
        let mut command = Command::new(program);
        command.args(flags).args(arguments).current_dir(self.bundle.path());
        Ok(command)
    }

    /// The words of that command line.
    ///
    /// # Errors
    /// When the set-up is wrong.
    pub fn words(&self, arguments: &[&str]) -> Result<Vec<OsString>> {
        let command = self.command(arguments)?;
        Ok(std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_owned).collect())
    }

    /// Runs a verb that leaves no process behind.
    ///
    /// # Errors
    /// When it does not end in a minute.
    pub fn call(&self, arguments: &[&str]) -> Result<Answer> {
        self.call_with(arguments, b"")
    }

    /// The same with something to read.
    ///
    /// # Errors
    /// When it does not end in a minute.
    pub fn call_with(&self, arguments: &[&str], input: &[u8]) -> Result<Answer> {
        let mut command = self.command(arguments)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        // An error means that the command did not read it, which is its right.
        let _ = child.stdin.take().context("no stdin")?.write_all(input);
        let stdout = Output::collect(child.stdout.take().context("no stdout")?);
        let stderr = Output::collect(child.stderr.take().context("no stderr")?);
        let deadline = Deadline::generous()?;
        let code = wait(child, deadline).with_context(|| format!("{command:?}"))?;
        let stdout = String::from_utf8_lossy(&stdout.to_end(deadline)?).into_owned();
        Ok(Answer { code, stdout, stderr: String::from_utf8_lossy(&stderr.to_end(deadline)?).into_owned() })
    }

    /// Runs a verb that leaves the container's process behind, which has the files `out` and `err` of the bundle
    /// as its output; so has the verb.
    ///
    /// # Errors
    /// When it does not end in a minute.
    pub fn leave(&self, arguments: &[&str]) -> Result<Answer> {
        let child = self.start_to_leave(arguments)?;
        let code = wait(child, Deadline::generous()?).with_context(|| format!("{arguments:?}"))?;
        Ok(Answer { code, stdout: self.read("out"), stderr: self.read("err") })
    }

    /// Starts such a verb.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_to_leave(&self, arguments: &[&str]) -> Result<Child> {
        let file = |name: &str| File::create(self.file(name)).context("cannot make a file");
        let mut command = self.command(arguments)?;
        command.stdin(Stdio::null()).stdout(file("out")?).stderr(file("err")?);
        command.spawn().with_context(|| format!("cannot start {command:?}"))
    }

    /// `create`, and `start`.
    ///
    /// # Errors
    /// When either fails.
    pub fn run_detached(&self, id: &str) -> Result<()> {
        self.leave(&["create", "--pid-file", "pid", id])?.expect(0)?;
        self.call(&["start", id])?.expect(0)?;
        Ok(())
    }

    /// What is in a file of the bundle.
    #[must_use]
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// Waits until a file of the bundle contains a text.
    ///
    /// # Errors
    /// When it does not by the deadline.
    pub fn wait_for_text(&self, name: &str, text: &str) -> Result<()> {
        let there = || Ok(self.read(name).contains(text).then_some(()));
        let waited = Deadline::generous()?.wait_for(&format!("{text:?} in {name}"), there);
        waited.with_context(|| format!("it has {:?}", self.read(name)))
    }

    /// The state of a container.
    ///
    /// # Errors
    /// When there is none, or it is no JSON.
    pub fn state(&self, id: &str) -> Result<Value> {
        let answer = self.call(&["state", id])?.expect(0)?;
        serde_json::from_str(&answer.stdout).with_context(|| format!("{answer:?}"))
    }

    /// Waits until a container has a status.
    ///
    /// # Errors
    /// When it has another at the deadline.
    pub fn wait_for_status(&self, id: &str, status: &str) -> Result<()> {
        let has = || Ok((self.state(id)?["status"] == status).then_some(()));
        Deadline::generous()?.wait_for(&format!("status {status}"), has)
    }
}

impl Drop for Runtime<'_> {
    fn drop(&mut self) {
        let containers = fs::read_dir(&self.root).into_iter().flatten().flatten();
        for id in containers.filter_map(|entry| entry.file_name().into_string().ok()) {
            // What a failed test has left; the test's own error is the one to tell.
            let _ = self.call(&["delete", "--force", &id]);
        }
    }
}

fn wait(mut child: Child, deadline: Deadline) -> Result<i32> {
    let ended = deadline.wait_for("the end of the command", || child.try_wait().context("cannot wait"));
    if ended.is_err() {
        child.kill().context("cannot kill the command")?;
    }
    let status = ended?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
}

/// What came of a command.
#[derive(Debug)]
pub struct Answer {
    /// Its exit status, as a shell has it.
    pub code: i32,
    /// All that it wrote to stdout.
    pub stdout: String,
    /// All that it wrote to stderr.
    pub stderr: String,
}

impl Answer {
    /// Demands an exit status.
    ///
    /// # Errors
    /// When it is another, with what was written.
    pub fn expect(self, code: i32) -> Result<Self> {
        ensure!(self.code == code, "expected {code}: {self:?}");
        Ok(self)
    }

    /// Demands exit status 1 and a text on stderr.
    ///
    /// # Errors
    /// When either is another.
    pub fn refused(self, text: &str) -> Result<Self> {
        ensure!(self.code == 1 && self.stderr.contains(text), "expected 1 and {text:?}: {self:?}");
        Ok(self)
    }
}
