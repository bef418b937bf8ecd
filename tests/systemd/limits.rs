//! Limits are the unit's properties and in its cgroup's files, also after systemd has read its units again.

use anyhow::Result;
use e2e::{Runtime, together};
use serde_json::json;

use crate::unit::{bundle, file, is_version_2, properties, run, systemctl};

/// A property's name in either version, and its value; a file's name in either version, and its value.
type Limit = ([&'static str; 2], [&'static str; 2], [&'static str; 2], [&'static str; 2]);

fn hold(unit: &str, limits: &[Limit], moment: &str) -> Result<()> {
    let version = usize::from(is_version_2());
    let of = |both: &[&'static str; 2]| both.get(version).copied().unwrap_or_default();
    let shown = properties(unit)?;
    for (property, value, [version_1, version_2], content) in limits {
        if !of(property).is_empty() {
            let own = shown.get(of(property)).map(String::as_str);
            assert_eq!(own, Some(of(value)), "{moment}: {}", of(property));
        }
        assert_eq!(file(unit, version_1, version_2)?, of(content), "{moment}: {version_1}, {version_2}");
    }
    Ok(())
}

#[test]
fn limits_are_properties_and_files() -> Result<()> {
    let _order = together();
    let (bundle, unit) = bundle("while :; do sleep 0.1; done")?;
    let bundle = bundle.edit(|spec| {
        spec["linux"]["resources"] = json!({
            "memory": { "limit": 128 << 20 },
            "cpu": { "shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0" },
        });
    })?;
    let runv = Runtime::new(&bundle)?;
    run(&runv, "c1")?;
    let memory: u64 = file(&unit, "memory.limit_in_bytes", "memory.max")?.parse()?;
    // Room for the machine itself, which has to be bounded, too.
    assert!((128 << 20..1 << 30).contains(&memory), "{memory}");
    let memory: &'static str = memory.to_string().leak();
    let cpuset: [Limit; 2] = [
        (["", "AllowedCPUs"], ["", "0"], ["cpuset.cpus", "cpuset.cpus"], ["0", "0"]),
        (["", "AllowedMemoryNodes"], ["", "0"], ["cpuset.mems", "cpuset.mems"], ["0", "0"]),
    ];
    let bounds: [Limit; 2] = [
        (["MemoryLimit", "MemoryMax"], [memory; 2], ["memory.limit_in_bytes", "memory.max"], [memory; 2]),
        (["TasksMax"; 2], ["8192"; 2], ["pids.max"; 2], ["8192"; 2]),
    ];
    let mut limits = [&cpuset[..], &bounds].concat();
    limits.extend([
        (["CPUShares", "CPUWeight"], ["512", "59"], ["cpu.shares", "cpu.weight"], ["512", "59"]),
        (["CPUQuotaPerSecUSec"; 2], ["600ms"; 2], ["cpu.cfs_quota_us", "cpu.max"], ["60000", "60000 100000"]),
    ]);
    hold(&unit, &limits, "from the start")?;
    systemctl(&["daemon-reload"])?;
    hold(&unit, &limits, "after a reload")?;

    let flags = ["--cpu-share", "256", "--cpu-quota", "20000", "--cpu-period", "50000"];
    runv.call(&[&["update"], &flags[..], &["c1"]].concat())?.expect(0)?;
    let mut limits = [&cpuset[..], &bounds].concat();
    limits.extend([
        (["CPUShares", "CPUWeight"], ["256", "35"], ["cpu.shares", "cpu.weight"], ["256", "35"]),
        (["CPUQuotaPerSecUSec"; 2], ["500ms"; 2], ["cpu.cfs_quota_us", "cpu.max"], ["25000", "25000 50000"]),
    ]);
    hold(&unit, &limits, "after an update")?;
    systemctl(&["daemon-reload"])?;
    hold(&unit, &limits, "after an update and a reload")?;
    runv.call(&["update", "--cpu-quota", "-1", "c1"])?.expect(0)?;
    systemctl(&["daemon-reload"])?;
    let unlimited: Limit =
        (["CPUQuotaPerSecUSec"; 2], ["infinity"; 2], ["cpu.cfs_quota_us", "cpu.max"], ["-1", "max 100000"]);
    hold(&unit, &[unlimited], "without a quota")
}
