//! `runv exec`, `ps`, `pause` and `resume` on a container that runs.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result};
use e2e::{Bundle, Deadline, Output, Runtime, together};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;

fn pid_in(runv: &Runtime<'_>, file: &str) -> Result<Pid> {
    Pid::from_raw(runv.read(file).parse().context("no pid")?).context("process 0")
}

fn wait_for_end(pid: Pid) -> Result<()> {
    Deadline::generous()?.wait_for("the end of a process", || {
        // Who started it in this test is PID 1 of the tests' namespace, or this test, so it may be a zombie.
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        let zombie = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
        Ok((zombie || test_kill_process(pid).is_err()).then_some(()))
    })
}

#[test]
fn exec_has_streams_status_directory_environment_and_user() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let script = "cat; echo $A; pwd; id -u; id -g; echo err >&2; exit 9";
    let exec = ["exec", "--env", "A=b", "-cwd=/tmp", "--user", "5:6", "c1", "sh", "-c", script];
    let answer = runv.call_with(&exec, b"input\n")?.expect(9)?;
    assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), ("input\nb\n/tmp\n5\n6\n", "err\n"));
    runv.call(&["exec", "c1", "sh", "-c", "kill -9 $$"])?.expect(137)?;
    let missing = runv.call(&["exec", "c1", "missing"])?.expect(127)?;
    assert!(
        missing.stderr.contains("exec: \\\"missing\\\": executable file not found in $PATH"),
        "{missing:?}"
    );
    runv.call(&["exec", "c1", "/etc"])?.expect(126)?;

    std::fs::write(
        runv.file("process.json"),
        r#"{"args":["sh","-c","echo $X"],"env":["PATH=/bin","X=y"],"cwd":"/","capabilities":{"bounding":["CAP_NONE"]}}"#,
    )?;
    let exec = ["--log", "log", "--debug", "exec", "--process", "process.json", "c1"];
    assert_eq!(runv.call(&exec)?.expect(0)?.stdout, "y\n");
    let log = runv.read("log");
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("CAP_NONE")), "{log}");
    std::fs::write(runv.file("process.json"), r#"{"args":["true"],"cwd":"relative"}"#)?;
    let refused = runv.call(&["exec", "--process", "process.json", "c1"])?.expect(255)?;
    assert!(refused.stderr.contains("process.cwd"), "{refused:?}");
    Ok(())
}

/// Whoever asked for it has no way to end it.
#[test]
fn a_process_whose_pid_file_cannot_be_written_is_not_left_behind() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let exec = ["exec", "--detach", "--pid-file", "missing/pid", "c1", "sleep", "1234"];
    let refused = runv.call(&exec)?.expect(255)?;
    assert!(refused.stderr.contains("cannot write the pid file"), "{refused:?}");
    Deadline::generous()?.wait_for("the end of the process", || {
        Ok((!runv.call(&["ps", "c1", "-o", "args"])?.expect(0)?.stdout.contains("sleep 1234")).then_some(()))
    })
}

/// What the kernel locks of a pipe of theirs holds nobody else: not the agent, and not their other streams.
#[test]
fn processes_that_hold_their_stdout_hold_nothing_else() -> Result<()> {
    let _order = together();
    let deadline = Deadline::generous()?;
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    // Before everybody else, so that its output is not read before it is held.
    let process = r#"{"args":["probe","hold"],"env":["PATH=/bin"],"cwd":"/",
        "scheduler":{"policy":"SCHED_FIFO","priority":1}}"#;
    std::fs::write(runv.file("process.json"), process)?;
    let mut holders = Vec::new();
    for _ in 0..4 {
        let mut command = runv.command(&["exec", "--process", "process.json", "c1"])?;
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdout = Output::collect(child.stdout.take().context("no stdout")?);
        let stderr = Output::collect(child.stderr.take().context("no stderr")?);
        holders.push((child, stdout, stderr));
    }
    for (child, _, stderr) in &mut holders {
        stderr.wait_for("held\n", deadline)?;
        child.stdin.as_mut().context("no stdin")?.write_all(b"still here\n")?;
        stderr.wait_for("still here\n", deadline)?;
    }
    assert_eq!(runv.call(&["exec", "c1", "echo", "served"])?.expect(0)?.stdout, "served\n");
    for (mut child, stdout, _) in holders {
        drop(child.stdin.take());
        assert_eq!(stdout.to_end(deadline)?, [b'.'; 64]);
        assert!(child.wait()?.success());
    }
    Ok(())
}

