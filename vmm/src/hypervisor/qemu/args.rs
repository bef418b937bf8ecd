//! What QEMU is told on its command line: a typed description in, arguments out. Pure.
//!
//! No string that somebody else chose meets QEMU's comma syntax: chardevs, machine and CPU are fixed words
//! and numbers, files are inherited descriptors, and devices and objects are JSON, where a string is quoted
//! by a serializer. `-append` is not parsed by QEMU at all. (`Qemu::parameters` are another matter: whole arguments, which the
//! host's administrator has written down.)

use std::num::NonZeroU8;
use std::os::fd::RawFd;

use serde_json::json;

use super::Accelerator;
use crate::config::DeviceKind;
use crate::memory_file::HUGE_PAGE;

/// virtio-mmio transports that the machine type `microvm` has without ACPI.
pub(crate) const MAX_DEVICES: usize = 8;

/// What one QEMU process is to be. Descriptor numbers are those in the new process.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) accelerator: Accelerator,
    pub(crate) cpus: NonZeroU8,
    pub(crate) memory_mib: u32,
    /// A file of that size.
    pub(crate) memory: RawFd,
    pub(crate) kernel: RawFd,
    pub(crate) initrd: RawFd,
    pub(crate) kernel_command_line: &'a str,
    /// A stream socket.
    pub(crate) qmp: RawFd,
    pub(crate) console: Console,
    /// Where QEMU's log of CPU resets goes, a pipe. Only TCG writes one.
    pub(crate) reset_log: Option<RawFd>,
    pub(crate) devices: Vec<Device<'a>>,
    /// Memory that the guest frees goes back to the host.
    pub(crate) balloon: bool,
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
    #[error("QEMU has no vhost-user frontend for a virtio-balloon, but one of its own")]
    NoBalloonFrontend,
}

