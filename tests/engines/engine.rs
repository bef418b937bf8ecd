//! An engine: how it is started, and called.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Bundle, Deadline, Output, Setup};

/// The image that both have.
pub(crate) const IMAGE: &str = "box";

/// Where dockerd listens.
const DOCKER_SOCKET: &str = "unix:///run/docker.sock";

/// Makes each function a test for each engine.
macro_rules! each_engine {
    ($($name:ident),+ $(,)?) => {
        mod docker {
            $(#[test]
            fn $name() -> anyhow::Result<()> {
                super::$name(crate::engine::Engine::docker()?)
            })+
        }
        mod podman {
            $(#[test]
            fn $name() -> anyhow::Result<()> {
                super::$name(crate::engine::Engine::podman()?)
            })+
        }
    };
}
pub(crate) use each_engine;

/// Once what they need runs, they are called by their command lines alone.
#[derive(Debug)]
pub(crate) struct Engine {
    /// `docker` or `podman`.
    pub(crate) name: &'static str,
    global: Vec<OsString>,
}

impl Engine {
    /// docker, with a dockerd that ends with the namespaces of the tests.
    pub(crate) fn docker() -> Result<&'static Self> {
        static DOCKER: Mutex<Option<&'static Engine>> = Mutex::new(None);
        Self::once(&DOCKER, docker)
    }

    /// podman.
    pub(crate) fn podman() -> Result<&'static Self> {
        static PODMAN: Mutex<Option<&'static Engine>> = Mutex::new(None);
        Self::once(&PODMAN, podman)
    }

    /// Makes it ready to run containers, the first time.
    fn once(
        slot: &Mutex<Option<&'static Self>>,
        make: impl FnOnce(&Path) -> Result<Self>,
    ) -> Result<&'static Self> {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = *slot {
            return Ok(engine);
        }
        // Kept: a daemon works in it until the namespaces of the tests end, and /tmp with them.
        let state =
            tempfile::Builder::new().prefix("engine.").tempdir().context("cannot make a directory")?.keep();
        let engine: &'static Self = Box::leak(Box::new(make(&state)?));
        engine.call(["import", &make_image(&state)?.to_string_lossy(), IMAGE])?.expect(0)?;
        Ok(slot.insert(engine))
    }

    /// Runs one of its commands to its end.
    pub(crate) fn call(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Answer> {
        self.call_with(arguments, "")
    }

    /// The same with something to read.
    pub(crate) fn call_with(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: &str,
    ) -> Result<Answer> {
        let mut command = Command::new(self.name);
        command.args(&self.global).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let stdout = Output::collect(child.stdout.take().context("no stdout")?);
        let stderr = Output::collect(child.stderr.take().context("no stderr")?);
        // An error means that the command did not read it, which is its right.
        let _ = child.stdin.take().context("no stdin")?.write_all(input.as_bytes());
        let deadline = Deadline::generous()?;
        let waited = deadline.wait_for("the end of the command", || child.try_wait().context("cannot wait"));
        if waited.is_err() {
            child.kill().context("cannot kill it")?;
        }
        let status =
            waited.with_context(|| format!("{command:?} wrote {:?} {:?}", stdout.text(), stderr.text()))?;
        Ok(Answer {
            command: format!("{command:?}"),
            // As a shell has it.
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
            stdout: String::from_utf8_lossy(&stdout.to_end(deadline)?).into_owned(),
            stderr: String::from_utf8_lossy(&stderr.to_end(deadline)?).into_owned(),
        })
    }

    /// `run --rm` of a shell script, with options.
    pub(crate) fn run(&self, options: &[&str], script: &str) -> Result<Answer> {
        let fixed = ["run", "--rm", "--network", "none"];
        self.call(fixed.iter().chain(options).chain(&[IMAGE, "sh", "-c", script]))
    }

    /// A container in the background.
    pub(crate) fn start(&self, options: &[&str], script: &str) -> Result<Container<'_>> {
        let fixed = ["run", "--detach", "--network", "none"];
        let answer = self.call(fixed.iter().chain(options).chain(&[IMAGE, "sh", "-c", script]))?.expect(0)?;
        Ok(Container { engine: self, id: answer.stdout.trim().to_owned() })
    }
}

/// A container in the background, removed with its end.
#[derive(Debug)]
pub(crate) struct Container<'engine> {
    engine: &'engine Engine,
    /// As the engine names it.
    pub(crate) id: String,
}

