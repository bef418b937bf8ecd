//! `runv update` and `events` on a container that runs.

use anyhow::{Context, Result};
use e2e::{Bundle, Deadline, Runtime, together};
use serde_json::{Value, json};

#[test]
fn limits_change_by_flags_and_by_stdin_and_figures_tell() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let limit = || -> Result<Value> {
        let stats = runv.call(&["events", "--stats", "c1"])?.expect(0)?.stdout;
        let stats: Value = serde_json::from_str(&stats)?;
        assert_eq!((&stats["type"], &stats["id"]), (&"stats".into(), &"c1".into()));
        assert!(stats["data"]["memory"]["usage"]["usage"].as_u64() > Some(0), "{stats}");
        Ok(stats["data"]["pids"]["limit"].clone())
    };
    runv.call(&["update", "--pids-limit", "50", "c1"])?.expect(0)?;
    assert_eq!(limit()?, 50);
    runv.call_with(&["update", "--resources", "-", "c1"], br#"{"pids":{"limit":20}}"#)?.expect(0)?;
    assert_eq!(limit()?, 20);
    runv.call_with(&["update", "--resources", "-", "c1"], b"{")
        .and_then(|answer| answer.refused("cannot parse"))?;
    Ok(())
}

/// Each flag, and what the kernel of the guest has then; CPU sets are the host's. What runc takes without effect is taken.
#[test]
fn each_flag_changes_its_limit() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let flags = "--cpu-share 512 --cpu-period 50000 --cpu-quota 25000 --cpuset-cpus 0 --cpuset-mems 0 --memory 100m \
        --memory-swap 150m --memory-reservation 50m --pids-limit 40 --blkio-weight 500 --kernel-memory 1m \
        --kernel-memory-tcp 1m";
    let update: Vec<&str> = ["update"].into_iter().chain(flags.split_whitespace()).chain(["c1"]).collect();
    runv.call(&update)?.expect(0)?;
    let script = "cd /sys/fs/cgroup; head -q -n 1 cpu.weight cpu.max memory.max memory.swap.max memory.low \
        pids.max io.weight";
    let limits = || Ok::<_, anyhow::Error>(runv.call(&["exec", "c1", "sh", "-c", script])?.expect(0)?.stdout);
    assert_eq!(limits()?, "59\n25000 50000\n104857600\n52428800\n52428800\n40\ndefault 4950\n");
    // Half of what is one value to the kernel: the other half stays.
    runv.call(&["update", "--cpu-period", "100000", "c1"])?.expect(0)?;
    assert!(limits()?.contains("\n25000 100000\n"));
    runv.call(&["update", "--cpu-quota=-1", "--memory=-1", "--pids-limit=-1", "c1"])?.expect(0)?;
    assert_eq!(limits()?, "59\nmax 100000\nmax\nmax\n52428800\nmax\ndefault 4950\n");
    for (flags, named) in [
        (["--cpu-rt-period", "1000"], "realtimePeriod"),
        (["--cpu-rt-runtime", "1000"], "realtimeRuntime"),
        (["--l3-cache-schema", "x"], "Intel RDT"),
        (["--mem-bw-schema", "x"], "Intel RDT"),
        (["--memory", "5x"], "invalid size"),
        (["--memory", "1t"], "does not grow"),
    ] {
        runv.call(&["update", flags[0], flags[1], "c1"])?.refused(named)?;
    }
    Ok(())
}

/// Until the container ends.
#[test]
fn events_tell_figures_again_and_again_and_of_a_lack_of_memory() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?
        .edit(|spec| spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20}}))?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let mut events = runv.start_to_leave(&["events", "--interval", "100ms", "c1"])?;
    let lines = |kind: &str| {
        let text = runv.read("out");
        let documents = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        documents.filter(|event| event["type"] == kind && event["id"] == "c1").count()
    };
    Deadline::generous()?.wait_for("figures", || Ok((lines("stats") >= 3).then_some(())))?;
    assert_eq!(lines("oom"), 0);
    // tail keeps all that it reads.
    runv.call(&["exec", "c1", "tail", "/dev/zero"])?.expect(137)?;
    Deadline::generous()?.wait_for("a lack of memory", || Ok((lines("oom") == 1).then_some(())))?;
    runv.call(&["kill", "c1", "KILL"])?.expect(0)?;
    let ended = || events.try_wait().context("cannot wait");
    let status = Deadline::generous()?.wait_for("the end of events", ended)?;
    assert_eq!(status.code(), Some(0), "{}", runv.read("err"));
    Ok(())
}
