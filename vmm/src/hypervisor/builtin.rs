//! Driver `builtin`: starts the embedded VMM as a process and watches it.
//!
//! All that the process needs is inherited under fixed numbers; its configuration is JSON in
//! a sealed memfd. The control socket tells this driver when the guest starts and how it ended, and its end
//! of file tells the process that this side is gone.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use child::{BoundProcess, Inherited, sealed_file};
use rustix::event::{PollFd, PollFlags, poll};

use super::{Hypervisor, StartError, Vm, VmError, VmExit};
use crate::config::{GuestFile, MIN_MEMORY_MIB, VhostUserDevice, VmConfig};
use crate::control::{BootFile, Channel, DeviceSocket, FromProcess, ProcessConfig, ToProcess};

/// The driver's name, in errors.
const NAME: &str = "runv-vmm";

/// Runs machines with the embedded VMM.
#[derive(Debug, Clone)]
pub struct Builtin {
    /// The VMM's program, `runv-vmm`.
    pub program: PathBuf,
    /// Whether it has no stderr, rather than the caller's, for what it says besides what the caller is told.
    pub is_silent: bool,
}

impl Hypervisor for Builtin {
    fn start(&self, config: VmConfig) -> Result<Box<dyn Vm>, StartError> {
        if config.own_balloon {
            return Err(StartError::Config("the driver builtin has no virtio-balloon of its own".to_owned()));
        }
        if config.memory_mib < MIN_MEMORY_MIB {
            return Err(StartError::Config(format!(
                "{} MiB of memory is too little, the least is {MIN_MEMORY_MIB} MiB",
                config.memory_mib
            )));
        }
        let (control, theirs) = Channel::pair()
            .map_err(|source| StartError::Host { step: "make the control socket of the VMM", source })?;
        let process = self.spawn(config, theirs)?;
        let mut vm = BuiltinVm { process, control, exit: None };
        vm.await_start()?;
        Ok(Box::new(vm))
    }
}

impl Builtin {
    fn spawn(&self, config: VmConfig, control: OwnedFd) -> Result<BoundProcess, StartError> {
        let mut inherited = Inherited::default();
        let control_fd = inherited.add(control);
        let label = config.label.clone();
        let config = process_config(config, &mut inherited);
        let sealed = serde_json::to_vec(&config).map_err(io::Error::from);
        let sealed = sealed.and_then(|json| sealed_file("runv-vmm-config", &json));
        let sealed = sealed
            .map_err(|source| StartError::Host { step: "write the configuration of the VMM", source })?;
        let config_fd = inherited.add(sealed);

        let mut command = Command::new(&self.program);
        command
            .args(["--config-fd", &config_fd.to_string(), "--control-fd", &control_fd.to_string()])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(if self.is_silent { Stdio::null() } else { Stdio::inherit() });
        inherited
            .apply(&mut command)
            .map_err(|source| StartError::Host { step: "give the VMM its file descriptors", source })?;
        BoundProcess::spawn_as(command, label)
            .map_err(|source| StartError::Spawn { program: self.program.clone(), source })
    }
}

/// Lays out what the process inherits.
fn process_config(config: VmConfig, inherited: &mut Inherited) -> ProcessConfig {
    let mut boot_file =
        |guest: GuestFile| BootFile { fd: inherited.add(guest.file.into()), path: guest.path };
    let kernel = boot_file(config.kernel);
    let initrd = boot_file(config.initrd);
    let mut device =
        |device: VhostUserDevice| DeviceSocket { kind: device.kind, fd: inherited.add(device.socket) };
    let devices = config.devices.into_iter().map(&mut device).collect();
    ProcessConfig {
        cpus: config.cpus,
        memory_mib: config.memory_mib,
        kernel,
        initrd,
        kernel_parameters: config.kernel_parameters,
        verbose_console: config.verbose_console,
        console_fd: inherited.add(config.console),
        devices,
    }
}

