//! A boot with a real device process's stand-in, a fake machine, and whoever plays the agent.

use crate::bundle::machine_size::MachineSize;
use crate::bundle::selinux::Labels;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::signal::{Signal, raise};
use vmm::config::{GuestFile, VmConfig};
use vmm::hypervisor::{Hypervisor, StartError, Vm, VmError, VmExit};

use super::*;
use crate::config::Config;
use crate::monitor::death::Death;
use crate::sandbox::start::Plan;
use crate::sandbox::vsock::ConnectError;

/// A machine that only ends, and says on its console what its guest would.
struct FakeMachine {
    says: &'static str,
    exit: Option<VmExit>,
}

struct FakeVm {
    ended: OwnedFd,
    /// Its closing would be the end.
    _runs: Option<OwnedFd>,
    exit: VmExit,
}

impl Hypervisor for FakeMachine {
    fn start(&self, config: VmConfig) -> Result<Box<dyn Vm>, StartError> {
        std::fs::File::from(config.console).write_all(self.says.as_bytes()).unwrap();
        let (ended, runs) = std::io::pipe().unwrap();
        let runs = self.exit.is_none().then(|| OwnedFd::from(runs));
        let exit = self.exit.clone().unwrap_or(VmExit::Shutdown);
        Ok(Box::new(FakeVm { ended: ended.into(), _runs: runs, exit }))
    }
}

impl Vm for FakeVm {
    fn pid(&self) -> u32 {
        1
    }
    fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
    fn wait(&mut self) -> Result<VmExit, VmError> {
        Ok(self.exit.clone())
    }
    fn pause(&mut self) -> Result<(), VmError> {
        Ok(())
    }
    fn resume(&mut self) -> Result<(), VmError> {
        Ok(())
    }
    fn stop(&mut self) -> Result<(), VmError> {
        Ok(())
    }
}

const RUNS: FakeMachine = FakeMachine { says: "", exit: None };

fn sandbox(machine: &FakeMachine) -> Sandbox {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sandbox/testdata");
    let plan = Plan {
        sockets: Vec::new(),
        size: MachineSize { memory_mib: 64, cpus: std::num::NonZeroU8::MIN, rootfs_upper_mib: None },
        device_program: folder.join("devices-that-serve"),
        kernel: GuestFile::open("/proc/self/exe").unwrap(),
        initrd: GuestFile::open("/proc/self/exe").unwrap(),
        kernel_parameters: Vec::new(),
        exports: Vec::new(),
        virtio_console: false,
        own_balloon: false,
        labels: Labels::default(),
        config: &Config::default(),
    };
    Sandbox::start(plan, Vec::new(), machine).unwrap()
}

/// Waits for the hello of whoever `says` something on the ready port; the time is up as soon as nothing is
/// there to be taken.
fn hello(sandbox: &mut Sandbox, says: &[u8]) -> (Result<(), MonitorError>, Option<UnixStream>) {
    let signals = Signals::block().unwrap();
    let speaker = (!says.is_empty()).then(|| {
        let mut speaker = sandbox.directory.connect_as_guest(READY_PORT).unwrap();
        speaker.write_all(says).unwrap();
        speaker
    });
    let timeout = Duration::from_secs(7);
    let boot = Boot::new(sandbox, &signals, timeout).unwrap();
    let mut boot = Boot { deadline: Some(Instant::now()), ..boot };
    (boot.hello(), speaker)
}

#[test]
fn after_the_hello_the_guest_reaches_nothing_of_the_shim() {
    let mut sandbox = sandbox(&RUNS);
    hello(&mut sandbox, HELLO).0.unwrap();
    assert!(sandbox.directory.connect_as_guest(READY_PORT).is_err());
}

#[test]
fn another_agent_is_told_without_control_characters() {
    let (result, _) = hello(&mut sandbox(&RUNS), b"runv-agent 9\x1b[2J\n");
    let text = result.unwrap_err().to_string();
    assert!(text.starts_with("the guest's agent speaks another protocol: `runv-agent 9"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn silence_ends_when_the_time_is_up() {
    for says in [&b""[..], b"runv-"] {
        let (result, _speaker) = hello(&mut sandbox(&RUNS), says);
        assert!(matches!(result, Err(MonitorError::BootTimeout { seconds: 7 })), "{result:?}");
    }
}

#[test]
fn a_deadly_signal_ends_the_boot_and_a_harmless_one_does_not() {
    let mut sandbox = sandbox(&RUNS);
    let _blocked = Signals::block().unwrap();
    raise(Signal::SIGTERM).unwrap();
    let (result, _) = hello(&mut sandbox, b"");
    let error = result.unwrap_err();
    assert_eq!((error.exit_code(), matches!(error, MonitorError::Interrupted(15))), (143, true));
    raise(Signal::SIGWINCH).unwrap();
    assert!(matches!(hello(&mut sandbox, b"").0, Err(MonitorError::BootTimeout { .. })));
}

#[test]
fn the_end_of_the_guest_is_told_by_its_console() {
    let machine =
        FakeMachine { says: "[    0.1] Kernel panic - not syncing: no init\n", exit: Some(VmExit::Reset) };
    let (result, _) = hello(&mut sandbox(&machine), b"");
    let Err(MonitorError::Died(Death::Panic(panic))) = result else { unreachable!("{result:?}") };
    assert_eq!(panic, "no init");
}

#[test]
fn a_broken_connection_is_told_by_the_death_behind_it() {
    let refused = || MonitorError::from(ConnectError::Refused { port: AGENT_PORT });
    let mut sandbox = sandbox(&RUNS);
    let error = death::behind(&mut sandbox, refused());
    assert!(matches!(error, MonitorError::Connect(_)), "{error:?}");

    let devices = nix::unistd::Pid::from_raw(sandbox.devices.pid().try_into().unwrap());
    nix::sys::signal::kill(devices, Signal::SIGKILL).unwrap();
    let error = death::behind(&mut sandbox, refused());
    assert!(matches!(error, MonitorError::Died(Death::Devices { .. })), "{error:?}");
    let interrupted = death::behind(&mut sandbox, MonitorError::Interrupted(15));
    assert!(matches!(interrupted, MonitorError::Interrupted(15)), "{interrupted:?}");
}
