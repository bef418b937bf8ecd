//! Containers in one machine: what they share and what not, whose end is whose, and nothing left of one that is gone.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Bundle, Census, Deadline, Runtime, alone, together};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Runs until it is told to end, which it does with status 3.
const UNTIL_TERM: &str = "trap 'exit 3' TERM; echo started; while :; do sleep 0.1; done";

/// What the containers of a pod share by default.
const POD: &[&str] = &["ipc", "uts", "network"];

/// A bundle whose container joins namespaces of another's process.
fn joining(script: &str, pid: &str, kinds: &[&str]) -> Result<Bundle> {
    Bundle::shell(script)?.edit(|spec| {
        let listed = spec["linux"]["namespaces"].as_array().cloned().unwrap_or_default();
        let is_joined = |one: &Value| kinds.iter().any(|kind| one["type"] == *kind);
        let mut listed: Vec<Value> = listed.into_iter().filter(|one| !is_joined(one)).collect();
        for kind in kinds {
            let name = if *kind == "network" { "net" } else { kind };
            listed.push(json!({ "type": kind, "path": format!("/proc/{pid}/ns/{name}") }));
        }
        spec["linux"]["namespaces"] = Value::Array(listed);
        spec["hostname"] = Value::Null;
    })
}

/// The container for which the machine is made.
fn infra(bundle: &Bundle) -> Result<Runtime<'_>> {
    let runv = Runtime::new(bundle)?;
    runv.run_detached("infra")?;
    Ok(runv)
}

/// Another one in that machine, if its bundle says so.
fn member_of<'bundle>(infra: &Runtime<'_>, id: &str, bundle: &'bundle Bundle) -> Result<Runtime<'bundle>> {
    let member = Runtime::with_root_of(infra, bundle);
    member.run_detached(id)?;
    Ok(member)
}

/// What a command in a container writes.
fn output(runv: &Runtime<'_>, id: &str, command: &[&str]) -> Result<String> {
    let arguments: Vec<&str> = ["exec", id].iter().chain(command).copied().collect();
    Ok(runv.call(&arguments)?.expect(0)?.stdout)
}

fn namespace(runv: &Runtime<'_>, id: &str, name: &str) -> Result<String> {
    output(runv, id, &["readlink", &format!("/proc/self/ns/{name}")])
}

/// The guest's.
fn boot_id(runv: &Runtime<'_>, id: &str) -> Result<String> {
    output(runv, id, &["cat", "/proc/sys/kernel/random/boot_id"])
}

#[test]
fn a_second_container_joins_the_machine_of_the_first_by_its_namespaces() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(UNTIL_TERM)?;
    let runv = infra(&bundle)?;
    let script = "hostname; cat /proc/1/comm; echo x >/written; read line || exit 4";
    let other = joining(script, &runv.read("pid"), POD)?;
    let member = member_of(&runv, "app", &other)?;
    member.wait_for_status("app", "stopped")?;
    assert_eq!((member.read("out").as_str(), member.read("err").as_str()), ("runc\nsh\n", ""));
    assert!(other.rootfs().join("written").exists());
    assert!(!bundle.rootfs().join("written").exists());
    member.call(&["delete", "app"])?.expect(0)?;

    let larger = joining("true", &runv.read("pid"), POD)?
        .edit(|spec| spec["annotations"] = json!({ "io.runv.memory": "1G" }))?;
    let larger = Runtime::with_root_of(&runv, &larger);
    let refused = larger.leave(&["create", "larger"])?;
    refused
        .refused("annotation io.runv.memory chooses the machine, and this container joins that of another")?;
    assert_eq!(runv.state("infra")?["status"], "running");
    Ok(())
}

#[test]
fn namespaces_that_are_named_are_shared_and_the_others_are_not() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(UNTIL_TERM)?;
    let runv = infra(&bundle)?;
    let pid = runv.read("pid");
    let pod = joining(UNTIL_TERM, &pid, POD)?;
    let app = member_of(&runv, "app", &pod)?;
    // By the process of a member, too.
    let debug = joining(UNTIL_TERM, &app.read("pid"), &["pid"])?;
    // Kept: dropped, it deletes what is in the root.
    let _debugger = member_of(&runv, "debug", &debug)?;
    let boot = boot_id(&runv, "infra")?;
    for id in ["app", "debug"] {
        assert_eq!(boot_id(&runv, id)?, boot, "{id}");
    }
    for name in ["ipc", "uts", "net", "pid", "mnt", "cgroup"] {
        let [infra, app, debug] = ["infra", "app", "debug"].map(|id| namespace(&runv, id, name));
        let (infra, app, debug) = (infra?, app?, debug?);
        assert_eq!(infra == app, ["ipc", "uts", "net"].contains(&name), "{name}");
        assert_eq!(app == debug, name == "pid", "{name}");
    }
    Ok(())
}

