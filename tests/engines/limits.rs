//! Limits are the container's, inside, and on the host the machine's.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use e2e::{Deadline, together};

use crate::engine::{Engine, cgroup_driver};

crate::engine::each_engine! {
    memory_is_limited_and_sizes_the_machine,
    processes_and_processors_are_limited,
    limits_can_be_changed,
    resource_limits_of_processes_hold,
    the_machine_is_limited_on_the_host,
    the_cgroup_is_made_by_the_engines_driver,
}

fn memory_is_limited_and_sizes_the_machine(engine: &Engine) -> Result<()> {
    let _order = together();
    let script = "cat /sys/fs/cgroup/memory.max; grep MemTotal /proc/meminfo";
    let answer = engine.run(&["--memory", "200m"], script)?.expect(0)?;
    assert!(answer.stdout.starts_with("209715200\n"), "{}: {answer:?}", engine.name);
    // As much as it may have: an allocation of 300 MiB ends it, not the machine.
    let answer =
        engine.run(&["--memory", "64m"], "dd if=/dev/zero of=/dev/null bs=300M count=1; echo after")?;
    assert!(answer.stdout.contains("after"), "{}: {answer:?}", engine.name);
    Ok(())
}

fn processes_and_processors_are_limited(engine: &Engine) -> Result<()> {
    let _order = together();
    let options = ["--pids-limit", "20", "--cpus", "0.5", "--cpu-shares", "512"];
    let answer = engine.run(&options, "cd /sys/fs/cgroup; cat pids.max cpu.max cpu.weight")?.expect(0)?;
    assert_eq!(answer.stdout, "20\n50000 100000\n59\n", "{}", engine.name);
    Ok(())
}

fn limits_can_be_changed(engine: &Engine) -> Result<()> {
    let _order = together();
    let container = engine.start(&["--pids-limit", "50"], "while :; do sleep 0.1; done")?;
    container.call(&["update", "--cpu-shares", "512"])?.expect(0)?;
    let answer = container.exec(&[], "cat /sys/fs/cgroup/cpu.weight /sys/fs/cgroup/pids.max")?.expect(0)?;
    assert_eq!(answer.stdout, "59\n50\n", "{}", engine.name);
    container.call(&["update", "--memory", "100m", "--memory-swap", "100m"])?.expect(0)?;
    let answer = container.exec(&[], "cat /sys/fs/cgroup/memory.max")?.expect(0)?;
    assert_eq!(answer.stdout, "104857600\n", "{}", engine.name);
    Ok(())
}

fn resource_limits_of_processes_hold(engine: &Engine) -> Result<()> {
    let _order = together();
    let answer = engine.run(&["--ulimit", "nofile=123:456"], "ulimit -Sn; ulimit -Hn")?.expect(0)?;
    assert_eq!(answer.stdout, "123\n456\n", "{}", engine.name);
    Ok(())
}

fn the_machine_is_limited_on_the_host(engine: &Engine) -> Result<()> {
    let _order = together();
    let disk = disk();
    let throttle = disk.as_ref().map(|(path, _)| format!("{path}:1mb"));
    let mut options = vec!["--cpuset-cpus", "0", "--memory", "64m", "--cpu-shares", "512", "--cpus", "0.5"];
    options.extend(throttle.iter().flat_map(|throttle| ["--device-read-bps", throttle]));
    let container = engine.start(&options, "while :; do sleep 0.1; done")?;
    let pid = container.inspect(".State.Pid")?;
    let host = |controller: &str, v1: &str, v2: &str| cgroup_file(&pid, controller, v1, v2);
    assert_eq!(host("cpuset", "cpuset.cpus", "cpuset.cpus")?, "0", "{}", engine.name);
    // Room for the machine itself, which has to be bounded, too.
    let memory: u64 = host("memory", "memory.limit_in_bytes", "memory.max")?.parse()?;
    assert!((128 << 20..512 << 20).contains(&memory), "{}: {memory}", engine.name);
    assert_eq!(host("pids", "pids.max", "pids.max")?, "8192", "{}", engine.name);
    assert_eq!(host("cpu", "cpu.cfs_quota_us", "cpu.max")?.split(' ').next(), Some("60000"));
    if let Some((_, number)) = disk {
        let throttled = host("blkio", "blkio.throttle.read_bps_device", "io.max")?;
        assert!(throttled.contains(&number) && throttled.contains("1048576"), "{}: {throttled}", engine.name);
    }
    container.call(&["update", "--cpu-shares", "256"])?.expect(0)?;
    let shares = host("cpu", "cpu.shares", "cpu.weight")?;
    assert!(["256", "35"].contains(&shares.as_str()), "{}: {shares}", engine.name);
    Ok(())
}

/// Where each driver has it: a folder below the engine's own, or a unit of systemd.
fn the_cgroup_is_made_by_the_engines_driver(engine: &Engine) -> Result<()> {
    let _order = together();
    let container = engine.start(&[], "while :; do sleep 0.1; done")?;
    let (pid, id) = (container.inspect(".State.Pid")?, container.inspect(".Id")?);
    let expected = match (cgroup_driver().as_str(), engine.name) {
        ("systemd", "docker") => format!("/system.slice/docker-{id}.scope"),
        ("systemd", _) => format!("/machine.slice/libpod-{id}.scope"),
        (_, "docker") => format!("/docker/{id}"),
        _ => format!("/libpod_parent/libpod-{id}"),
    };
    let all = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    assert!(all.lines().any(|line| line.ends_with(&expected)), "{}: {expected}: {all}", engine.name);
    let Some(unit) = expected.rsplit('/').next().filter(|name| name.ends_with(".scope")) else {
        return Ok(());
    };
    let described = || -> Result<String> {
        let show = ["show", "--value", "--property", "ActiveState,Description", unit];
        let output = std::process::Command::new("systemctl").args(show).output();
        Ok(String::from_utf8_lossy(&output.context("cannot run systemctl")?.stdout).into_owned())
    };
    let description = format!("runv container {id}");
    let active = described()?;
    assert!(active.contains("active\n") && active.contains(&description), "{}: {active}", engine.name);
    container.call(&["rm", "--force"])?.expect(0)?;
    // systemd forgets a unit after it has told of its end.
    Deadline::generous()?.wait_for("the unit's end", || {
        let left = described()?;
        Ok((left.contains("inactive\n") && !left.contains(&description)).then_some(()))
    })
}

/// A disk of the host, with its number.
fn disk() -> Option<(String, String)> {
    let disks = fs::read_dir("/sys/block").ok()?.flatten();
    disks.into_iter().find_map(|disk| {
        let path = Path::new("/dev").join(disk.file_name());
        let number = fs::read_to_string(disk.path().join("dev")).ok()?.trim().to_owned();
        path.exists().then(|| (path.display().to_string(), number))
    })
}

/// A file of a process's cgroup on the host, of version 1 or 2.
fn cgroup_file(pid: &str, controller: &str, v1: &str, v2: &str) -> Result<String> {
    let all = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let of_v1 = all.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|one| one == controller).then(|| {
            Path::new("/sys/fs/cgroup").join(controllers).join(path.trim_start_matches('/')).join(v1)
        })
    });
    let of_v2 = all.lines().find_map(|line| line.strip_prefix("0::/"));
    let of_v2 = of_v2.map(|path| Path::new("/sys/fs/cgroup").join(path).join(v2));
    let file = of_v1.or(of_v2).context("no cgroup")?;
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.trim().to_owned())
}
