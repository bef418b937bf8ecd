//! Driver `qemu`: runs a machine as a QEMU process of machine type `microvm`, with KVM or with software
//! emulation (TCG).
//!
//! QEMU gets everything by descriptor: the sockets of its vhost-user backends, its console, its QMP
//! connection, kernel and initrd. It starts with its vCPUs stopped, and runs the guest when QMP says so.
//!
//! - `args`, `cmdline`, `exit`: data in, data out
//! - `qmp`: the control protocol; `watch`: the one thread of each machine, which reads QMP and stderr
//! - `program`: where QEMU is
//!
//! Limits of QEMU: 8 devices and no vhost-user console, which are errors; and with KVM a triple fault looks
//! like a reset, so [`VmExit::Reset`] stands for both there.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use child::{BoundProcess, Inherited};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

use self::args::{Console, Device, Machine};
use self::cmdline::Boot;
use self::qmp::{Client, QmpError};
use self::watch::{Sources, Watch};
use super::{Hypervisor, StartError, Vm, VmError, VmExit};
use crate::config::{GuestFile, MIN_MEMORY_MIB, VmConfig};
use crate::memory_file;

mod args;
mod cmdline;
mod exit;
mod program;
mod qmp;
mod stderr;
mod tsc;
mod watch;

#[cfg(test)]
mod conversation_tests;
#[cfg(test)]
mod starter_tests;

pub use program::{ProgramError, find_program, version};
pub(super) use tsc::begin as begin_calibration;

/// The longest that QEMU may take to make the machine or to obey. It waits for its backends meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// Linux KVM.
    Kvm,
    /// Software emulation, which QEMU does not call a security boundary.
    Tcg,
}

/// The driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// The program `qemu-system-x86_64`; see [`find_program`].
    pub program: PathBuf,
    /// What executes the guest's instructions.
    pub accelerator: Accelerator,
    /// The program `runv-vmm`, which starts a QEMU that has a label, so that it ends with this process nevertheless.
    pub binder: Option<PathBuf>,
    /// Arguments behind those of the driver, which may undo them: whoever passes them on trusts who chose them.
    pub parameters: Vec<String>,
}

impl Hypervisor for Qemu {
    fn start(&self, config: VmConfig) -> Result<Box<dyn Vm>, StartError> {
        let (ours, qmp) = UnixStream::pair().map_err(host("make a socket pair"))?;
        let (reset_log, log_writer) = match self.accelerator {
            Accelerator::Tcg => {
                pipe_with(PipeFlags::CLOEXEC).map(|(ours, theirs)| (Some(ours), Some(theirs)))
            }
            Accelerator::Kvm => Ok((None, None)),
        }
        .map_err(|errno| host("make a pipe")(errno.into()))?;
        let memory = memory_file::create(u64::from(config.memory_mib) << 20, config.file_label.as_deref())
            .map_err(host("make guest memory"))?;
        let label = config.label.clone();
        let command = self.command(config, memory.file.into(), qmp.into(), log_writer)?;
        let program = PathBuf::from(command.get_program());
        let mut process =
            BoundProcess::spawn_as(command, label).map_err(|source| StartError::Spawn { program, source })?;
        let stderr = process.take_stderr().ok_or_else(|| StartError::Host {
            step: "read QEMU's standard error",
            source: io::ErrorKind::NotFound.into(),
        })?;
        let sources = Sources {
            qmp: ours.try_clone().map_err(host("duplicate a socket"))?,
            stderr,
            reset_log: reset_log.map(File::from),
        };
        let (watch, messages) = Watch::start(sources).map_err(host("start a thread"))?;
        let mut client = Client::new(ours, messages, PATIENCE).map_err(host("set up a socket"))?;
        match client.negotiate_and_execute("cont") {
            Ok(()) => {
                let watch = Some(watch);
                Ok(Box::new(Running { process, client, watch, exit: None, _mount: memory.mount }))
            }
            Err(error) => Err(failed_start(process, watch, error)),
        }
    }
}

impl Qemu {
    /// A driver for containers without a label; with [`Qemu::binder`], for all.
    #[must_use]
    pub fn new(program: PathBuf, accelerator: Accelerator) -> Self {
        Self { program, accelerator, binder: None, parameters: Vec::new() }
    }

    /// The command as far as QEMU's own arguments. Unlike the embedded VMM, QEMU outlives its connection to this process.
    fn starter(&self, is_labelled: bool) -> Result<Command, StartError> {
        if !is_labelled {
            return Ok(Command::new(&self.program));
        }
        let binder = self.binder.as_deref().ok_or_else(|| {
            StartError::Config(
                "QEMU with a SELinux label is started by runv-vmm, which is not installed".to_owned(),
            )
        })?;
        Ok(child::tied_by(binder, &self.program))
    }

