//! Boots the guest kernel with the driver `qemu` under software emulation.
//!
//! Host half and guest half of each test stand in this file: the guest's `/init` is this very program, which
//! the build makes static, told by the kernel's command line to run the test [`guest_half`].

#![allow(unsafe_code, reason = "the guest half writes to an I/O port")]
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, but not in what they share")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::num::NonZeroU8;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmm::config::{GuestFile, VmConfig};
use vmm::hypervisor::qemu::{Accelerator, Qemu, find_program, version};
use vmm::hypervisor::{Hypervisor, StartError, Vm, VmExit};

/// What the agent writes to the debug exit port.
const EXIT_BYTE: u8 = 0x10;
const EXIT_PORT: u16 = 0x501;

// Guest half

#[test]
#[ignore = "is the guest's /init"]
fn guest_half() {
    assert_eq!(std::process::id(), 1, "only in a guest");
    println!("guest: up");
    match std::env::var("RUNV_TEST_ACT").as_deref() {
        Ok("shutdown") => exit_by_port(),
        Ok("reset") => {
            rustix::system::reboot(rustix::system::RebootCommand::Restart).unwrap();
        }
        Ok("panic") => std::process::exit(3),
        Ok("cpus") => {
            println!("guest: {} cpus", std::thread::available_parallelism().unwrap());
            exit_by_port();
        }
        Ok("count") => count(),
        act => panic!("unknown act {act:?}"),
    }
}

fn count() {
    let mut number = 0_u64;
    loop {
        println!("guest: {number}");
        number += 1;
    }
}

fn exit_by_port() {
    // QEMU ends at once, and with it what the serial port has not sent yet.
    rustix::termios::tcdrain(std::io::stdout()).unwrap();
    // SAFETY: grants this thread a port at which only the test's QEMU listens.
    assert_eq!(unsafe { libc::ioperm(EXIT_PORT.into(), 1, 1) }, 0);
    // SAFETY: OUT has no effect on memory, and the port was granted above.
    unsafe { std::arch::asm!("out dx, al", in("dx") EXIT_PORT, in("al") EXIT_BYTE) };
    unreachable!("the machine went on after its end");
}

// Host half

/// A running guest, its console, and the files that it was made of.
struct Guest {
    vm: Box<dyn Vm>,
    console: BufReader<UnixStream>,
    _files: tempfile::TempDir,
}

impl Guest {
    fn start(cpus: u8, act: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (config, console) = config(files.path(), cpus, act);
        let vm = qemu().start(config).unwrap();
        console.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { vm, console: BufReader::new(console), _files: files }
    }

    /// Reads the console up to a line of the guest half's.
    fn expect(&mut self, expected: &str) {
        let mut seen = String::new();
        loop {
            let start = seen.len();
            let count = self.console.read_line(&mut seen).unwrap_or(0);
            assert_ne!(count, 0, "no line {expected:?} on the console:\n{seen}");
            if seen[start..].trim_end().ends_with(expected) {
                return;
            }
        }
    }
}

fn qemu() -> Qemu {
    Qemu::new(find_program(None).unwrap(), Accelerator::Tcg)
}

fn config(folder: &Path, cpus: u8, act: &str) -> (VmConfig, UnixStream) {
    let initrd = folder.join("initrd.cpio");
    fs::write(&initrd, archive(&fs::read("/proc/self/exe").unwrap())).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let act = format!("RUNV_TEST_ACT={act}");
    // Words without "=" become arguments of /init, others its environment.
    let words = ["guest_half", "--exact", "--ignored", "--nocapture", "RUST_TEST_THREADS=1", &act];
    let config = VmConfig {
        cpus: NonZeroU8::new(cpus).unwrap(),
        memory_mib: 256,
        kernel: GuestFile::open(kernel()).unwrap(),
        initrd: GuestFile::open(initrd).unwrap(),
        kernel_parameters: words.map(str::to_owned).to_vec(),
        verbose_console: false,
        console: theirs.into(),
        devices: Vec::new(),
        own_balloon: false,
        label: None,
        file_label: None,
    };
    (config, ours)
}

fn kernel() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/share/runv/vmlinux");
    let kernel = std::env::var_os("RUNV_TEST_KERNEL").map_or(built, PathBuf::from);
    assert!(kernel.exists(), "no {}: `make kernel`, or set RUNV_TEST_KERNEL", kernel.display());
    kernel
}