/// Ids of the host for those from 0 on.
const IDS: u32 = 200_000;

#[test]
fn users_clocks_and_roots_of_cgroups_can_be_shared_too() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(UNTIL_TERM)?.edit(|spec| {
        if let Some(listed) = spec["linux"]["namespaces"].as_array_mut() {
            listed.extend([json!({ "type": "user" }), json!({ "type": "time" })]);
        }
        let ids = json!([{ "containerID": 0, "hostID": IDS, "size": 65536 }]);
        spec["linux"]["uidMappings"] = ids.clone();
        spec["linux"]["gidMappings"] = ids;
        spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000 } });
    })?;
    chown(bundle.rootfs(), Some(IDS), Some(IDS))?;
    let runv = infra(&bundle)?;
    let script = "id -u; tr -s ' ' </proc/self/uid_map; echo x >/made && stat -c %u /made
        [ $(cut -d. -f1 /proc/uptime) -ge 1000000 ] && echo ahead; exec sleep 1000";
    let kinds = ["user", "time", "cgroup"];
    let other = joining(script, &runv.read("pid"), &kinds)?;
    chown(other.rootfs(), Some(IDS), Some(IDS))?;
    let app = member_of(&runv, "app", &other)?;
    app.wait_for_text("out", "ahead")?;
    assert_eq!(app.read("out"), format!("0\n 0 {IDS} 65536\n0\nahead\n"));
    assert_eq!(fs::metadata(other.rootfs().join("made"))?.uid(), IDS);
    for name in ["user", "time", "cgroup", "ipc", "uts", "net", "pid", "mnt"] {
        let is_shared = namespace(&runv, "infra", name)? == namespace(&runv, "app", name)?;
        assert_eq!(is_shared, kinds.contains(&name), "{name}");
    }
    // One process is enough for one.
    let single = joining("echo alone; exec sleep 1000", &runv.read("pid"), &kinds)?
        .edit(|spec| spec["linux"]["resources"] = json!({"pids": {"limit": 1}}))?;
    chown(single.rootfs(), Some(IDS), Some(IDS))?;
    let single = member_of(&runv, "single", &single)?;
    single.wait_for_text("out", "alone")?;
    // What the first has made of its ids is not the second's to choose.
    let others = joining(script, &runv.read("pid"), &kinds)?.edit(|spec| {
        let ids = json!([{ "containerID": 0, "hostID": 1, "size": 65536 }]);
        spec["linux"]["uidMappings"] = ids.clone();
        spec["linux"]["gidMappings"] = ids;
    })?;
    let late = Runtime::with_root_of(&runv, &others);
    late.leave(&["create", "late"])?.refused("are not those of the user namespace that is joined")?;
    Ok(())
}

#[test]
fn what_is_done_to_one_container_is_done_to_it_alone() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(UNTIL_TERM)?;
    let runv = infra(&bundle)?;
    let other = joining(UNTIL_TERM, &runv.read("pid"), POD)?.edit(|spec| {
        spec["linux"]["resources"] = json!({ "pids": { "limit": 33 } });
    })?;
    let member = member_of(&runv, "app", &other)?;
    member.wait_for_text("out", "started")?;

    assert_eq!(output(&runv, "app", &["cat", "/sys/fs/cgroup/pids.max"])?, "33\n");
    assert_eq!(output(&runv, "infra", &["cat", "/sys/fs/cgroup/pids.max"])?, "max\n");
    runv.call(&["update", "--pids-limit", "44", "app"])?.expect(0)?;
    assert_eq!(output(&runv, "app", &["cat", "/sys/fs/cgroup/pids.max"])?, "44\n");
    assert_eq!(output(&runv, "infra", &["cat", "/sys/fs/cgroup/pids.max"])?, "max\n");

    runv.call(&["pause", "app"])?.expect(0)?;
    assert_eq!(runv.state("app")?["status"], "paused");
    runv.call(&["exec", "app", "true"])?.expect(255)?;
    output(&runv, "infra", &["true"])?;
    runv.call(&["resume", "app"])?.expect(0)?;

    // What the shell forks has its command line, until it executes its program.
    Deadline::generous()?.wait_for("the one shell of app", || {
        let listed = runv.call(&["ps", "app"])?.expect(0)?.stdout;
        Ok((listed.matches("trap").count() == 1).then_some(()))
    })?;
    let stats = runv.call(&["events", "--stats", "app"])?.expect(0)?.stdout;
    let stats: Value = serde_json::from_str(&stats).context("no JSON")?;
    assert_eq!((&stats["id"], &stats["data"]["pids"]["limit"]), (&"app".into(), &44.into()));

    runv.call(&["kill", "--all", "app", "KILL"])?.expect(0)?;
    runv.wait_for_status("app", "stopped")?;
    output(&runv, "infra", &["true"])?;
    runv.call(&["kill", "infra", "TERM"])?.expect(0)?;
    runv.wait_for_status("infra", "stopped")?;
    Ok(())
}

