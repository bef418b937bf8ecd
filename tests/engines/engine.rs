//! An engine: how it is started, and called.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Bundle, Deadline, Output, Setup, Terminal};

/// The image that both have.
pub(crate) const IMAGE: &str = "box";

/// Where dockerd listens, and what it has.
const DOCKER_SOCKET: &str = "unix:///run/docker.sock";
const DOCKER_PID_FILE: &str = "/run/docker.pid";

/// Where the runtime keeps docker's containers, whichever runtime it is.
pub(crate) const DOCKER_RUNTIME_ROOT: &str = "/run/docker/runtime-runc/moby";

/// The runtime to compare with.
pub(crate) const RUNC: &str = "/usr/sbin/runc";

/// Who makes the containers' cgroups: `cgroupfs`, or `systemd` where that is PID 1 (`tests/run systemd`).
pub(crate) fn cgroup_driver() -> String {
    std::env::var("RUNV_CGROUP_DRIVER").unwrap_or_else(|_| "cgroupfs".into())
}

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
    program: PathBuf,
    global: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    /// dockerd, which can be killed and started again.
    daemon: Option<Mutex<Daemon>>,
}

/// dockerd as it is started.
#[derive(Debug)]
struct Daemon {
    child: Child,
    command: Command,
    log: PathBuf,
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

    /// One of its commands.
    pub(crate) fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.global).args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // conmon leaves a file where it is started, when memory runs out.
        command.current_dir("/tmp");
        command
    }

    /// Starts one of its commands on a terminal.
    pub(crate) fn on_terminal(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        rows: u16,
        columns: u16,
    ) -> Result<OnTerminal> {
        let (child, terminal) = Terminal::run(&self.command(arguments), rows, columns)?;
        Ok(OnTerminal { child, terminal })
    }

    /// The engine with runc in place of runv.
    pub(crate) fn with_runc(&self) -> Self {
        let runtime = ["--runtime", RUNC].map(OsString::from);
        // docker takes it after the verb.
        self.with(runtime.into_iter().filter(|_| self.name == "podman"))
    }

    /// podman with netavark and aardvark-dns for its networks, in place of CNI's plug-ins.
    pub(crate) fn with_netavark(&self) -> Result<Self> {
        let networks = tempfile::Builder::new().prefix("netavark.").tempdir();
        let networks = networks.context("cannot make a directory")?.keep();
        let flags = ["--network-backend", "netavark", "--network-config-dir"].map(OsString::from);
        Ok(self.with(flags.into_iter().chain([networks.into()])))
    }

    /// With more flags before the verb; of each the last one counts.
    fn with(&self, flags: impl IntoIterator<Item = OsString>) -> Self {
        Self {
            name: self.name,
            program: self.program.clone(),
            global: self.global.iter().cloned().chain(flags).collect(),
            environment: self.environment.clone(),
            daemon: None,
        }
    }

    /// buildah, with podman's images.
    pub(crate) fn as_buildah(&self) -> Self {
        let storage = ["--root", "--runroot"].map(OsString::from);
        let pairs =
            self.global.chunks(2).filter(|pair| pair.first().is_some_and(|flag| storage.contains(flag)));
        Self {
            name: "buildah",
            program: "buildah".into(),
            global: pairs.flatten().cloned().collect(),
            environment: Vec::new(),
            daemon: None,
        }
    }

    /// Kills dockerd, has `meanwhile` look at what goes on without it, and starts it again.
    pub(crate) fn without_daemon<T>(&self, meanwhile: impl FnOnce() -> Result<T>) -> Result<T> {
        let daemon = self.daemon.as_ref().context("no daemon")?;
        let mut daemon = daemon.lock().unwrap_or_else(PoisonError::into_inner);
        daemon.child.kill().context("cannot kill dockerd")?;
        daemon.child.wait().context("cannot wait for dockerd")?;
        let seen = meanwhile();
        daemon.child = daemon.command.spawn().context("cannot start dockerd again")?;
        self.wait_for(&mut daemon)?;
        seen
    }

    /// Waits until dockerd answers.
    fn wait_for(&self, daemon: &mut Daemon) -> Result<()> {
        Deadline::after(Duration::from_secs(60))?.wait_for("dockerd", || {
            let mut text = String::new();
            let log = File::open(&daemon.log).and_then(|mut file| file.read_to_string(&mut text));
            log.context("dockerd's log")?;
            ensure!(daemon.child.try_wait().context("cannot wait")?.is_none(), "dockerd ended: {text}");
            Ok((self.call(["version"])?.code == 0).then_some(()))
        })
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
        self.call_within(Duration::from_secs(60), arguments, input)
    }

    /// The same, if it may take longer or shorter.
    pub(crate) fn call_within(
        &self,
        patience: Duration,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: &str,
    ) -> Result<Answer> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let stdout = Output::collect(child.stdout.take().context("no stdout")?);
        let stderr = Output::collect(child.stderr.take().context("no stderr")?);
        // An error means that the command did not read it, which is its right.
        let _ = child.stdin.take().context("no stdin")?.write_all(input.as_bytes());
        let deadline = Deadline::after(patience)?;
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

    /// A container in the background, without a network.
    pub(crate) fn start(&self, options: &[&str], script: &str) -> Result<Container<'_>> {
        self.start_in("none", options, script)
    }

    /// The same in a network.
    pub(crate) fn start_in(&self, network: &str, options: &[&str], script: &str) -> Result<Container<'_>> {
        let fixed = ["run", "--detach", "--network", network];
        let answer = self.call(fixed.iter().chain(options).chain(&[IMAGE, "sh", "-c", script]))?.expect(0)?;
        Ok(self.existing(answer.stdout.trim()))
    }

    /// One that has been created, to be removed as any other.
    pub(crate) fn existing(&self, id: &str) -> Container<'_> {
        Container { engine: self, id: id.to_owned() }
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