/// A cpio archive (format newc, Linux Documentation/driver-api/early-userspace/buffer-format.rst) of `/init`.
fn archive(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, content) in [("init", 0o100_755, init), ("TRAILER!!!", 0, &[][..])] {
        let fields = [0, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend(b"070701");
        fields.iter().for_each(|field| write!(archive, "{field:08x}").unwrap());
        archive.extend(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn guest_boots_and_shuts_down_by_the_debug_exit_port() {
    let mut guest = Guest::start(1, "shutdown");
    guest.expect("guest: up");
    assert_eq!(guest.vm.wait().unwrap(), VmExit::Shutdown);
    assert_eq!(guest.vm.wait().unwrap(), VmExit::Shutdown);
    assert!(!is_alive(guest.vm.pid()));
}

#[test]
fn reboot_of_the_guest_is_reset() {
    let mut guest = Guest::start(1, "reset");
    guest.expect("guest: up");
    assert_eq!(guest.vm.wait().unwrap(), VmExit::Reset);
}

#[test]
fn triple_fault_of_the_guest_is_told_from_a_reset() {
    let files = tempfile::tempdir().unwrap();
    let (mut config, _console) = config(files.path(), 1, "reset");
    config.kernel_parameters.push("reboot=t".to_owned());
    let mut vm = qemu().start(config).unwrap();
    let exit = vm.wait().unwrap();
    assert!(matches!(exit, VmExit::TripleFault { .. }), "{exit:?}");
}

#[test]
fn panic_of_the_guest_is_reset_and_its_words_are_on_the_console() {
    let mut guest = Guest::start(1, "panic");
    let mut text = String::new();
    guest.console.read_to_string(&mut text).unwrap();
    assert!(text.contains("Kernel panic - not syncing: Attempted to kill init!"), "{text}");
    assert_eq!(guest.vm.wait().unwrap(), VmExit::Reset);
}

#[test]
fn two_cpus_come_up() {
    let mut guest = Guest::start(2, "cpus");
    guest.expect("guest: 2 cpus");
    assert_eq!(guest.vm.wait().unwrap(), VmExit::Shutdown);
}

#[test]
fn paused_guest_is_silent_until_it_is_resumed() {
    let mut guest = Guest::start(1, "count");
    guest.expect("guest: 0");
    guest.vm.pause().unwrap();
    let socket = guest.console.get_mut();
    // What was written before the pause may still be on its way. Silence for this long tells little on its
    // own, but a guest that runs is never silent for so long.
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut buffer = [0; 4096];
    while socket.read(&mut buffer).is_ok_and(|count| count > 0) {}
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    assert_eq!(socket.read(&mut buffer).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    guest.vm.resume().unwrap();
    assert!(guest.console.get_mut().read(&mut buffer).unwrap() > 0);
}

#[test]
fn kill_is_told_from_other_ends() {
    let mut guest = Guest::start(1, "count");
    guest.expect("guest: 0");
    guest.vm.stop().unwrap();
    assert_eq!(guest.vm.wait().unwrap(), VmExit::Killed { signal: libc::SIGKILL });
    guest.vm.pause().unwrap_err();
}

#[test]
fn polite_kill_from_outside_is_told_too() {
    let mut guest = Guest::start(1, "count");
    guest.expect("guest: 0");
    let pid = i32::try_from(guest.vm.pid()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(guest.vm.wait().unwrap(), VmExit::Killed { signal: libc::SIGTERM });
}

#[test]
fn console_may_be_a_pipe() {
    let files = tempfile::tempdir().unwrap();
    let (mut config, _console) = config(files.path(), 1, "shutdown");
    let (mut reader, writer) = std::io::pipe().unwrap();
    config.console = writer.into();
    let mut vm = qemu().start(config).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(text.contains("guest: up"), "{text}");
    assert_eq!(vm.wait().unwrap(), VmExit::Shutdown);
}

#[test]
fn program_that_cannot_run_is_an_error_that_names_it() {
    let files = tempfile::tempdir().unwrap();
    let (config, _console) = config(files.path(), 1, "shutdown");
    let qemu = Qemu::new("/no/qemu".into(), Accelerator::Tcg);
    let error = qemu.start(config).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "cannot run /no/qemu");
}

#[test]
fn what_cannot_be_a_machine_is_an_error_that_names_it() {
    let files = tempfile::tempdir().unwrap();
    let start = |change: fn(&mut VmConfig)| {
        let (mut config, _console) = config(files.path(), 1, "shutdown");
        change(&mut config);
        let error = qemu().start(config).map(drop).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error}: {source}")
    };
    let not_elf = start(|config| config.kernel = GuestFile::open("/etc/passwd").unwrap());
    assert!(
        not_elf.starts_with("cannot use the guest kernel /etc/passwd: it is not an ELF file"),
        "{not_elf}"
    );
    let small = start(|config| config.memory_mib = 1);
    assert!(small.starts_with("invalid machine: 1 MiB of memory"), "{small}");
}

#[test]
fn dropped_machine_leaves_no_process() {
    let mut guest = Guest::start(1, "count");
    guest.expect("guest: up");
    let pid = guest.vm.pid();
    drop(guest.vm);
    assert!(!is_alive(pid));
}

#[test]
fn kernel_that_qemu_cannot_boot_is_an_error_in_its_words() {
    let files = tempfile::tempdir().unwrap();
    let (mut config, _console) = config(files.path(), 1, "shutdown");
    config.kernel = GuestFile::open("/proc/self/exe").unwrap();
    let error = qemu().start(config).map(drop).unwrap_err();
    let StartError::Machine { message, .. } = error else { panic!("{error}") };
    assert!(message.contains("without PVH ELF Note"), "{message}");
}

#[test]
fn installed_qemu_tells_its_version() {
    let version = version(&find_program(None).unwrap()).unwrap();
    assert!(version.starts_with(|first: char| first.is_ascii_digit()), "{version}");
}