/// Kills the host process of the container that was made last.
fn kill_monitor(runv: &Runtime<'_>) -> Result<()> {
    let pid = Pid::from_raw(runv.read("pid").parse()?).context("no process id")?;
    kill_process(pid, Signal::KILL).context("cannot kill the monitor")
}

/// The device process of a container's machine.
fn devices_of(runv: &Runtime<'_>, id: &str) -> Result<i32> {
    let record = fs::read(runv.root().join(id).join("state.json")).context("state.json")?;
    let record: Value = serde_json::from_slice(&record)?;
    let pid = record["children"][1]["pid"].as_u64().context("no device process")?;
    i32::try_from(pid).context("no process id")
}

/// How many host paths the device process of a container's machine has in its share for members.
fn shared(runv: &Runtime<'_>, id: &str) -> Result<usize> {
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", devices_of(runv, id)?))?;
    Ok(mounts.lines().filter(|line| line.contains("/share/members/")).count())
}

/// What the device process of a container's machine has open. Without the folder that members have in common, which the guest
/// remembers, and the program that the first container executes again and again, which is there now and then once more.
fn open_files(runv: &Runtime<'_>, id: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", devices_of(runv, id)?))? {
        match fs::read_link(entry?.path()) {
            Ok(file) if file.ends_with("share/members") || file.ends_with("share/rootfs/bin/busybox") => {}
            Ok(file) => files.push(file),
            // Closed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    files.sort();
    Ok(files)
}

#[test]
fn a_member_that_is_gone_leaves_nothing_in_the_machine_however_it_ended() -> Result<()> {
    let _order = alone();
    let before = Census::take()?;
    {
        // The device process keeps a file for each that the guest has come across: the first container has come across all of
        // its own before they are counted.
        let bundle = Bundle::shell(&format!("sleep 0; {UNTIL_TERM}"))?;
        let runv = infra(&bundle)?;
        runv.wait_for_text("out", "started")?;
        output(&runv, "infra", &["true"])?;
        let open = open_files(&runv, "infra")?;
        let other = joining(UNTIL_TERM, &runv.read("pid"), POD)?;
        let member = Runtime::with_root_of(&runv, &other);
        for end in ["signal", "force", "monitor"] {
            member.run_detached("app")?;
            member.wait_for_text("out", "started")?;
            ensure!(shared(&runv, "infra")? >= 2, "nothing is shared");
            match end {
                "signal" => {
                    member.call(&["kill", "app", "TERM"])?.expect(0)?;
                    member.wait_for_status("app", "stopped")?;
                    assert_eq!(shared(&runv, "infra")?, 0, "before the container's process ends");
                }
                "force" => {}
                _ => {
                    kill_monitor(&member)?;
                    member.wait_for_status("app", "stopped")?;
                }
            }
            member.call(&["delete", "--force", "app"])?.expect(0)?;
            assert_eq!(shared(&runv, "infra")?, 0, "{end}");
            assert_eq!(output(&runv, "infra", &["true"])?, "", "{end}");
            // The guest lets go of what it knew by messages of its own.
            let closed = Deadline::generous()?.wait_for("the device process to close all files", || {
                Ok((open_files(&runv, "infra")?.len() <= open.len()).then_some(()))
            });
            closed.with_context(|| format!("{end}: {:#?}, not {open:#?}", open_files(&runv, "infra")))?;
        }
        runv.call(&["delete", "--force", "infra"])?.expect(0)?;
    }
    before.restored(Deadline::after(Duration::from_secs(2))?)
}

/// What is read ahead of a mapped file comes for nobody once the processes and their mounts have gone, which they do here
/// while the device process stands still.
#[test]
fn what_is_read_for_a_member_whose_mounts_have_gone_does_the_machine_no_harm() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(UNTIL_TERM)?;
    let runv = infra(&bundle)?;
    // The file is one that no test host has the time to read. The program is where its own end waits for no device.
    let reader = |seconds: u64| -> Result<Bundle> {
        let script = format!("cp /bin/probe /dev/probe; exec /dev/probe fault /large {seconds}");
        let bundle = joining(&script, &runv.read("pid"), POD)?;
        File::create(bundle.rootfs().join("large"))?.set_len(64 << 30)?;
        Ok(bundle)
    };
    // The next one where a host is too slow for the first.
    let lives = [2, 8, 32];
    let bundles = lives.into_iter().map(reader).collect::<Result<Vec<_>>>()?;
    let members: Vec<_> = bundles.iter().map(|bundle| Runtime::with_root_of(&runv, bundle)).collect();
    let mut readers = lives.into_iter().zip(&members);
    let (mut seconds, mut member) = readers.next().context("none")?;
    let devices = Pid::from_raw(devices_of(&runv, "infra")?).context("no process id")?;
    let mut rounds = 0;
    while rounds < 2 {
        member.run_detached("reader")?;
        member.wait_for_text("out", "started")?;
        kill_process(devices, Signal::STOP).context("cannot stop the device process")?;
        let still_reads = runv.state("reader")?["status"] == "running";
        if still_reads {
            // Nothing tells of what the guest does meanwhile.
            thread::sleep(Duration::from_secs(seconds + 1));
        }
        kill_process(devices, Signal::CONT).context("cannot continue the device process")?;
        member.wait_for_status("reader", "stopped")?;
        member.call(&["delete", "reader"])?.expect(0)?;
        output(&runv, "infra", &["true"])?;
        if still_reads {
            rounds += 1;
        } else {
            (seconds, member) = readers.next().context("the host was too slow for all of them")?;
        }
    }
    Ok(())
}

