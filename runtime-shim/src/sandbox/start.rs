//! Starts the processes of a sandbox, and owns them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use agent_protocol::READY_PORT;
use device_config::Export;
use vmm::config::{GuestFile, VmConfig};
use vmm::hypervisor::{self, Hypervisor, Vm};

use super::devices::{DeviceProcess, DevicesEnd, DevicesError, MoreDevices, NetworkDevice};
use super::directory::{DirectoryError, SandboxDirectory};
use super::kernel_parameters::kernel_parameters;
use super::socket_relay::{self, Server};
use crate::bundle::machine_size::MachineSize;
use crate::bundle::selinux::Labels;
use crate::bundle::socket_binds::HostSocket;
use crate::config::{Config, VirtioFs};
use crate::io::console_tail::ConsoleTail;
use crate::io::poll::readable_within;

/// How long a device process may take to say why it failed, when the machine did because of it.
const GRACE: Duration = Duration::from_millis(300);

/// The sandbox could not be started. None of its processes is left then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// Its directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The guest's console.
    #[error("cannot make the guest's console")]
    Console(#[source] io::Error),
    /// A thread for a socket of the host.
    #[error("cannot start the relay of a socket")]
    SocketRelay(#[source] io::Error),
    /// Its device process could not be run.
    #[error(transparent)]
    Devices(#[from] DevicesError),
    /// Its device process ended.
    #[error("{0}")]
    DevicesEnded(DevicesEnd),
    /// Its machine.
    #[error("cannot start the virtual machine")]
    Machine(#[source] hypervisor::StartError),
}

/// What a sandbox is made of.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// The device process's program.
    pub(crate) device_program: PathBuf,
    /// The guest kernel.
    pub(crate) kernel: GuestFile,
    /// The initrd.
    pub(crate) initrd: GuestFile,
    /// Words of the kernel's command line that somebody asks for.
    pub(crate) kernel_parameters: Vec<String>,
    /// What of the host the guest sees.
    pub(crate) exports: Vec<Export>,
    /// Whether the driver takes a virtio-console.
    pub(crate) virtio_console: bool,
    /// Whether the driver has a virtio-balloon of its own.
    pub(crate) own_balloon: bool,
    /// Sockets of the host that the guest may connect to.
    pub(crate) sockets: Vec<HostSocket>,
    /// Memory and vCPUs.
    pub(crate) size: MachineSize,
    /// Of what the host has of it.
    pub(crate) labels: Labels,
    /// The rest.
    pub(crate) config: &'a Config,
}

/// A running sandbox. Dropping it kills and reaps its processes.
pub(crate) struct Sandbox {
    /// Where its sockets are.
    pub(crate) directory: SandboxDirectory,
    /// On which its agent says hello.
    pub(crate) ready: UnixListener,
    /// What its guest says.
    pub(crate) console: ConsoleTail,
    /// What it is made of.
    pub(crate) size: MachineSize,
    // The machine goes first: its device process must not see the guest's last requests fail.
    /// Its machine.
    pub(crate) vm: Box<dyn Vm>,
    /// Its device process.
    pub(crate) devices: DeviceProcess,
}

impl Sandbox {
    /// Starts the device process and the machine at once; the machine waits for its devices by itself.
    pub(crate) fn start(
        plan: Plan<'_>,
        network: Vec<NetworkDevice>,
        driver: &dyn Hypervisor,
    ) -> Result<Self, StartError> {
        let config = plan.config;
        let directory = SandboxDirectory::create(plan.labels.mounts.as_deref())?;
        let ready = directory.listen_for_guest(READY_PORT)?;
        for socket in plan.sockets {
            let listener = directory.listen_for_guest(socket.port)?;
            socket_relay::start(listener, Server::Unix(socket.path)).map_err(StartError::SocketRelay)?;
        }
        let (console, console_end) = ConsoleTail::new(config.debug).map_err(StartError::Console)?;
        let fast_console = (config.debug && plan.virtio_console)
            .then(|| console_end.try_clone())
            .transpose()
            .map_err(StartError::Console)?;
        let options: &VirtioFs = &config.virtio_fs;
        let balloon = config.balloon.is_wanted(plan.size.memory_mib);
        let more = MoreDevices {
            console: fast_console,
            balloon: balloon && !plan.own_balloon,
            label: plan.labels.processes.clone(),
            network,
            // The driver that has a balloon of its own.
            network_of_qemu: plan.own_balloon,
        };
        let (mut devices, frontends) =
            DeviceProcess::spawn(&plan.device_program, &directory, plan.exports, options, more)?;
        let machine = VmConfig {
            cpus: plan.size.cpus,
            memory_mib: plan.size.memory_mib,
            kernel: plan.kernel,
            initrd: plan.initrd,
            kernel_parameters: [kernel_parameters(plan.size.memory_mib), plan.kernel_parameters].concat(),
            verbose_console: config.debug,
            console: console_end,
            devices: frontends,
            own_balloon: balloon && plan.own_balloon,
            label: plan.labels.processes,
            file_label: plan.labels.mounts,
        };
        let vm = driver.start(machine).map_err(|error| match devices.end_within(GRACE) {
            Ok(Some(end)) if end != DevicesEnd::Disconnected => StartError::DevicesEnded(end),
            _ => StartError::Machine(error),
        })?;
        Ok(Self { directory, ready, console, size: plan.size, vm, devices })
    }

    /// Poll readable once the machine or the device process, in this order, has ended.
    pub(crate) fn ends(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.vm.ended(), self.devices.ended())
    }

    /// Whether the machine or the device process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        let (vm, devices) = self.ends();
        [vm, devices].into_iter().any(|fd| readable_within(fd, GRACE).unwrap_or(true))
    }

    /// Whether the machine has ended or does within `time`.
    pub(crate) fn vm_ended_within(&self, time: Duration) -> bool {
        readable_within(self.vm.ended().as_fd(), time).unwrap_or(false)
    }
}