impl Container<'_> {
    /// A command that takes the container's name last.
    pub(crate) fn call(&self, command: &[&str]) -> Result<Answer> {
        self.engine.call(command.iter().copied().chain([self.id.as_str()]))
    }

    /// Runs a shell script in it.
    pub(crate) fn exec(&self, options: &[&str], script: &str) -> Result<Answer> {
        let command = ["exec"].iter().chain(options).copied();
        self.engine.call(command.chain([self.id.as_str(), "sh", "-c", script]))
    }

    /// A field of `inspect`, as a Go template.
    pub(crate) fn inspect(&self, field: &str) -> Result<String> {
        let answer = self.call(&["inspect", "--format", &format!("{{{{{field}}}}}")])?.expect(0)?;
        Ok(answer.stdout.trim().to_owned())
    }

    /// Waits until it has written `text`.
    pub(crate) fn wrote(&self, text: &str) -> Result<()> {
        Deadline::generous()?.wait_for(&format!("the container to write {text:?}"), || {
            Ok(self.call(&["logs"])?.stdout.contains(text).then_some(()))
        })
    }

    /// Waits for its end.
    pub(crate) fn wait(&self) -> Result<i32> {
        let answer = self.call(&["wait"])?.expect(0)?;
        answer.stdout.trim().parse().with_context(|| format!("no status: {answer:?}"))
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // What a test asserts of removal, it calls itself.
        let _ = self.call(&["rm", "--force"]);
    }
}

/// What a command answered.
#[derive(Debug)]
pub(crate) struct Answer {
    command: String,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    /// Asserts its exit status.
    pub(crate) fn expect(self, code: i32) -> Result<Self> {
        ensure!(self.code == code, "{} ended with {}, not {code}: {self:#?}", self.command, self.code);
        Ok(self)
    }
}

/// A tar of a bundle's root file system.
fn make_image(state: &Path) -> Result<PathBuf> {
    let bundle = Bundle::shell("")?;
    let image = state.join("image.tar");
    let status = Command::new("tar").arg("-C").arg(bundle.rootfs()).arg("-cf").arg(&image).arg(".").status();
    ensure!(status.context("cannot run tar")?.success(), "tar failed");
    Ok(image)
}

fn docker(state: &Path) -> Result<Engine> {
    let setup = Setup::get()?;
    let (config, log) = (state.join("daemon.json"), state.join("dockerd.log"));
    fs::write(&config, "{}").context("cannot write dockerd's configuration")?;
    let log_file = File::create(&log).context("cannot make dockerd's log")?;
    let mut daemon = Command::new("dockerd");
    daemon.arg("--config-file").arg(config).arg("--data-root").arg(state.join("docker"));
    daemon.args(["--exec-root", "/run/docker", "--host", DOCKER_SOCKET, "--pidfile", "/run/docker.pid"]);
    daemon.args(["--bridge", "none", "--iptables=false", "--ip6tables=false"]);
    let runtime = format!("runv={}", setup.program("runv").display());
    daemon.args(["--add-runtime", &runtime, "--default-runtime", "runv"]);
    daemon.stdin(Stdio::null()).stdout(log_file.try_clone().context("dockerd's log")?).stderr(log_file);
    // Ends with the PID namespace of the tests.
    let mut child = daemon.spawn().context("cannot start dockerd; apt-get install docker.io")?;
    let engine = Engine { name: "docker", global: vec!["--host".into(), DOCKER_SOCKET.into()] };
    Deadline::after(Duration::from_secs(60))?.wait_for("dockerd", || {
        let mut text = String::new();
        File::open(&log).and_then(|mut file| file.read_to_string(&mut text)).context("dockerd's log")?;
        ensure!(child.try_wait().context("cannot wait")?.is_none(), "dockerd ended: {text}");
        Ok((engine.call(["version"])?.code == 0).then_some(()))
    })?;
    Ok(engine)
}

fn podman(state: &Path) -> Result<Engine> {
    let runtime = Setup::get()?.program("runv");
    let mut global: Vec<OsString> = vec!["--root".into(), state.join("podman").into()];
    global.extend(["--runroot", "/run/podman", "--cgroup-manager", "cgroupfs"].map(OsString::from));
    global.extend(["--events-backend", "file", "--runtime"].map(OsString::from));
    global.push(runtime.into());
    Ok(Engine { name: "podman", global })
}