#[test]
fn members_outlive_the_container_for_which_the_machine_was_made() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(UNTIL_TERM)?;
    let runv = infra(&bundle)?;
    runv.wait_for_text("out", "started")?;
    let other = joining(UNTIL_TERM, &runv.read("pid"), POD)?;
    let member = member_of(&runv, "app", &other)?;
    member.wait_for_text("out", "started")?;
    runv.call(&["kill", "infra", "TERM"])?.expect(0)?;
    Deadline::generous()?.wait_for("the end of the first container", || {
        Ok((runv.call(&["exec", "infra", "true"])?.code != 0).then_some(()))
    })?;
    output(&runv, "app", &["true"])?;
    assert_eq!(runv.state("infra")?["status"], "running");
    let late = joining(UNTIL_TERM, &runv.read("pid"), POD)?;
    // Kept: dropped, it deletes what is in the root.
    let late = Runtime::with_root_of(&runv, &late);
    let refused = late.leave(&["create", "late"])?;
    refused.refused("the container for which the sandbox was made has ended")?;
    member.call(&["kill", "app", "TERM"])?.expect(0)?;
    member.wait_for_status("app", "stopped")?;
    runv.wait_for_status("infra", "stopped")?;
    Ok(())
}

#[test]
fn the_end_of_the_machine_ends_its_members_with_an_error_that_says_so() -> Result<()> {
    let _order = together();
    for end in ["container", "machine"] {
        let bundle = Bundle::shell(UNTIL_TERM)?;
        let runv = infra(&bundle)?;
        let other = joining(UNTIL_TERM, &runv.read("pid"), POD)?;
        let member = Runtime::with_root_of(&runv, &other);
        member.leave(&["--log", "log", "create", "--pid-file", "pid", "app"])?.expect(0)?;
        member.call(&["start", "app"])?.expect(0)?;
        member.wait_for_text("out", "started")?;
        match end {
            "container" => {
                runv.call(&["kill", "infra", "KILL"])?.expect(0)?;
                // The second one is for what lives on.
                Deadline::generous()?.wait_for("the container's end", || {
                    Ok((runv.call(&["exec", "infra", "true"])?.code != 0).then_some(()))
                })?;
                runv.call(&["kill", "infra", "KILL"])?.expect(0)?;
            }
            _ => {
                kill_monitor(&runv)?;
            }
        }
        member.wait_for_status("app", "stopped")?;
        member.wait_for_text("log", "container infra, in whose sandbox this one is, has ended")?;
        member.call(&["delete", "app"])?.expect(0)?;
        runv.wait_for_status("infra", "stopped")?;
        let late = member.leave(&["create", "late"])?;
        late.refused("(ipc) names, has stopped")?;
        runv.call(&["delete", "infra"])?.expect(0)?;
    }
    Ok(())
}