    /// Consumes the configuration's descriptors into the command.
    fn command(
        &self,
        config: VmConfig,
        memory: OwnedFd,
        qmp: OwnedFd,
        reset_log: Option<OwnedFd>,
    ) -> Result<Command, StartError> {
        let mut command = self.starter(config.label.is_some())?;
        let calibration = tsc::Calibration::start();
        if config.memory_mib < MIN_MEMORY_MIB {
            let text = format!("{} MiB of memory, but the least is {MIN_MEMORY_MIB}", config.memory_mib);
            return Err(StartError::Config(text));
        }
        let mut inherited = Inherited::default();
        check_kernel(&config.kernel)?;
        let kernel = inherited.add(config.kernel.file.into());
        let initrd = inherited.add(config.initrd.file.into());
        let memory = inherited.add(memory);
        let qmp = inherited.add(qmp);
        let reset_log = reset_log.map(|log| inherited.add(log));
        let console = inherit_console(&mut inherited, config.console)?;
        let (kinds, sockets): (Vec<_>, Vec<_>) =
            config.devices.into_iter().map(|device| (device.kind, device.socket)).unzip();
        let devices: Vec<Device<'_>> = kinds
            .iter()
            .zip(sockets)
            .map(|(kind, socket)| Device { kind, socket: inherited.add(socket) })
            .collect();
        let tsc_khz = match self.accelerator {
            Accelerator::Tcg => calibration.finish(),
            Accelerator::Kvm => 0,
        };
        let kernel_command_line = cmdline::kernel_command_line(&Boot {
            accelerator: self.accelerator,
            cpus: config.cpus,
            tsc_khz,
            verbose: config.verbose_console,
            parameters: &config.kernel_parameters,
            devices: devices.len() + usize::from(config.own_balloon),
        })
        .map_err(|error| StartError::Config(error.to_string()))?;
        let arguments = args::arguments(&Machine {
            accelerator: self.accelerator,
            cpus: config.cpus,
            memory_mib: config.memory_mib,
            memory,
            kernel,
            initrd,
            kernel_command_line: &kernel_command_line,
            qmp,
            console,
            reset_log,
            devices,
            balloon: config.own_balloon,
        })
        .map_err(|error| StartError::Config(error.to_string()))?;
        tracing::debug!(program = %self.program.display(), ?arguments, parameters = ?self.parameters, "starting QEMU");
        command
            .args(arguments)
            .args(&self.parameters)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        inherited.apply(&mut command).map_err(host("number QEMU's descriptors"))?;
        Ok(command)
    }
}

fn inherit_console(inherited: &mut Inherited, console: OwnedFd) -> Result<Console, StartError> {
    let file = File::from(console);
    let metadata = file.metadata().map_err(host("examine the console"))?;
    let fd = inherited.add(file.into());
    let is_socket = metadata.file_type().is_socket();
    Ok(if is_socket { Console::Socket(fd) } else { Console::File(fd) })
}

/// A machine whose guest runs or ran.
#[derive(Debug)]
struct Running {
    process: BoundProcess,
    client: Client,
    /// None once it was joined.
    watch: Option<Watch>,
    /// How the machine ended, once that is known.
    exit: Option<VmExit>,
    /// See [`memory_file::MemoryFile`].
    _mount: Option<OwnedFd>,
}

impl Vm for Running {
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
        let status = self.process.wait().map_err(|source| VmError { step: "wait for the end of", source })?;
        let observed = self.watch.take().map(Watch::join).unwrap_or_default();
        if !observed.stderr.is_empty() {
            tracing::debug!(stderr = observed.stderr, "QEMU ended");
        }
        let exit = exit::classify(status, &observed);
        self.exit = Some(exit.clone());
        Ok(exit)
    }

    fn pause(&mut self) -> Result<(), VmError> {
        self.client.execute("stop").map_err(|error| VmError { step: "pause", source: error.into() })
    }

    fn resume(&mut self) -> Result<(), VmError> {
        self.client.execute("cont").map_err(|error| VmError { step: "resume", source: error.into() })
    }

    fn stop(&mut self) -> Result<(), VmError> {
        self.process.kill().map_err(|source| VmError { step: "kill", source })
    }
}

/// Ends a QEMU that did not get to run its guest, and finds the best words for why.
fn failed_start(mut process: BoundProcess, watch: Watch, error: QmpError) -> StartError {
    let signal = if matches!(error, QmpError::Closed) { death_signal(&mut process) } else { None };
    drop(process);
    let observed = watch.join();
    // A QEMU that gave up by itself has said why.
    let message = match (error, signal) {
        (QmpError::Closed, Some(signal)) => format!("QEMU was killed by signal {signal}"),
        (QmpError::Closed, None) if !observed.stderr.is_empty() => observed.stderr,
        (error, _) => {
            let violation = observed.violation.map(|text| format!(": {text}")).unwrap_or_default();
            format!("{error}{violation}")
        }
    };
    StartError::Machine { hypervisor: "qemu", message }
}

/// The signal that ended a QEMU which has closed its connection, as it does only when it ends.
fn death_signal(process: &mut BoundProcess) -> Option<i32> {
    let grace = Timespec { tv_sec: 1, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(&process.ended(), PollFlags::IN)], Some(&grace)).ok()?;
    if ended == 0 {
        return None;
    }
    process.wait().ok()?.signal()
}

/// QEMU boots by PVH what is an ELF file, and takes anything else for a bzImage or a multiboot kernel.
fn check_kernel(kernel: &GuestFile) -> Result<(), StartError> {
    let mut magic = [0; 4];
    if kernel.file.read_exact_at(&mut magic, 0).is_ok() && magic == *b"\x7fELF" {
        return Ok(());
    }
    let source = io::Error::new(
        io::ErrorKind::InvalidData,
        "it is not an ELF file; an uncompressed vmlinux is needed, not a bzImage",
    );
    Err(StartError::GuestFile { what: "guest kernel", path: kernel.path.clone(), source })
}

fn host(step: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Host { step, source }
}
