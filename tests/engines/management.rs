//! What engines do with a container beside running it: they name, restart, watch and measure it.

use anyhow::{Context, Result};
use e2e::{Deadline, together};

use crate::engine::{Engine, IMAGE};

crate::engine::each_engine! {
    a_container_is_renamed_restarted_and_signalled,
    a_container_that_fails_is_restarted_as_often_as_asked,
    a_health_check_runs_in_the_container,
    figures_are_those_of_the_machine,
    an_init_is_process_one_if_asked,
    the_end_of_a_machine_is_explained,
    two_runtimes_stand_side_by_side,
}

const UNTIL_TERM: &str =
    "trap 'exit 3' TERM; trap 'echo usr1' USR1; echo started; while :; do sleep 0.1; done";

fn a_container_is_renamed_restarted_and_signalled(engine: &Engine) -> Result<()> {
    let _order = together();
    let container = engine.start(&[], UNTIL_TERM)?;
    engine.call(["rename", &container.id, "renamed"])?.expect(0)?;
    container.wrote("started")?;
    let before = container.inspect(".State.Pid")?;
    engine.call(["restart", "--time", "30", "renamed"])?.expect(0)?;
    assert_ne!(container.inspect(".State.Pid")?, before, "{}", engine.name);
    container.wrote("started\nstarted")?;
    container.call(&["kill", "--signal", "USR1"])?.expect(0)?;
    container.wrote("usr1")?;
    container.call(&["kill", "--signal", "TERM"])?.expect(0)?;
    assert_eq!(container.wait()?, 3, "{}", engine.name);
    Ok(())
}

fn a_container_that_fails_is_restarted_as_often_as_asked(engine: &Engine) -> Result<()> {
    let _order = together();
    let container = engine.start(&["--restart", "on-failure:2"], "echo try; exit 4")?;
    Deadline::generous()?.wait_for("the last restart", || {
        let state = container.inspect("printf \"%d %s %d\" .RestartCount .State.Status .State.ExitCode")?;
        Ok((state == "2 exited 4").then_some(()))
    })?;
    container.wrote("try\ntry\ntry\n")
}

fn a_health_check_runs_in_the_container(engine: &Engine) -> Result<()> {
    let _order = together();
    // podman leaves the times to systemd, which is not here: its check is asked for.
    let interval = if engine.name == "docker" { "500ms" } else { "disable" };
    let check =
        ["--health-cmd", "test -e /tmp/healthy", "--health-interval", interval, "--health-retries", "1"];
    let container = engine.start(&check, UNTIL_TERM)?;
    let becomes = |status: &str| {
        Deadline::generous()?.wait_for(&format!("the container to be {status}"), || {
            if engine.name == "podman" {
                container.call(&["healthcheck", "run"])?;
            }
            Ok((container.inspect(".State.Health.Status")? == status).then_some(()))
        })
    };
    becomes("unhealthy")?;
    container.exec(&[], "touch /tmp/healthy")?.expect(0)?;
    becomes("healthy")
}

/// Engines read them in the cgroup on the host, which holds the machine.
fn figures_are_those_of_the_machine(engine: &Engine) -> Result<()> {
    let _order = together();
    let container = engine.start(&[], UNTIL_TERM)?;
    let answer = container.call(&["stats", "--no-stream", "--format", "{{.MemUsage}}"])?.expect(0)?;
    let digits = answer.stdout.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty());
    let used: u64 = digits.context("no figure")?.parse()?;
    assert!(
        (10..1000).contains(&used) && answer.stdout.contains("MB /") | answer.stdout.contains("MiB /"),
        "{answer:?}"
    );
    Ok(())
}

fn an_init_is_process_one_if_asked(engine: &Engine) -> Result<()> {
    let _order = together();
    let answer = engine.run(&["--init"], "tr '\\0' ' ' </proc/1/cmdline")?.expect(0)?;
    let program = answer.stdout.split(' ').next().unwrap_or_default();
    assert!(program.ends_with("init"), "{}: {answer:?}", engine.name);
    Ok(())
}

/// The log of `--log` is shown by no engine once a container runs; what the container wrote is.
fn the_end_of_a_machine_is_explained(engine: &Engine) -> Result<()> {
    let _order = together();
    let container = engine.start(&[], UNTIL_TERM)?;
    container.wrote("started")?;
    let pid = container.inspect(".State.Pid")?;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let is_vm = |pid: &&str| {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("qemu"))
    };
    let vm = children.split_whitespace().find(is_vm).context("no VMM")?;
    std::process::Command::new("kill").args(["-9", vm]).status()?;
    assert_eq!(container.wait()?, 1, "{}", engine.name);
    let logs = container.call(&["logs"])?;
    let expected = format!("runv: error: the VMM (process {vm}) was killed by signal 9 (SIGKILL)");
    assert!(logs.stderr.contains(&expected), "{}: {logs:?}", engine.name);
    Ok(())
}