/// How a process ended that did not say why.
fn unexplained_exit(status: ExitStatus) -> VmExit {
    match status.signal() {
        Some(signal) => VmExit::Killed { signal },
        None => VmExit::Failed { message: format!("{NAME} ended without a reason, {status}") },
    }
}

/// A machine of the embedded VMM.
#[derive(Debug)]
struct BuiltinVm {
    process: BoundProcess,
    control: Channel,
    /// How it ended, once that is known.
    exit: Option<VmExit>,
}

impl BuiltinVm {
    /// Waits until the guest is about to run.
    fn await_start(&mut self) -> Result<(), StartError> {
        let failed = |message| StartError::Machine { hypervisor: NAME, message };
        match self.receive() {
            Ok(Some(FromProcess::Started)) => Ok(()),
            Ok(Some(FromProcess::Exited(VmExit::Failed { message }))) => Err(failed(message)),
            Ok(Some(other)) => Err(failed(format!("it answered {other:?} instead of starting"))),
            Ok(None) => {
                let status = self.process.wait();
                let status =
                    status.map_err(|source| StartError::Host { step: "wait for the VMM", source })?;
                Err(failed(match unexplained_exit(status) {
                    VmExit::Killed { signal } => format!("it was killed by signal {signal}"),
                    VmExit::Failed { message } => message,
                    other => format!("{other:?}"),
                }))
            }
            Err(source) => Err(StartError::Host { step: "hear from the VMM", source }),
        }
    }

    /// Sends a request and waits for its answer.
    fn request(
        &mut self,
        step: &'static str,
        request: ToProcess,
        wanted: &FromProcess,
    ) -> Result<(), VmError> {
        let failed = |source| VmError { step, source };
        self.control.send(&request).map_err(|error| failed(io::Error::other(error)))?;
        match self.receive().map_err(failed)? {
            Some(answer) if answer == *wanted => Ok(()),
            Some(FromProcess::Exited(exit)) => {
                self.exit = Some(exit);
                Err(failed(io::Error::new(io::ErrorKind::NotConnected, "it has ended")))
            }
            Some(answer) => Err(failed(io::Error::other(format!("it answered {answer:?}")))),
            None => Err(failed(io::Error::new(io::ErrorKind::NotConnected, "its process has ended"))),
        }
    }

    /// Reads messages until the machine's end.
    fn read_exit(&mut self) -> io::Result<VmExit> {
        loop {
            match self.receive() {
                Ok(Some(FromProcess::Exited(exit))) => return Ok(exit),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(unexplained_exit(self.process.wait()?)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for a message; none when the process has ended and all that it said has been read. Its socket may be open
    /// even then: a VMM that a guest has come to own may have left a child that has it.
    fn receive(&self) -> io::Result<Option<FromProcess>> {
        let ended = self.process.ended();
        let mut fds = [PollFd::new(&self.control, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        let [message, _] = fds.map(|fd| !fd.revents().is_empty());
        if message { self.control.receive().map_err(io::Error::other) } else { Ok(None) }
    }
}

impl Vm for BuiltinVm {
    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn ended(&self) -> BorrowedFd<'_> {
        self.process.ended()
    }

    fn wait(&mut self) -> Result<VmExit, VmError> {
        if let Some(exit) = &self.exit {
            return Ok(exit.clone());
        }
        let failed = |source| VmError { step: "wait for", source };
        let exit = self.read_exit().map_err(failed)?;
        // The message comes just before the end of the process, which is what `wait` promises.
        self.process.wait().map_err(failed)?;
        self.exit = Some(exit.clone());
        Ok(exit)
    }

    fn pause(&mut self) -> Result<(), VmError> {
        self.request("pause", ToProcess::Pause, &FromProcess::Paused)
    }

    fn resume(&mut self) -> Result<(), VmError> {
        self.request("resume", ToProcess::Resume, &FromProcess::Resumed)
    }

    fn stop(&mut self) -> Result<(), VmError> {
        self.process.kill().map_err(|source| VmError { step: "stop", source })
    }
}
