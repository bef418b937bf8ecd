//! `runv` verb for verb: create, start, state, kill, delete, list, run; what they say, and what they refuse.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::{Bundle, Census, Deadline, Runtime, Setup, alone, together};
use serde_json::Value;

/// Runs until it is told to end, which it does with status 3.
const UNTIL_TERM: &str = "trap 'exit 3' TERM; echo started; while :; do sleep 0.1; done";

#[test]
fn a_container_goes_from_created_to_running_to_stopped() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("echo out; echo err >&2; read line; exit 7")?;
    let runv = Runtime::new(&bundle)?;
    runv.leave(&["create", "--bundle", ".", "--pid-file", "pid", "c1"])?.expect(0)?;
    let created = runv.state("c1")?;
    assert_eq!(created["status"], "created");
    assert_eq!(created["pid"].to_string(), runv.read("pid"));
    assert_eq!(created["bundle"].as_str().map(std::path::Path::new), Some(bundle.path()));
    assert_eq!((&created["id"], &created["ociVersion"]), (&"c1".into(), &"1.0.2-dev".into()));
    assert_eq!(runv.read("out"), "", "the workload runs before start");

    runv.call(&["start", "c1"])?.expect(0)?;
    runv.wait_for_status("c1", "stopped")?;
    assert_eq!((runv.read("out").as_str(), runv.read("err").as_str()), ("out\n", "err\n"));
    let stopped = runv.state("c1")?;
    assert_eq!((&stopped["pid"], &stopped["status"]), (&0.into(), &"stopped".into()));
    runv.call(&["delete", "c1"])?.expect(0)?;
    runv.call(&["state", "c1"])?.refused("container does not exist")?;
    Ok(())
}

/// The engine's shim waits for the process of the pid file, and takes its end for the container's.
#[test]
fn the_wait_status_of_the_containers_process_is_the_workloads() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(UNTIL_TERM)?;
    let runv = Runtime::new(&bundle)?;
    for (id, signal, end) in
        [("c1", "TERM", "exited 3"), ("c2", "SIGKILL", "signaled 9"), ("c3", "2", "signaled 2")]
    {
        // A shell without a handler, as PID 1 of its namespace, hears only SIGKILL; so no namespace for the last.
        let bundle = bundle.edited(|spec| {
            if id == "c3" {
                spec["process"]["args"] = serde_json::json!(["sh", "-c", "sleep 1000"]);
                let namespaces = spec["linux"]["namespaces"].as_array().cloned().unwrap_or_default();
                let others = namespaces.into_iter().filter(|namespace| namespace["type"] != "pid");
                spec["linux"]["namespaces"] = Value::Array(others.collect());
            }
        })?;
        let pid_file = runv.file("pid");
        let mut words: Vec<_> = vec!["adopt".into(), pid_file.clone().into_os_string()];
        words.extend(runv.words(&[
            "create",
            "--pid-file",
            &pid_file.to_string_lossy(),
            "--bundle",
            &bundle,
            id,
        ])?);
        let mut shim = std::process::Command::new(Setup::get()?.probe())
            .args(words)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .context("cannot start probe")?;
        let output = e2e::Output::collect(shim.stdout.take().context("no stdout")?);
        let errors = e2e::Output::collect(shim.stderr.take().context("no stderr")?);
        let deadline = Deadline::generous()?;
        output.wait_for("adopted", deadline)?;
        runv.call(&["start", id])?.expect(0)?;
        runv.wait_for_status(id, "running")?;
        if id != "c3" {
            // Its handler is there when the shell has begun.
            let exec =
                runv.call(&["exec", id, "sh", "-c", "until grep -q sleep /proc/*/comm; do :; done"])?;
            exec.expect(0)?;
        }
        runv.call(&["kill", id, signal])?.expect(0)?;
        output.wait_for(end, deadline).with_context(|| {
            format!(
                "{id} said {:?}",
                errors.to_end(deadline).map(|said| String::from_utf8_lossy(&said).into_owned())
            )
        })?;
        shim.wait()?;
        runv.call(&["kill", id, "9"])?.refused("container not running")?;
        runv.call(&["delete", id])?.expect(0)?;
    }
    Ok(())
}

#[test]
fn what_is_in_the_way_is_said_in_runcs_words() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.call(&["start", "c1"])?.refused("container does not exist")?;
    runv.call(&["kill", "c1"])?.refused("container does not exist")?;
    runv.call(&["delete", "c1"])?.refused("container does not exist")?;
    runv.call(&["delete", "--force", "c1"])?.expect(0)?;
    runv.run_detached("c1")?;
    runv.leave(&["create", "c1"])?.refused("container with given ID already exists")?;
    runv.call(&["start", "c1"])?.refused("cannot start an already running container")?;
    runv.call(&["delete", "c1"])?.refused("cannot delete container c1 that is not stopped: running")?;
    runv.call(&["kill", "c1", "NONE"])?.refused("unknown signal")?;
    runv.call(&["delete", "--force", "c1"])?.expect(0)?;
    runv.leave(&["create", "../c1"])?.refused("invalid container ID format")?;
    Ok(())
}

