//! What QEMU is told on its command line: a typed description in, arguments out. Pure.
//!
//! No string that somebody else chose meets QEMU's comma syntax: chardevs, machine and CPU are fixed words
//! and numbers, files are inherited descriptors, and devices and objects are JSON, where a string is quoted
//! by a serializer. `-append` is not parsed by QEMU at all.

use std::num::NonZeroU8;
use std::os::fd::RawFd;

use serde_json::json;

use super::Accelerator;
use crate::config::DeviceKind;

/// virtio-mmio transports that the machine type `microvm` has without ACPI.
pub(crate) const MAX_DEVICES: usize = 8;

/// What one QEMU process is to be. Descriptor numbers are those in the new process.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) accelerator: Accelerator,
    pub(crate) cpus: NonZeroU8,
    pub(crate) memory_mib: u32,
    pub(crate) kernel: RawFd,
    pub(crate) initrd: RawFd,
    pub(crate) kernel_command_line: &'a str,
    /// A stream socket.
    pub(crate) qmp: RawFd,
    pub(crate) console: Console,
    pub(crate) devices: Vec<Device<'a>>,
}

/// Where the serial port's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Console {
    /// A stream socket; output is dropped once its peer is gone.
    Socket(RawFd),
    /// Anything else that can be written, such as a pipe.
    File(RawFd),
}

/// A vhost-user device and the stream socket to its backend.
#[derive(Debug)]
pub(crate) struct Device<'a> {
    pub(crate) kind: &'a DeviceKind,
    pub(crate) socket: RawFd,
}

/// A machine that QEMU cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgumentError {
    #[error("{count} devices, but QEMU's microvm has {MAX_DEVICES} virtio-mmio slots")]
    TooManyDevices { count: usize },
    #[error("QEMU has no vhost-user frontend for a virtio-console; write to the serial console")]
    NoConsoleFrontend,
}

/// The whole command line after the program's name.
pub(crate) fn arguments(machine: &Machine<'_>) -> Result<Vec<String>, ArgumentError> {
    if machine.devices.len() > MAX_DEVICES {
        return Err(ArgumentError::TooManyDevices { count: machine.devices.len() });
    }
    let mut argv = Argv::default();
    argv.fixed(&["-no-user-config", "-nodefaults", "-no-reboot", "-S"]);
    argv.option("-display", "none");
    // rtc=on: without a CMOS the kernel polls for one for a second (Linux, mc146818_get_time).
    argv.option("-machine", "microvm,acpi=off,rtc=on,isa-serial=on,memory-backend=ram");
    let (accelerator, cpu) = match machine.accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg", "max"),
    };
    argv.option("-accel", accelerator);
    argv.option("-cpu", cpu);
    argv.option("-smp", &machine.cpus.to_string());
    argv.option("-m", &machine.memory_mib.to_string());
    // Backends map the guest's memory, so it must be a shared memfd.
    let bytes = u64::from(machine.memory_mib) << 20;
    argv.json(
        "-object",
        &json!({
            "qom-type": "memory-backend-memfd", "id": "ram", "size": bytes, "share": true,
        }),
    );
    argv.option("-kernel", &inherited(machine.kernel));
    argv.option("-initrd", &inherited(machine.initrd));
    argv.option("-append", machine.kernel_command_line);
    argv.option("-chardev", &format!("socket,id=qmp,fd={}", machine.qmp));
    argv.option("-mon", "chardev=qmp,mode=control");
    argv.option("-chardev", &console(machine.console));
    argv.option("-serial", "chardev:console");
    argv.json(
        "-device",
        &json!({
            "driver": "isa-debug-exit", "iobase": DEBUG_EXIT_PORT, "iosize": 2,
        }),
    );
    for (index, device) in machine.devices.iter().enumerate() {
        argv.option("-chardev", &format!("socket,id=device{index},fd={}", device.socket));
        argv.json("-device", &frontend(device.kind, &format!("device{index}"))?);
    }
    Ok(argv.0)
}

/// I/O port at which the agent says that the guest is done.
const DEBUG_EXIT_PORT: u16 = 0x501;

fn inherited(fd: RawFd) -> String {
    format!("/proc/self/fd/{fd}")
}

fn console(console: Console) -> String {
    match console {
        Console::Socket(fd) => format!("socket,id=console,fd={fd}"),
        Console::File(fd) => format!("file,id=console,path={},append=on", inherited(fd)),
    }
}

/// `chardev` is an id of ours; the tag is the only foreign string, and stands in JSON.
fn frontend(kind: &DeviceKind, chardev: &str) -> Result<serde_json::Value, ArgumentError> {
    match kind {
        DeviceKind::Fs { tag } => {
            Ok(json!({ "driver": "vhost-user-fs-device", "chardev": chardev, "tag": tag }))
        }
        // The backend answers for the guest's CID: QEMU reads it from there.
        DeviceKind::Vsock { guest_cid: _ } => {
            Ok(json!({ "driver": "vhost-user-vsock-device", "chardev": chardev }))
        }
        DeviceKind::Rng => Ok(json!({ "driver": "vhost-user-rng", "chardev": chardev })),
        DeviceKind::Console => Err(ArgumentError::NoConsoleFrontend),
    }
}

#[derive(Default)]
struct Argv(Vec<String>);

impl Argv {
    fn fixed(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(ToString::to_string));
    }

    fn option(&mut self, name: &str, value: &str) {
        self.fixed(&[name, value]);
    }

    fn json(&mut self, name: &str, value: &serde_json::Value) {
        self.option(name, &value.to_string());
    }
}