#[test]
fn a_detached_process_has_a_host_process_that_takes_it_along() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let exec = ["exec", "--detach", "--pid-file", "exec.pid", "c1", "sleep", "777"];
    runv.leave(&exec)?.expect(0)?;
    let proxy = pid_in(&runv, "exec.pid")?;
    let monitor = runv.read("pid");
    let pids: Vec<u32> =
        serde_json::from_str(&runv.call(&["ps", "--format", "json", "c1"])?.expect(0)?.stdout)?;
    assert_eq!(pids, [monitor.parse::<u32>()?, u32::try_from(proxy.as_raw_nonzero().get())?]);
    let lists =
        |text: &str| Ok::<_, anyhow::Error>(runv.call(&["ps", "c1"])?.expect(0)?.stdout.contains(text));
    // While a process executes its program it has no command line.
    let both = || Ok((lists("sleep 777")? && lists("sleep 1000")?).then_some(()));
    Deadline::generous()?.wait_for("both processes", both)?;
    let columns = runv.call(&["ps", "c1", "-o", "comm=NAME,args"])?.expect(0)?.stdout;
    let rows = ["NAME  COMMAND", "sleep sleep 777"];
    assert!(rows.iter().all(|row| columns.lines().any(|line| line == *row)), "{columns}");
    assert!(runv.call(&["ps", "c1", "aux"])?.expect(0)?.stdout.starts_with("USER PID %CPU "));
    runv.call(&["ps", "c1", "-o", "label"])?.refused("column `label` of ps is not supported")?;

    kill_process(proxy, Signal::KILL)?;
    Deadline::generous()?.wait_for("the end of its process", || Ok((!lists("sleep 777")?).then_some(())))?;
    runv.leave(&exec)?.expect(0)?;
    let proxy = pid_in(&runv, "exec.pid")?;
    kill_process(proxy, Signal::TERM)?;
    wait_for_end(proxy)?;
    assert!(!lists("sleep 777")?, "a signal to the host process is the process's");
    assert!(lists("sleep 1000")?);

    runv.leave(&exec)?.expect(0)?;
    let proxy = pid_in(&runv, "exec.pid")?;
    runv.call(&["kill", "c1", "KILL"])?.expect(0)?;
    wait_for_end(proxy)?;
    runv.wait_for_status("c1", "stopped")?;
    let refused = runv.call(&["exec", "c1", "true"])?.expect(255)?;
    assert!(refused.stderr.contains("cannot exec in a stopped container"), "{refused:?}");
    Ok(())
}

#[test]
fn a_paused_container_waits_and_says_so() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    runv.call(&["resume", "c1"])?.refused("container not paused")?;
    runv.call(&["pause", "c1"])?.expect(0)?;
    assert_eq!(runv.state("c1")?["status"], "paused");
    let refused = runv.call(&["exec", "c1", "true"])?.expect(255)?;
    assert!(refused.stderr.contains("cannot exec in a paused container"), "{refused:?}");
    runv.call(&["delete", "c1"])?.refused("that is not stopped: paused")?;
    runv.call(&["resume", "c1"])?.expect(0)?;
    assert_eq!(runv.state("c1")?["status"], "running");
    runv.call(&["exec", "c1", "true"])?.expect(0)?;
    // What kills does not wait.
    runv.call(&["pause", "c1"])?.expect(0)?;
    runv.call(&["kill", "c1", "KILL"])?.expect(0)?;
    runv.wait_for_status("c1", "stopped")?;
    runv.call(&["delete", "c1"])?.expect(0)?;
    runv.run_detached("c1")?;
    runv.call(&["pause", "c1"])?.expect(0)?;
    runv.call(&["delete", "--force", "c1"])?.expect(0)?;
    runv.call(&["state", "c1"])?.refused("container does not exist")?;
    Ok(())
}

/// Groups, rights and a cgroup of its own; labels are checked as those of a bundle are.
#[test]
fn exec_has_the_groups_rights_and_cgroup_of_its_flags() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("mkdir /sys/fs/cgroup/inner; echo made; exec sleep 1000")?.edit(|spec| {
        spec["process"]["noNewPrivileges"] = json!(false);
        for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
            if mount["type"] == "cgroup" {
                mount["options"] = json!(["rw"]);
            }
        }
    })?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    runv.wait_for_text("out", "made")?;
    let script = "id -G; grep NoNewPrivs /proc/self/status; cat /proc/self/cgroup";
    let shell = ["c1", "sh", "-c", script];
    assert_eq!(runv.call(&[&["exec"][..], &shell].concat())?.expect(0)?.stdout, "0\nNoNewPrivs:\t0\n0::/\n");
    let flags = ["exec", "--additional-gids", "7", "-g=8", "--no-new-privs", "--cgroup", "inner"];
    let answer = runv.call(&[&flags[..], &shell].concat())?.expect(0)?;
    assert_eq!(answer.stdout, "0 7 8\nNoNewPrivs:\t1\n0::/inner\n");
    for (flags, named) in [
        (["--cgroup", "none"], "none"),
        (["--cgroup", "../.."], "../.."),
        (["--apparmor", "mine"], "apparmorProfile"),
        (["--process-label", "a:b"], "selinux"),
        (["--preserve-fds", "1000"], "unable to stat preserved-fd"),
        (["--user", "root"], "--user"),
    ] {
        let answer = runv.call(&["exec", flags[0], flags[1], "c1", "true"])?.expect(255)?;
        assert!(answer.stderr.contains(named), "{flags:?}: {answer:?}");
    }
    Ok(())
}

/// It waits for the container to go on.
#[test]
fn exec_in_a_paused_container_is_possible_if_asked() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    runv.call(&["pause", "c1"])?.expect(0)?;
    let mut exec = runv.start_to_leave(&["exec", "--ignore-paused", "c1", "echo", "ran"])?;
    // It has looked at the container's state before it is one of its processes on the host.
    let there = || {
        let pids = runv.call(&["ps", "--format", "json", "c1"])?.expect(0)?.stdout;
        Ok((serde_json::from_str::<Vec<u32>>(&pids)?.len() == 2).then_some(()))
    };
    Deadline::generous()?.wait_for("exec to be in the container's cgroup", there)?;
    runv.call(&["resume", "c1"])?.expect(0)?;
    let ended = || exec.try_wait().context("cannot wait");
    let status = Deadline::generous()?.wait_for("the end of exec", ended)?;
    assert_eq!((status.code(), runv.read("out").as_str()), (Some(0), "ran\n"), "{}", runv.read("err"));
    Ok(())
}
