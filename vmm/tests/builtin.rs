//! The driver `builtin` and its process on the host's KVM, with guests of a few instructions in an ELF file.
#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy knows helpers of tests only in modules")]

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU8;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vmm::config::{DeviceKind, GuestFile, VhostUserDevice, VmConfig};
use vmm::hypervisor::builtin::Builtin;
use vmm::hypervisor::{Hypervisor, StartError, Vm, VmExit};

/// `mov dx,0x501; out dx,al`
const SHUT_DOWN: [u8; 5] = [0x66, 0xba, 0x01, 0x05, 0xee];
/// `jmp $`
const SPIN: [u8; 2] = [0xeb, 0xfe];

/// A kernel's file with `code` at its entry, 16 MiB.
fn kernel(code: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0, 1, 0, 0, 0]);
    put(24, &0x100_0000_u64.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1, 0]);
    put(64, &[1, 0, 0, 0, 5, 0, 0, 0]);
    let length = code.len() as u64;
    for (field, value) in [0x1000, 0, 0x100_0000, length, length, 0x1000].iter().enumerate() {
        put(72 + field * 8, &value.to_le_bytes());
    }
    file.extend_from_slice(code);
    file
}

/// Files to boot from, and what the console says.
struct Bench {
    directory: TempDir,
    console: File,
    console_end: OwnedFd,
}