/// The whole command line after the program's name.
pub(crate) fn arguments(machine: &Machine<'_>) -> Result<Vec<String>, ArgumentError> {
    let count = machine.devices.len() + usize::from(machine.balloon);
    if count > MAX_DEVICES {
        return Err(ArgumentError::TooManyDevices { count });
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
    // Backends map the guest's memory, so it must be a shared file.
    let bytes = u64::from(machine.memory_mib) << 20;
    argv.json(
        "-object",
        &json!({
            "qom-type": "memory-backend-file", "id": "ram", "size": bytes, "share": true,
            "mem-path": inherited(machine.memory), "align": HUGE_PAGE,
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
    // To be reset by. Its mouse shares IRQ 12 with the first virtio device, but nobody uses it.
    argv.json("-device", &json!({ "driver": "i8042" }));
    if let Some(log) = machine.reset_log {
        argv.option("-d", "cpu_reset");
        argv.option("-D", &inherited(log));
    }
    for (index, device) in machine.devices.iter().enumerate() {
        argv.vhost_user(&format!("device{index}"), device)?;
    }
    if machine.balloon {
        argv.json(
            "-device",
            &json!({
                "driver": "virtio-balloon-device", "deflate-on-oom": true, "free-page-reporting": true,
            }),
        );
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
        // QEMU serves the control queue, of which only a device of several pairs makes use, and enables and disables their rings.
        DeviceKind::Net { mac, queue_pairs } => Ok(json!({
            "driver": "virtio-net-device", "netdev": format!("net-{chardev}"), "mac": mac_address(*mac),
            "mq": queue_pairs.get() > 1, "ctrl_vq": queue_pairs.get() > 1, "ctrl_rx": false, "ctrl_rx_extra": false, "ctrl_vlan": false,
            "ctrl_mac_addr": false, "ctrl_guest_offloads": false, "guest_announce": false, "status": false,
        })),
        DeviceKind::Console => Err(ArgumentError::NoConsoleFrontend),
        DeviceKind::Balloon => Err(ArgumentError::NoBalloonFrontend),
    }
}

fn mac_address(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
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

    /// A device, its connection, and `id` for both.
    fn vhost_user(&mut self, id: &str, device: &Device<'_>) -> Result<(), ArgumentError> {
        let frontend = frontend(device.kind, id)?;
        if let DeviceKind::Net { queue_pairs, .. } = device.kind {
            // Of a socket that it inherits connected, QEMU does not believe that it can pass descriptors.
            self.option("-chardev", &format!("socket,id={id},path={}", inherited(device.socket)));
            self.option("-netdev", &format!("vhost-user,id=net-{id},chardev={id},queues={queue_pairs}"));
        } else {
            self.option("-chardev", &format!("socket,id={id},fd={}", device.socket));
        }
        self.json("-device", &frontend);
        Ok(())
    }

    fn json(&mut self, name: &str, value: &serde_json::Value) {
        self.option(name, &value.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a,id=x,driver=vfio \"q\" \\ 'é'\n-device {}";

    fn machine<'a>(kinds: &'a [DeviceKind]) -> Machine<'a> {
        let devices = kinds.iter().zip(70..).map(|(kind, socket)| Device { kind, socket }).collect();
        Machine {
            accelerator: Accelerator::Tcg,
            cpus: NonZeroU8::new(2).unwrap(),
            memory_mib: 256,
            memory: 63,
            kernel: 64,
            initrd: 65,
            kernel_command_line: "console=ttyS0 a,b",
            qmp: 66,
            console: Console::Socket(67),
            reset_log: Some(68),
            devices,
            balloon: false,
        }
    }

    fn fs(tag: &str) -> DeviceKind {
        DeviceKind::Fs { tag: tag.to_owned() }
    }

    #[test]
    fn whole_command_line() {
        let kinds = [fs("runv"), DeviceKind::Vsock { guest_cid: 3 }, DeviceKind::Rng];
        let expected = "-no-user-config -nodefaults -no-reboot -S -display none \
            -machine microvm,acpi=off,rtc=on,isa-serial=on,memory-backend=ram -accel tcg -cpu max -smp 2 -m 256 \
            -object {\"align\":2097152,\"id\":\"ram\",\"mem-path\":\"/proc/self/fd/63\",\"qom-type\":\"memory-backend-file\",\"share\":true,\"size\":268435456} \
            -kernel /proc/self/fd/64 -initrd /proc/self/fd/65 -append console=ttyS0|a,b \
            -chardev socket,id=qmp,fd=66 -mon chardev=qmp,mode=control \
            -chardev socket,id=console,fd=67 -serial chardev:console \
            -device {\"driver\":\"isa-debug-exit\",\"iobase\":1281,\"iosize\":2} -device {\"driver\":\"i8042\"} \
            -d cpu_reset -D /proc/self/fd/68 \
            -chardev socket,id=device0,fd=70 \
            -device {\"chardev\":\"device0\",\"driver\":\"vhost-user-fs-device\",\"tag\":\"runv\"} \
            -chardev socket,id=device1,fd=71 \
            -device {\"chardev\":\"device1\",\"driver\":\"vhost-user-vsock-device\"} \
            -chardev socket,id=device2,fd=72 -device {\"chardev\":\"device2\",\"driver\":\"vhost-user-rng\"}";
        let words: Vec<String> = expected.split(' ').map(|word| word.replace('|', " ")).collect();
        assert_eq!(arguments(&machine(&kinds)).unwrap(), words);
    }

    #[test]
    fn a_network_device_is_connected_by_the_place_of_its_socket() {
        let queue_pairs = NonZeroU8::new(2).unwrap();
        let words =
            arguments(&machine(&[DeviceKind::Net { mac: [2, 0, 0xab, 0, 0, 1], queue_pairs }])).unwrap();
        let line = words.join(" ");
        let expected = "-chardev socket,id=device0,path=/proc/self/fd/70 -netdev vhost-user,id=net-device0,chardev=device0,queues=2 -device {";
        assert!(line.contains(expected), "{line}");
        let device: serde_json::Value = serde_json::from_str(words.last().unwrap()).unwrap();
        assert_eq!((&device["mac"], &device["netdev"]), (&"02:00:ab:00:00:01".into(), &"net-device0".into()));
        assert_eq!((&device["mq"], &device["ctrl_vq"]), (&true.into(), &true.into()));
    }

    #[test]
    fn the_balloon_is_qemus_own() {
        let words = arguments(&Machine { balloon: true, ..machine(&[]) }).unwrap();
        let device: serde_json::Value = serde_json::from_str(words.last().unwrap()).unwrap();
        assert_eq!(
            (&device["driver"], &device["free-page-reporting"]),
            (&"virtio-balloon-device".into(), &true.into())
        );
    }

    #[test]
    fn kvm_gets_the_hosts_cpu_and_no_log_of_resets() {
        let machine = Machine { accelerator: Accelerator::Kvm, reset_log: None, ..machine(&[]) };
        let words = arguments(&machine).unwrap().join(" ");
        assert!(words.contains(" -accel kvm -cpu host "), "{words}");
        assert!(!words.contains("cpu_reset"), "{words}");
    }

    #[test]
    fn hostile_tag_stays_one_string() {
        let ordinary = arguments(&machine(&[fs("runv")])).unwrap();
        let kinds = [fs(HOSTILE)];
        let hostile = arguments(&machine(&kinds)).unwrap();
        assert_eq!(hostile.len(), ordinary.len());
        let device: serde_json::Value = serde_json::from_str(hostile.last().unwrap()).unwrap();
        assert_eq!(device["tag"], HOSTILE);
        assert_eq!(device["driver"], "vhost-user-fs-device");
        assert_eq!(hostile[..hostile.len() - 1], ordinary[..ordinary.len() - 1]);
    }

    #[test]
    fn kernel_command_line_is_one_argument_as_it_is() {
        let words = arguments(&Machine { kernel_command_line: HOSTILE, ..machine(&[]) }).unwrap();
        let append = words.iter().position(|word| word == "-append").unwrap();
        assert_eq!(words[append + 1], HOSTILE);
    }

    #[test]
    fn console_that_is_no_socket_is_a_file() {
        let words = arguments(&Machine { console: Console::File(9), ..machine(&[]) }).unwrap();
        assert!(words.contains(&"file,id=console,path=/proc/self/fd/9,append=on".to_owned()));
    }

    #[test]
    fn what_qemu_lacks_is_refused() {
        let nine = vec![DeviceKind::Rng; MAX_DEVICES + 1];
        assert_eq!(arguments(&machine(&nine)), Err(ArgumentError::TooManyDevices { count: 9 }));
        assert!(arguments(&machine(&nine[1..])).is_ok());
        let and_a_balloon = Machine { balloon: true, ..machine(&nine[1..]) };
        assert_eq!(arguments(&and_a_balloon), Err(ArgumentError::TooManyDevices { count: 9 }));
        let console = [DeviceKind::Console];
        assert_eq!(arguments(&machine(&console)), Err(ArgumentError::NoConsoleFrontend));
    }
}
