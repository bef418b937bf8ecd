//! `runv-vmm --tied-to`: what it passes on to the program that it becomes, and that this one ends with the parent.
#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy knows helpers of tests only in modules")]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{ExitStatusExt, parent_id};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use child::{Inherited, TIED_TO, tied_by};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

const BINDER: &str = env!("CARGO_BIN_EXE_runv-vmm");

#[test]
fn arguments_environment_and_descriptors_pass_through() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut inherited = Inherited::default();
    let number = inherited.add(writer.into());
    let mut command = tied_by(Path::new(BINDER), Path::new("sh"));
    let script = format!("printf '%s|' $$ \"$WORD\" \"$@\" >/proc/self/fd/{number}");
    command.args(["-c", &script, "sh", "--tied-to", "a b", ""]).env("WORD", "of the environment");
    inherited.apply(&mut command).unwrap();
    let mut child = command.spawn().unwrap();
    drop(command);
    assert!(child.wait().unwrap().success());
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, format!("{}|of the environment|--tied-to|a b||", child.id()));
}

/// Without SELinux the signal would outlast the first execve(2), so nobody asks for it before.
#[test]
#[ignore = "is the parent of the next test's program"]
fn parent_half() {
    let mut command = tied_by(Path::new(BINDER), Path::new("sh"));
    command.args(["-c", "echo program: $$; exec sleep 1000"]);
    let status = command.status().unwrap();
    panic!("{status}");
}

#[test]
fn the_program_ends_with_a_parent_that_is_killed() {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["parent_half", "--exact", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let pid = lines.map(Result::unwrap).find_map(|line| line.split("program: ").nth(1)?.parse().ok());
    let program = Pid::from_raw(pid.unwrap()).unwrap();
    let ended = pidfd_open(program, PidfdFlags::empty()).unwrap();
    let within = |seconds| {
        let patience = Timespec { tv_sec: seconds, tv_nsec: 0 };
        poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&patience)).unwrap() == 1
    };
    assert!(!within(0), "it ended before its parent");
    parent.kill().unwrap();
    assert_eq!(parent.wait().unwrap().signal(), Some(libc::SIGKILL));
    if !within(30) {
        kill_process(program, Signal::KILL).unwrap();
        panic!("it has outlived its parent");
    }
}

fn tied_to(pid: u32, program: &str) -> Output {
    Command::new(BINDER).args([TIED_TO, &pid.to_string(), program, "words"]).output().unwrap()
}

#[test]
fn nothing_is_executed_for_a_parent_that_has_ended() {
    // No process is the parent of its parent's child.
    let output = tied_to(parent_id(), "echo");
    assert!(!output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("which started this one, has ended"), "{error}");
}

#[test]
fn a_program_that_cannot_run_is_named() {
    let output = tied_to(std::process::id(), "/no/qemu");
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.starts_with("runv-vmm: error: cannot run /no/qemu: No such file"), "{error}");
}
