//! Limits are the container's, inside.

use anyhow::Result;
use e2e::together;

use crate::engine::Engine;

crate::engine::each_engine! {
    memory_is_limited_and_sizes_the_machine,
    processes_and_processors_are_limited,
    limits_can_be_changed,
    resource_limits_of_processes_hold,
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
    Ok(())
}

fn resource_limits_of_processes_hold(engine: &Engine) -> Result<()> {
    let _order = together();
    let answer = engine.run(&["--ulimit", "nofile=123:456"], "ulimit -Sn; ulimit -Hn")?.expect(0)?;
    assert_eq!(answer.stdout, "123\n456\n", "{}", engine.name);
    Ok(())
}