/// Who reads them waits for their end, which comes with that of the last process that has them.
#[test]
fn nobody_but_the_containers_process_has_its_streams() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let streams = [runv.file("out").canonicalize()?, runv.file("err").canonicalize()?];
    let monitor = runv.read("pid").parse().ok().and_then(rustix::process::Pid::from_raw);
    let monitor = monitor.context("no pid")?;
    let tree = e2e::Process::tree(monitor)?;
    assert!(tree.len() >= 3, "{tree:?}");
    for process in tree {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", process.pid.as_raw_nonzero()))?.flatten();
        let open: Vec<_> = descriptors.filter_map(|one| fs::read_link(one.path()).ok()).collect();
        let has = streams.iter().all(|stream| open.contains(stream));
        let has_any = streams.iter().any(|stream| open.contains(stream));
        let expected = process.pid == monitor;
        assert_eq!((has, has_any), (expected, expected), "{process:?}: {open:?}");
    }
    Ok(())
}

/// Its limits are those of the container that is there, and whoever cleans up would wait for its end.
#[test]
fn a_cgroup_of_the_host_is_one_containers() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    runv.leave(&["create", "c2"])?.refused("container's cgroup is not empty")?;
    runv.call(&["state", "c2"])?.refused("container does not exist")?;
    runv.call(&["exec", "c1", "true"])?.expect(0)?;
    Ok(())
}

#[test]
fn list_shows_ours_and_leaves_others_alone() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    assert_eq!(runv.call(&["list", "--format", "json"])?.expect(0)?.stdout, "null");
    let foreign = runv.root().join("other");
    fs::create_dir(&foreign)?;
    fs::write(foreign.join("state.json"), "{\"id\":\"other\",\"init_process_pid\":1}")?;
    runv.leave(&["create", "c1"])?.expect(0)?;
    assert_eq!(runv.call(&["list", "-q"])?.expect(0)?.stdout, "c1\n");
    let all: Value = serde_json::from_str(&runv.call(&["list", "-f", "json"])?.expect(0)?.stdout)?;
    assert_eq!((all.as_array().map(Vec::len), &all[0]["status"]), (Some(1), &"created".into()));
    assert!(runv.call(&["list"])?.expect(0)?.stdout.starts_with("ID "));
    runv.call(&["delete", "--force", "other"])?.refused("is not a container of this runtime")?;
    assert!(foreign.join("state.json").exists());
    // One that was never started needs no force.
    runv.call(&["delete", "c1"])?.expect(0)?;
    fs::remove_dir_all(foreign)?;
    // What a `delete` leaves that is killed after it took the record away, or a `create` before it wrote one.
    for left in ["control.sock", "lock", "state.json.new"] {
        let half = runv.root().join("half");
        fs::create_dir(&half)?;
        fs::write(half.join(left), "")?;
        runv.call(&["delete", "--force", "half"])?.expect(0)?;
        assert!(!half.exists(), "{left}");
    }
    Ok(())
}

#[test]
fn a_workload_that_cannot_be_executed_fails_create_with_one_line_in_the_log() -> Result<()> {
    let _order = alone();
    let before = Census::take()?;
    let bundle = Bundle::new(&["/bin/missing"])?;
    let runv = Runtime::new(&bundle)?;
    let create = ["--log", "log.json", "--log-format", "json", "create", "c1"];
    let answer = runv.leave(&create)?.expect(127)?;
    assert!(answer.stderr.contains("/bin/missing"), "{answer:?}");
    let line: Value = serde_json::from_str(&runv.read("log.json")).context("not one JSON document")?;
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().is_some_and(|text| text.contains("no such file or directory")), "{line}");
    assert!(line["time"].as_str().is_some_and(|time| time.contains('T')), "{line}");
    assert_eq!(fs::read_dir(runv.root())?.count(), 0);
    before.restored(Deadline::after(Duration::from_secs(2))?)
}

#[test]
fn run_waits_and_deletes_unless_told_to_keep() -> Result<()> {
    let _order = alone();
    let before = Census::take()?;
    let bundle = Bundle::shell("cat; echo err >&2; exit 5")?;
    let runv = Runtime::new(&bundle)?;
    let answer = runv.call_with(&["run", "c1"], b"input")?.expect(5)?;
    assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), ("input", "err\n"));
    runv.call(&["state", "c1"])?.refused("container does not exist")?;
    runv.call(&["run", "--keep", "c1"])?.expect(5)?;
    assert_eq!(runv.state("c1")?["status"], "stopped");
    runv.call(&["delete", "c1"])?.expect(0)?;
    runv.leave(&["run", "--detach", "c1"])?.expect(0)?;
    runv.wait_for_status("c1", "stopped")?;
    runv.call(&["delete", "c1"])?.expect(0)?;
    before.restored(Deadline::after(Duration::from_secs(2))?)
}

#[test]
fn a_signal_to_run_is_the_workloads() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(UNTIL_TERM)?;
    let runv = Runtime::new(&bundle)?;
    let mut run = runv.start_to_leave(&["run", "c1"])?;
    runv.wait_for_text("out", "started")?;
    rustix::process::kill_process(rustix::process::Pid::from_child(&run), rustix::process::Signal::TERM)?;
    let ended = || run.try_wait().context("cannot wait");
    let status = Deadline::generous()?.wait_for("the end of run", ended)?;
    assert_eq!(status.code(), Some(3), "{}", runv.read("err"));
    runv.call(&["state", "c1"])?.refused("container does not exist")?;
    Ok(())
}