/// A command on a terminal.
#[derive(Debug)]
pub(crate) struct OnTerminal {
    child: Child,
    pub(crate) terminal: Terminal,
}

impl OnTerminal {
    /// Types.
    pub(crate) fn type_in(&mut self, text: &str) -> Result<()> {
        self.terminal.type_in(text)
    }

    /// Waits until `text` is on the screen.
    pub(crate) fn shows(&self, text: &str) -> Result<()> {
        self.terminal.output().wait_for(text, Deadline::generous()?)
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Result<i32> {
        let deadline = Deadline::generous()?;
        let ended = deadline
            .wait_for("the end of the command", || self.child.try_wait().context("cannot wait"))
            .with_context(|| format!("the screen is {:?}", self.terminal.output().text()));
        if ended.is_err() {
            // Its container is removed by whoever made it.
            self.child.kill().context("cannot kill it")?;
        }
        ended?.code().context("it was killed")
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
    let mut command = Command::new("dockerd");
    command.arg("--config-file").arg(config).arg("--data-root").arg(state.join("docker"));
    command.args(["--exec-root", "/run/docker", "--host", DOCKER_SOCKET, "--pidfile", DOCKER_PID_FILE]);
    // The bridge, and rules of iptables, are in the network namespace of the tests.
    command.arg("--live-restore");
    command.arg("--exec-opt").arg(format!("native.cgroupdriver={}", cgroup_driver()));
    let runtime = format!("runv={}", setup.program("runv").display());
    command.args(["--add-runtime", &runtime, "--default-runtime", "runv"]);
    command.stdin(Stdio::null()).stdout(log_file.try_clone().context("dockerd's log")?).stderr(log_file);
    // Ends with the PID namespace of the tests.
    let child = command.spawn().context("cannot start dockerd; apt-get install docker.io")?;
    let mut daemon = Daemon { child, command, log };
    // Debian's, if there are others too.
    let program = Some(PathBuf::from("/usr/bin/docker")).filter(|path| path.exists());
    let engine = Engine {
        name: "docker",
        program: program.unwrap_or_else(|| "docker".into()),
        global: vec!["--host".into(), DOCKER_SOCKET.into()],
        // No configuration of whoever runs the tests; and the builder that has no network of its own.
        environment: vec![("DOCKER_CONFIG", state.into()), ("DOCKER_BUILDKIT", "0".into())],
        daemon: None,
    };
    engine.wait_for(&mut daemon)?;
    Ok(Engine { daemon: Some(Mutex::new(daemon)), ..engine })
}

fn podman(state: &Path) -> Result<Engine> {
    let runtime = Setup::get()?.program("runv");
    let mut global: Vec<OsString> = vec!["--root".into(), state.join("podman").into()];
    global.extend(["--runroot", "/run/podman", "--cgroup-manager", &cgroup_driver()].map(OsString::from));
    let networks = state.join("networks");
    fs::create_dir(&networks).context("cannot make a directory")?;
    // It would take netavark where that is installed.
    global.extend(["--network-backend", "cni", "--network-config-dir"].map(OsString::from));
    global.push(networks.into());
    global.extend(["--events-backend", "file", "--runtime"].map(OsString::from));
    global.push(runtime.into());
    Ok(Engine { name: "podman", program: "podman".into(), global, environment: Vec::new(), daemon: None })
}
