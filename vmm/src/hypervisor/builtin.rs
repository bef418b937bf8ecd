//! Driver `builtin`: starts the embedded VMM as a process and watches it.
//!
//! All that the process needs is opened here and inherited under fixed numbers; its configuration is JSON in
//! a sealed memfd. The control socket tells this driver when the guest starts and how it ended, and its end
//! of file tells the process that this side is gone.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{MemfdFlags, SealFlags};

use super::process::BoundProcess;
use super::{Hypervisor, StartError, Vm, VmError, VmExit};
use crate::config::{MIN_MEMORY_MIB, VmConfig};
use crate::control::{BootFile, Channel, DeviceSocket, FdNumber, FromProcess, ProcessConfig, ToProcess};

/// The driver's name, in errors.
const NAME: &str = "runv-vmm";

// Numbers under which the process inherits its descriptors.
const CONFIG_FD: FdNumber = 3;
const CONTROL_FD: FdNumber = 4;
const CONSOLE_FD: FdNumber = 5;
const KERNEL_FD: FdNumber = 6;
const INITRD_FD: FdNumber = 7;
const FIRST_DEVICE_FD: FdNumber = 8;

/// Runs machines with the embedded VMM.
#[derive(Debug, Clone)]
pub struct Builtin {
    /// The VMM's program, `runv-vmm`.
    pub program: PathBuf,
}

impl Hypervisor for Builtin {
    fn start(&self, config: VmConfig) -> Result<Box<dyn Vm>, StartError> {
        if config.memory_mib < MIN_MEMORY_MIB {
            return Err(StartError::Config(format!(
                "{} MiB of memory is too little, the least is {MIN_MEMORY_MIB} MiB",
                config.memory_mib
            )));
        }
        let (control, theirs) = Channel::pair()
            .map_err(|source| StartError::Host { step: "make the control socket of the VMM", source })?;
        let mappings = inherited_descriptors(config, theirs)?;
        let process = self.spawn(mappings)?;
        let mut vm = BuiltinVm { process, control, exit: None };
        vm.await_start()?;
        Ok(Box::new(vm))
    }
}

impl Builtin {
    fn spawn(&self, mappings: Vec<FdMapping>) -> Result<BoundProcess, StartError> {
        let mut command = Command::new(&self.program);
        command
            .args(["--config-fd", &CONFIG_FD.to_string(), "--control-fd", &CONTROL_FD.to_string()])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .fd_mappings(mappings)
            .map_err(|source| StartError::Host {
                step: "give the VMM its file descriptors",
                source: io::Error::other(source),
            })?;
        BoundProcess::spawn(command)
            .map_err(|source| StartError::Spawn { program: self.program.clone(), source })
    }
}

/// Opens the boot files and lays out what the process inherits.
fn inherited_descriptors(config: VmConfig, control: OwnedFd) -> Result<Vec<FdMapping>, StartError> {
    let kernel = open_guest_file("guest kernel", &config.kernel)?;
    let initrd = open_guest_file("initrd", &config.initrd)?;
    let mut mappings = vec![
        FdMapping { parent_fd: control, child_fd: CONTROL_FD },
        FdMapping { parent_fd: config.console, child_fd: CONSOLE_FD },
        FdMapping { parent_fd: kernel, child_fd: KERNEL_FD },
        FdMapping { parent_fd: initrd, child_fd: INITRD_FD },
    ];
    let mut devices = Vec::with_capacity(config.devices.len());
    for (fd, device) in (FIRST_DEVICE_FD..).zip(config.devices) {
        mappings.push(FdMapping { parent_fd: device.socket, child_fd: fd });
        devices.push(DeviceSocket { kind: device.kind, fd });
    }
    let process_config = ProcessConfig {
        cpus: config.cpus,
        memory_mib: config.memory_mib,
        kernel: BootFile { fd: KERNEL_FD, path: config.kernel },
        initrd: BootFile { fd: INITRD_FD, path: config.initrd },
        kernel_parameters: config.kernel_parameters,
        verbose_console: config.verbose_console,
        console_fd: CONSOLE_FD,
        devices,
    };
    let sealed = sealed_json(&process_config)
        .map_err(|source| StartError::Host { step: "write the configuration of the VMM", source })?;
    mappings.push(FdMapping { parent_fd: sealed, child_fd: CONFIG_FD });
    Ok(mappings)
}

/// Opens a regular file to boot from.
fn open_guest_file(what: &'static str, path: &Path) -> Result<OwnedFd, StartError> {
    let failed = |source| StartError::GuestFile { what, path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    Ok(file.into())
}

/// `config` as JSON in a memfd that nobody can change any more, with the file offset at its start.
fn sealed_json(config: &ProcessConfig) -> io::Result<OwnedFd> {
    let memfd = rustix::fs::memfd_create("runv-vmm-config", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(memfd);
    file.write_all(&serde_json::to_vec(config)?)?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file.into())
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
        match self.control.receive() {
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
            Err(error) => {
                Err(StartError::Host { step: "hear from the VMM", source: io::Error::other(error) })
            }
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
        match self.control.receive().map_err(|error| failed(io::Error::other(error)))? {
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
            match self.control.receive() {
                Ok(Some(FromProcess::Exited(exit))) => return Ok(exit),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(unexplained_exit(self.process.wait()?)),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
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
