//! The device process (`runv-devices`): started with one socket for each device, watched until its end.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU8;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use agent_protocol::SHARE_TAG;
use child::{BoundProcess, ExecLabel, Inherited, sealed_file};
use device_config::{
    BalloonConfig, ConsoleConfig, DeviceProcessConfig, Export, FsConfig, NetConfig, RngConfig, VsockConfig,
};
use vmm::config::{DeviceKind, VhostUserDevice};

use super::directory::{DirectoryError, SandboxDirectory};
use super::early_rings;
use crate::config::VirtioFs;
use crate::io::poll::readable_within;
use crate::monitor::signals;
use crate::report;

/// Context id of the guest: the first that is nobody's. It is the same in every sandbox, as each has a
/// vsock device of its own.
const GUEST_CID: u32 = 3;

/// Longest error text that is taken from the device process.
const MESSAGE_MAX: u64 = 4096;

/// The device process could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevicesError {
    /// A socket for one of the devices.
    #[error(transparent)]
    Socket(#[from] DirectoryError),
    /// Anything that this process does before it runs the program.
    #[error("cannot {step} for the device process")]
    Prepare {
        /// What was tried.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program.
    #[error("cannot run {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A running device process. Dropping it kills and reaps it.
#[derive(Debug)]
pub(crate) struct DeviceProcess {
    process: BoundProcess,
    status: File,
    /// The process ends when this closes.
    _lifeline: UnixStream,
}

/// How a device process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DevicesEnd {
    /// Its frontend went away first.
    Disconnected,
    /// It gave up, with its own words.
    Failed(String),
    /// With another status and without a word.
    Exited(i32),
    /// By a signal.
    Killed(i32),
}

impl fmt::Display for DevicesEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("the device process ended: its frontend disconnected"),
            Self::Failed(message) => write!(f, "the device process failed: {message}"),
            Self::Exited(status) => write!(f, "the device process ended with status {status}"),
            Self::Killed(signal) => {
                write!(f, "the device process was killed by {}", signals::describe(*signal))
            }
        }
    }
}

/// What not every sandbox has.
#[derive(Debug, Default)]
pub(crate) struct MoreDevices {
    /// Where the output of a virtio-console goes.
    pub(crate) console: Option<OwnedFd>,
    /// A virtio-balloon.
    pub(crate) balloon: bool,
    /// A SELinux context of the process's own.
    pub(crate) label: Option<ExecLabel>,
    /// Network interfaces.
    pub(crate) network: Vec<NetworkDevice>,
    /// Whether the frontend of one is QEMU's.
    pub(crate) network_of_qemu: bool,
}

/// A network interface of the guest.
#[derive(Debug)]
pub(crate) struct NetworkDevice {
    /// Its address.
    pub(crate) mac: [u8; 6],
    /// The host's end: the queues of a tap, one for each pair of queues of the device.
    pub(crate) tap: Vec<OwnedFd>,
    /// `/dev/vhost-net` for each of those, if the host's kernel is to move the frames.
    pub(crate) vhost: Vec<OwnedFd>,
}

/// Network devices, each with its socket and its tap.
fn network(
    directory: &SandboxDirectory,
    devices: Vec<NetworkDevice>,
    of_qemu: bool,
    inherited: &mut Inherited,
    frontends: &mut Vec<VhostUserDevice>,
) -> Result<Vec<NetConfig>, DevicesError> {
    let mut configs = Vec::new();
    for (number, device) in devices.into_iter().enumerate() {
        let name = format!("net{number}");
        let (listener, connected) = directory.private_socket(&name)?;
        let socket = if of_qemu {
            let (frontend, place) = directory.nameless_socket(&name)?;
            early_rings::start(frontend, connected)
                .map_err(|source| DevicesError::Prepare { step: "start a thread", source })?;
            place
        } else {
            connected.into()
        };
        let queue_pairs = u8::try_from(device.tap.len()).ok().and_then(NonZeroU8::new);
        let kind = DeviceKind::Net { mac: device.mac, queue_pairs: queue_pairs.unwrap_or(NonZeroU8::MIN) };
        frontends.push(VhostUserDevice { kind, socket });
        let listener_fd = inherited.add(listener.into());
        let tap_fds = device.tap.into_iter().map(|queue| inherited.add(queue)).collect();
        let vhost_fds = device.vhost.into_iter().map(|vhost| inherited.add(vhost)).collect();
        configs.push(NetConfig { listener_fd, tap_fds, vhost_fds });
    }
    Ok(configs)
}