impl Bench {
    fn new(kernel: &[u8]) -> Self {
        let directory = TempDir::new().unwrap();
        File::create(directory.path().join("kernel")).unwrap().write_all(kernel).unwrap();
        File::create(directory.path().join("initrd")).unwrap().write_all(b"initrd").unwrap();
        let (console, console_end) = std::io::pipe().unwrap();
        Self { directory, console: OwnedFd::from(console).into(), console_end: console_end.into() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self) -> VmConfig {
        VmConfig {
            cpus: NonZeroU8::MIN,
            memory_mib: 64,
            kernel: GuestFile::open(self.path("kernel")).unwrap(),
            initrd: GuestFile::open(self.path("initrd")).unwrap(),
            kernel_parameters: Vec::new(),
            verbose_console: false,
            console: self.console_end.try_clone().unwrap(),
            devices: Vec::new(),
            own_balloon: false,
            label: None,
            file_label: None,
        }
    }

    fn start(&self) -> Result<Box<dyn Vm>, StartError> {
        driver().start(self.config())
    }

    /// All that the machine has printed; it must have ended.
    fn console(self) -> String {
        let Self { mut console, console_end, .. } = self;
        drop(console_end);
        let mut text = String::new();
        console.read_to_string(&mut text).unwrap();
        text
    }
}

fn driver() -> Builtin {
    Builtin { program: env!("CARGO_BIN_EXE_runv-vmm").into(), is_silent: false }
}

/// Whether guests can run here; if not, says so.
fn kvm() -> bool {
    let opened = File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &opened {
        println!("skipped: cannot open /dev/kvm: {error}");
    }
    opened.is_ok()
}

/// The error of a start that must fail, as one line, and a check that no process is left.
fn failure(config: VmConfig) -> String {
    let Err(error) = driver().start(config) else { panic!("it started") };
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn a_guest_prints_and_shuts_down() {
    if !kvm() {
        return;
    }
    let mut code = vec![0x66, 0xba, 0xf8, 0x03]; // mov dx,0x3f8
    for byte in b"hi" {
        code.extend_from_slice(&[0xb0, *byte, 0xee]); // mov al,byte; out dx,al
    }
    code.extend_from_slice(&SHUT_DOWN);
    let bench = Bench::new(&kernel(&code));
    let mut vm = bench.start().unwrap();
    assert_eq!(vm.wait().unwrap(), VmExit::Shutdown);
    assert_eq!(vm.wait().unwrap(), VmExit::Shutdown, "asked again");
    drop(vm);
    assert_eq!(bench.console(), "hi");
}

#[test]
fn reset_and_triple_fault_are_told_apart() {
    if !kvm() {
        return;
    }
    let reset = [0xb0, 0xfe, 0xe6, 0x64]; // mov al,0xfe; out 0x64,al
    assert_eq!(Bench::new(&kernel(&reset)).start().unwrap().wait().unwrap(), VmExit::Reset);
    let fault = [0x31, 0xc9, 0xf7, 0xf1]; // xor ecx,ecx; div ecx
    let exit = Bench::new(&kernel(&fault)).start().unwrap().wait().unwrap();
    assert!(matches!(exit, VmExit::TripleFault { registers } if registers.contains("rip=0x1000002")));
}

#[test]
fn a_stopped_machine_was_killed() {
    if !kvm() {
        return;
    }
    let mut vm = Bench::new(&kernel(&SPIN)).start().unwrap();
    vm.stop().unwrap();
    assert_eq!(vm.wait().unwrap(), VmExit::Killed { signal: libc::SIGKILL });
}

#[test]
fn a_machine_pauses_and_resumes() {
    if !kvm() {
        return;
    }
    let mut vm = Bench::new(&kernel(&SPIN)).start().unwrap();
    for _ in 0..3 {
        vm.pause().unwrap();
        vm.resume().unwrap();
    }
    vm.stop().unwrap();
    assert_eq!(vm.wait().unwrap(), VmExit::Killed { signal: libc::SIGKILL });
}

#[test]
fn pausing_a_machine_that_has_ended_is_an_error_and_its_end_is_kept() {
    if !kvm() {
        return;
    }
    let mut vm = Bench::new(&kernel(&SHUT_DOWN)).start().unwrap();
    let ended = vm.ended().try_clone_to_owned().unwrap();
    let mut fds = [rustix::event::PollFd::new(&ended, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
    assert!(vm.pause().is_err());
    assert_eq!(vm.wait().unwrap(), VmExit::Shutdown);
}

#[test]
fn a_dropped_machine_leaves_no_process() {
    if !kvm() {
        return;
    }
    let vm = Bench::new(&kernel(&SPIN)).start().unwrap();
    let process = PathBuf::from(format!("/proc/{}", vm.pid()));
    assert!(process.exists());
    drop(vm);
    assert!(!process.exists());
}

/// A script in place of the VMM, whose child keeps the control socket.
#[test]
fn a_child_that_a_vmm_has_left_is_not_waited_for() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/vmm-that-forks");
    let mut bench = Bench::new(&kernel(&SPIN));
    let mut vm = Builtin { program, is_silent: false }.start(bench.config()).unwrap();
    let exit = vm.wait();
    let mut child = [0; 16];
    let length = bench.console.read(&mut child).unwrap();
    let child = std::str::from_utf8(&child[..length]).unwrap().trim().parse().unwrap();
    let child = rustix::process::Pid::from_raw(child).unwrap();
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
    let message = "runv-vmm ended without a reason, exit status: 3".to_owned();
    assert_eq!(exit.unwrap(), VmExit::Failed { message });
}

#[test]
fn wrong_boot_files_are_named_with_what_is_wrong() {
    if !kvm() {
        return;
    }
    let good = kernel(&SHUT_DOWN);
    let text = Bench::new(b"#!/bin/sh\n");
    let text = failure(text.config());
    assert!(text.contains("cannot use the guest kernel /") && text.contains("not an ELF file"), "{text}");

    let bench = Bench::new(&good);
    File::create(bench.path("initrd")).unwrap();
    let text = failure(bench.config());
    assert!(text.contains("cannot use the initrd /") && text.contains("it is empty"), "{text}");

    let bench = Bench::new(&good);
    let text = failure(VmConfig { kernel_parameters: vec!["a b".to_owned()], ..bench.config() });
    assert!(text.contains("\"a b\" is not one printable word"), "{text}");
}

#[test]
fn what_is_not_there_is_an_error_of_the_driver() {
    let bench = Bench::new(&kernel(&SHUT_DOWN));
    let text = GuestFile::open(bench.directory.path()).unwrap_err().to_string();
    assert_eq!(text, "it is not a regular file");
    let text = failure(VmConfig { memory_mib: 16, ..bench.config() });
    assert!(text.contains("16 MiB of memory is too little"), "{text}");
    let missing = Builtin { program: "/no/such/program".into(), is_silent: false };
    assert!(matches!(missing.start(bench.config()), Err(StartError::Spawn { .. })));
    let silent = Builtin { program: "/bin/true".into(), is_silent: false };
    assert!(matches!(silent.start(bench.config()), Err(StartError::Machine { .. })));
}

#[test]
fn a_backend_that_is_gone_is_named() {
    if !kvm() {
        return;
    }
    let bench = Bench::new(&kernel(&SPIN));
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let devices = vec![VhostUserDevice { kind: DeviceKind::Rng, socket: ours.into() }];
    let text = failure(VmConfig { devices, ..bench.config() });
    assert!(text.contains("cannot connect virtio-rng: the backend failed"), "{text}");
}

#[test]
fn a_backend_that_dies_ends_the_machine_and_is_named() {
    if !kvm() {
        return;
    }
    let bench = Bench::new(&kernel(&SPIN));
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let devices = vec![VhostUserDevice { kind: DeviceKind::Rng, socket: ours.into() }];
    // As much of a backend as the start needs: GET_FEATURES (1) is answered with version 1 and protocol
    // features; SET_PROTOCOL_FEATURES (16) is the last request before the guest runs.
    let backend = std::thread::spawn(move || {
        let mut header = [0; 12];
        while header[0] != 16 {
            theirs.read_exact(&mut header).unwrap();
            let mut body = vec![0; usize::from(header[8])];
            theirs.read_exact(&mut body).unwrap();
            if header[0] == 1 {
                theirs.write_all(&[1, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0]).unwrap();
                theirs.write_all(&(1_u64 << 30 | 1 << 32).to_le_bytes()).unwrap();
            }
        }
        theirs
    });
    let mut vm = driver().start(VmConfig { devices, ..bench.config() }).unwrap();
    drop(backend.join().unwrap());
    let message = "the backend of virtio-rng has ended".to_owned();
    assert_eq!(vm.wait().unwrap(), VmExit::Failed { message });
}
