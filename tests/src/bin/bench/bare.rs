//! The peer under software emulation: a bare QEMU, the fastest that 7.2's microvm offers, with a clock and without
//! waits for what is not there.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

const MACHINE: [&str; 13] = [
    "-accel",
    "tcg",
    "-cpu",
    "max",
    "-M",
    "microvm,acpi=off,rtc=on,isa-serial=on",
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-no-reboot",
    "-serial",
    "stdio",
];

/// What QEMU is to run, its console on stdout.
#[derive(Debug)]
pub(crate) struct BareQemu {
    kernel: PathBuf,
    initrd: PathBuf,
    init_arguments: String,
    devices: Vec<OsString>,
}

impl BareQemu {
    pub(crate) fn new(kernel: &Path, initrd: &Path) -> Self {
        let (kernel, initrd) = (kernel.to_owned(), initrd.to_owned());
        Self { kernel, initrd, init_arguments: String::new(), devices: Vec::new() }
    }

    /// Arguments of `/init`, none of which the kernel knows as a parameter: it passes on what it does not know. (No
    /// `--`, as QEMU appends its devices to the command line.)
    pub(crate) fn init_arguments(mut self, arguments: &str) -> Self {
        arguments.clone_into(&mut self.init_arguments);
        self
    }

    /// Adds a device whose backend listens at `socket`.
    pub(crate) fn vhost_user(mut self, device: &str, socket: &Path, properties: &str) -> Self {
        let id = format!("device{}", self.devices.len());
        let chardev = format!("socket,id={id},path={}", socket.display());
        let device = format!("{device},chardev={id},{properties}");
        self.devices.extend(["-chardev".into(), chardev.into(), "-device".into(), device.into()]);
        self
    }

    pub(crate) fn start(&self) -> Result<Child> {
        let parameters = format!(
            "console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz={} tsc=reliable no_timer_check noapictimer noreplace-smp {}",
            tsc_khz()?,
            self.init_arguments
        );
        let mut command = Command::new("qemu-system-x86_64");
        command.args(MACHINE).args(["-m", "128", "-smp", "1"]);
        if !self.devices.is_empty() {
            // A backend maps the guest's memory, and virtiofsd speaks no legacy virtio, which is virtio-mmio's default.
            command.args(["-object", "memory-backend-memfd,id=memory,size=128M,share=on"]);
            command.args(["-machine", "memory-backend=memory", "-global", "virtio-mmio.force-legacy=off"]);
        }
        command
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
            .args(["-append", &parameters])
            .args(&self.devices)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run qemu-system-x86_64")
    }
}

/// Of this machine's time stamp counter, as `tests/nested-kvm/run` finds it.
fn tsc_khz() -> Result<u32> {
    let text = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let mhz: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("cpu MHz")?.split(':').nth(1)?.trim().parse().ok())
        .context("no cpu MHz in /proc/cpuinfo")?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a frequency of some GHz")]
    Ok((mhz * 1000.0) as u32)
}