fn two_runtimes_stand_side_by_side(engine: &Engine) -> Result<()> {
    let _order = together();
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let with_runc = engine.with_runc();
    let runtime: &[&str] = if engine.name == "docker" { &["--runtime", "runc"] } else { &[] };
    let theirs = with_runc.start(runtime, UNTIL_TERM)?;
    let ours = engine.start(&[], UNTIL_TERM)?;
    assert_eq!(theirs.exec(&[], "uname -r")?.expect(0)?.stdout, host, "{}", engine.name);
    assert!(ours.exec(&[], "uname -r")?.expect(0)?.stdout.ends_with("-runv\n"));

    let listed = engine.call(["ps", "--no-trunc", "--quiet"])?.expect(0)?.stdout;
    assert!([&ours, &theirs].iter().all(|container| listed.contains(&container.id)), "{listed}");
    let field = if engine.name == "docker" { ".HostConfig.Runtime" } else { ".OCIRuntime" };
    assert!(ours.inspect(field)?.ends_with("runv") && theirs.inspect(field)?.ends_with("runc"));
    if engine.name == "docker" {
        // Both keep their containers in one folder.
        let root = ["--root", crate::engine::DOCKER_RUNTIME_ROOT, "list", "--quiet"];
        let list = |program: &std::path::Path| -> Result<String> {
            let output = std::process::Command::new(program).args(root).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let listed = list(&e2e::Setup::get()?.program("runv"))?;
        assert!(listed.contains(&ours.id) && !listed.contains(&theirs.id), "{listed}");
    }
    // Each goes without the other.
    theirs.call(&["rm", "--force"])?.expect(0)?;
    ours.exec(&[], "true")?.expect(0)?;
    Ok(())
}

/// The host's processes that stand for the container's have their command lines.
#[test]
fn docker_top_shows_what_runs() -> Result<()> {
    let _order = together();
    let engine = Engine::docker()?;
    let container = engine.start(&[], UNTIL_TERM)?;
    engine.call(["exec", "--detach", &container.id, "sleep", "777"])?.expect(0)?;
    for arguments in [&[][..], &["aux"], &["-o", "pid,args"]] {
        let answer = engine.call(["top", &container.id].iter().chain(arguments))?.expect(0)?;
        assert!(
            answer.stdout.contains("trap 'exit 3' TERM") && answer.stdout.contains("sleep 777"),
            "{answer:?}"
        );
    }
    let answer = engine.call(["top", &container.id, "-o", "pid,comm"])?.expect(0)?;
    let names: Vec<&str> = answer.stdout.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(names, ["COMMAND", "sh", "sleep"]);
    Ok(())
}

#[test]
fn podman_mount_shows_the_root_file_system() -> Result<()> {
    let _order = together();
    let engine = Engine::podman()?;
    let container = engine.start(&[], UNTIL_TERM)?;
    container.exec(&[], "echo from the guest >/root/mark")?.expect(0)?;
    let mounted = container.call(&["mount"])?.expect(0)?.stdout;
    let root = std::path::Path::new(mounted.trim());
    assert_eq!(std::fs::read_to_string(root.join("root/mark"))?, "from the guest\n");
    std::fs::write(root.join("root/answer"), "from the host\n")?;
    assert_eq!(container.exec(&[], "cat /root/answer")?.expect(0)?.stdout, "from the host\n");
    container.call(&["unmount"])?.expect(0)?;
    Ok(())
}

/// dockerd dies, and containers go on; what they write and how they end is known to the next one.
#[test]
fn containers_outlive_dockerd() -> Result<()> {
    let _order = e2e::alone();
    let engine = Engine::docker()?;
    let directory = tempfile::Builder::new().prefix("volume.").tempdir()?;
    let volume = format!("{}:/shared", directory.path().display());
    let script = "touch /shared/running; until [ -e /shared/go ]; do sleep 0.05; done; echo went on; touch /shared/went
        until [ -e /shared/end ]; do sleep 0.05; done; exit $(cat /shared/end)";
    let there = |name: &str| {
        let path = directory.path().join(name);
        Deadline::generous()?.wait_for(name, || Ok(path.exists().then_some(())))
    };
    let container = engine.start(&["--volume", &volume], script)?;
    there("running")?;
    engine.without_daemon(|| {
        std::fs::write(directory.path().join("go"), "")?;
        there("went")
    })?;
    container.wrote("went on")?;
    container.exec(&[], "true")?.expect(0)?;
    let process = std::path::Path::new("/proc").join(container.inspect(".State.Pid")?);
    engine.without_daemon(|| {
        std::fs::write(directory.path().join("end.new"), "9")?;
        std::fs::rename(directory.path().join("end.new"), directory.path().join("end"))?;
        Deadline::generous()?.wait_for("the container's end", || Ok((!process.exists()).then_some(())))
    })?;
    assert_eq!(container.inspect(".State.Status")?, "exited");
    assert_eq!(container.inspect(".State.ExitCode")?, "9");
    engine.call(["run", "--rm", "--network", "none", IMAGE, "true"])?.expect(0)?;
    Ok(())
}