impl DeviceProcess {
    /// Starts `program`; returns the process and, for the hypervisor, the frontends' ends of its devices.
    pub(crate) fn spawn(
        program: &Path,
        directory: &SandboxDirectory,
        exports: Vec<Export>,
        options: &VirtioFs,
        more: MoreDevices,
    ) -> Result<(Self, Vec<VhostUserDevice>), DevicesError> {
        let prepare = |step| move |source| DevicesError::Prepare { step, source };
        let mut inherited = Inherited::default();
        let (status, status_writer) = io::pipe().map_err(prepare("make a pipe"))?;
        let (lifeline, lifeline_end) = UnixStream::pair().map_err(prepare("make a socket"))?;
        let mut frontends = Vec::new();
        let mut backend = |kind: DeviceKind, name: &str, inherited: &mut Inherited| {
            let (listener, connected) = directory.private_socket(name)?;
            frontends.push(VhostUserDevice { kind, socket: connected.into() });
            Ok::<_, DirectoryError>(inherited.add(listener.into()))
        };

        let fs = FsConfig {
            listener_fd: backend(DeviceKind::Fs { tag: SHARE_TAG.into() }, "fs", &mut inherited)?,
            exports,
            cache: options.cache,
            xattr: options.xattr,
            posix_acl: options.posix_acl,
            writeback: options.writeback,
        };
        let directory_fd =
            directory.as_fd().try_clone_to_owned().map_err(prepare("duplicate a descriptor"))?;
        let vsock = VsockConfig {
            listener_fd: backend(DeviceKind::Vsock { guest_cid: GUEST_CID }, "vsock", &mut inherited)?,
            host_listener_fd: inherited.add(directory.listen_for_host()?.into()),
            directory_fd: inherited.add(directory_fd),
            guest_cid: GUEST_CID,
        };
        let rng = RngConfig { listener_fd: backend(DeviceKind::Rng, "rng", &mut inherited)? };
        let balloon = if more.balloon {
            let listener_fd = backend(DeviceKind::Balloon, "balloon", &mut inherited)?;
            Some(BalloonConfig { listener_fd })
        } else {
            None
        };
        let console = match more.console {
            Some(output) => Some(ConsoleConfig {
                listener_fd: backend(DeviceKind::Console, "console", &mut inherited)?,
                output_fd: inherited.add(output),
            }),
            None => None,
        };
        let of_qemu = more.network_of_qemu;
        let net = network(directory, more.network, of_qemu, &mut inherited, &mut frontends)?;
        let config = DeviceProcessConfig {
            status_fd: inherited.add(status_writer.into()),
            lifeline_fd: inherited.add(lifeline_end.into()),
            fs: Some(fs),
            vsock: Some(vsock),
            rng: Some(rng),
            console,
            balloon,
            net,
        };
        let process = Self::run((program, more.label), &config, inherited, status.into(), lifeline)?;
        Ok((process, frontends))
    }

    fn run(
        (program, label): (&Path, Option<ExecLabel>),
        config: &DeviceProcessConfig,
        mut inherited: Inherited,
        status: OwnedFd,
        lifeline: UnixStream,
    ) -> Result<Self, DevicesError> {
        let prepare = |step| move |source| DevicesError::Prepare { step, source };
        let json = serde_json::to_vec(config).map_err(|e| prepare("write the configuration")(e.into()))?;
        let config_file = sealed_file("device-config", &json).map_err(prepare("write the configuration"))?;
        let config_fd = inherited.add(config_file);

        let mut command = Command::new(program);
        command.arg("--config-fd").arg(config_fd.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(report::machines_stderr());
        inherited.apply(&mut command).map_err(prepare("prepare file descriptors"))?;
        let process = BoundProcess::spawn_as(command, label)
            .map_err(|source| DevicesError::Spawn { program: program.to_owned(), source })?;
        Ok(Self { process, status: status.into(), _lifeline: lifeline })
    }

    /// Polls readable once the process has ended.
    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        self.process.ended()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How it ended, if it has or does within `grace`.
    pub(crate) fn end_within(&mut self, grace: Duration) -> io::Result<Option<DevicesEnd>> {
        if !readable_within(self.process.ended(), grace)? {
            return Ok(None);
        }
        let status = self.process.wait()?;
        if let Some(signal) = status.signal() {
            return Ok(Some(DevicesEnd::Killed(signal)));
        }
        match status.code() {
            Some(0) => Ok(Some(DevicesEnd::Disconnected)),
            code => {
                let code = code.unwrap_or(-1);
                Ok(Some(self.last_words().map_or(DevicesEnd::Exited(code), DevicesEnd::Failed)))
            }
        }
    }

    /// What it wrote to its status descriptor besides `ready`. Only after its end, when all of it is there. Does not wait
    /// for the end of file: a process that a guest has come to own may have left a child that has the descriptor.
    fn last_words(&mut self) -> Option<String> {
        let mut text = Vec::new();
        rustix::io::ioctl_fionbio(&self.status, true).ok()?;
        // What was read up to an error is kept.
        let _ = Read::by_ref(&mut self.status).take(MESSAGE_MAX).read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().rfind(|line| !line.is_empty() && *line != "ready")?;
        Some(line.to_owned())
    }
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