/// The machine's monitor does not know of its container's end as long as nobody takes the last of the output.
#[test]
fn a_second_kill_is_heard_while_the_output_of_the_first_containers_is_not_read() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("echo started >/started; exec cat /dev/zero")?;
    let runv = Runtime::new(&bundle)?;
    let output = bundle.path().join("out");
    mknodat(CWD, &output, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    // For both, so that nobody is waited for.
    let reader = File::options().read(true).write(true).open(&output)?;
    ensure!(runv.start_to_leave(&["create", "--pid-file", "pid", "infra"])?.wait()?.success(), "not created");
    runv.call(&["start", "infra"])?.expect(0)?;
    let other = joining(UNTIL_TERM, &runv.read("pid"), POD)?;
    let member = member_of(&runv, "app", &other)?;
    runv.wait_for_text("rootfs/started", "started")?;
    runv.call(&["kill", "infra", "KILL"])?.expect(0)?;
    Deadline::generous()?.wait_for("the container's end", || {
        Ok((runv.call(&["exec", "infra", "true"])?.code != 0).then_some(()))
    })?;
    assert_eq!(runv.state("infra")?["status"], "running");
    runv.call(&["kill", "infra", "KILL"])?.expect(0)?;
    // Nor does anything happen to the member yet.
    assert_eq!(member.state("app")?["status"], "running");
    drop(reader);
    member.wait_for_status("app", "stopped")?;
    runv.wait_for_status("infra", "stopped")?;
    Ok(())
}

#[test]
fn binds_are_the_members_own_read_only_ones_and_sockets_too() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(UNTIL_TERM)?;
    let runv = infra(&bundle)?;
    let script = "cat /data/file /etc/note; echo no >/data/new; echo yes >/out/new
        echo question | probe connect /run/host.sock";
    let other = joining(script, &runv.read("pid"), POD)?;
    let (data, out) = (other.host_directory("data")?, other.host_directory("writable")?);
    fs::write(data.join("file"), "data\n")?;
    fs::write(other.path().join("note"), "note\n")?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let note = text(&other.path().join("note"));
    let socket = other.path().join("server.sock");
    let server = UnixListener::bind(&socket)?;
    // Ends with the test.
    std::thread::spawn(move || {
        for mut connection in server.incoming().flatten() {
            let mut text = Vec::new();
            let _ = connection.read_to_end(&mut text).and_then(|_| connection.write_all(&text));
        }
    });
    let other = other
        .mount("bind", &text(&data), "/data", &["bind", "ro"])?
        .mount("bind", &text(&out), "/out", &["bind"])?
        .mount("bind", &note, "/etc/note", &["bind", "ro"])?
        .mount("bind", &text(&socket), "/run/host.sock", &["bind"])?;
    let member = member_of(&runv, "app", &other)?;
    member.wait_for_status("app", "stopped")?;
    assert_eq!(member.read("out"), "data\nnote\nquestion\n", "{}", member.read("err"));
    ensure!(member.read("err").contains("Read-only file system"), "{:?}", member.read("err"));
    assert_eq!(fs::read_to_string(out.join("new"))?, "yes\n");
    assert!(!data.join("new").exists());
    Ok(())
}

#[test]
fn a_namespace_of_the_host_is_refused_by_its_field() -> Result<()> {
    let _order = together();
    let own = std::process::id().to_string();
    for kind in ["ipc", "uts", "pid", "user", "time", "cgroup"] {
        let bundle = joining(UNTIL_TERM, &own, &[kind])?;
        let runv = Runtime::new(&bundle)?;
        let refused =
            runv.leave(&["create", "c1"])?.refused(&format!("({kind}): its path leads to no container"))?;
        ensure!(refused.stderr.contains("linux.namespaces["), "{refused:?}");
        assert_eq!(fs::read_dir(runv.root())?.count(), 0);
    }
    Ok(())
}
