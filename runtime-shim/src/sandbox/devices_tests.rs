//! Real child processes that stand for the device program.

use std::path::Path;
use std::thread;

use rustix::process::{Pid, Signal, test_kill_process};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn spawn(program: &str) -> Result<DeviceProcess, DevicesError> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sandbox/testdata").join(program);
    let directory = SandboxDirectory::create(None).unwrap();
    DeviceProcess::spawn(&program, &directory, Vec::new(), &VirtioFs::default(), MoreDevices::default())
        .map(|(process, _)| process)
}

fn pid(process: &DeviceProcess) -> Pid {
    Pid::from_raw(process.pid().try_into().unwrap()).unwrap()
}

#[test]
fn a_failure_is_told_in_the_processs_own_words() {
    let end = spawn("devices-that-fail").unwrap().end_within(PATIENCE).unwrap();
    assert_eq!(end, Some(DevicesEnd::Failed("cannot make /share: no space".into())));
}

/// The child is killed by the test.
#[test]
fn a_child_that_was_left_behind_is_not_waited_for() {
    let end = spawn("devices-that-fork").unwrap().end_within(PATIENCE).unwrap();
    let Some(DevicesEnd::Failed(words)) = end else { panic!("{end:?}") };
    let child = Pid::from_raw(words.parse().unwrap()).unwrap();
    rustix::process::kill_process(child, Signal::KILL).unwrap();
}

#[test]
fn a_kill_is_told_with_the_signal() {
    let mut process = spawn("devices-that-serve").unwrap();
    assert_eq!(process.end_within(Duration::ZERO).unwrap(), None);
    rustix::process::kill_process(pid(&process), Signal::KILL).unwrap();
    assert_eq!(process.end_within(PATIENCE).unwrap(), Some(DevicesEnd::Killed(9)));
}

#[test]
fn dropping_kills_and_reaps() {
    let process = spawn("devices-that-serve").unwrap();
    let process_id = pid(&process);
    test_kill_process(process_id).unwrap();
    drop(process);
    assert!(test_kill_process(process_id).is_err());
}

#[test]
fn the_process_dies_with_the_thread_that_started_it() {
    let mut process = thread::spawn(|| spawn("devices-that-serve").unwrap()).join().unwrap();
    assert_eq!(process.end_within(PATIENCE).unwrap(), Some(DevicesEnd::Killed(9)));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = spawn("no-such-program").unwrap_err();
    assert!(error.to_string().starts_with("cannot run /"), "{error}");
    assert!(error.to_string().ends_with("/no-such-program"), "{error}");
}
