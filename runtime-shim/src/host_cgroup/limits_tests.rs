//! Limits as files, in directories that stand for cgroups of either version.

use serde_json::{Value, json};

use super::*;

/// Cgroups of version 1, a folder for each controller.
const V1: [(&str, &[&str]); 5] = [
    ("cpu", &["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.idle"]),
    ("cpuset", &["cpuset.cpus", "cpuset.mems"]),
    ("memory", &["memory.limit_in_bytes"]),
    ("pids", &["pids.max"]),
    ("blkio", &["blkio.bfq.weight", "blkio.throttle.read_bps_device", "blkio.throttle.write_iops_device"]),
];

/// The cgroup of version 2.
const V2: [(&str, &[&str]); 1] = [(
    "container",
    &[
        "cgroup.controllers",
        "cpu.weight",
        "cpu.max",
        "cpu.idle",
        "cpuset.cpus",
        "cpuset.mems",
        "memory.max",
        "pids.max",
        "io.bfq.weight",
        "io.max",
    ],
)];

struct Host {
    root: tempfile::TempDir,
    folders: Vec<PathBuf>,
}

impl Host {
    fn new(cgroups: &[(&str, &[&str])]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let folders: Vec<PathBuf> = cgroups.iter().map(|(name, _)| root.path().join(name)).collect();
        for (folder, (_, files)) in folders.iter().zip(cgroups) {
            fs::create_dir(folder).unwrap();
            for file in *files {
                fs::write(folder.join(file), "").unwrap();
            }
        }
        Self { root, folders }
    }

    /// The last that was written to a file.
    fn has(&self, file: &str) -> String {
        fs::read_to_string(self.root.path().join(file)).unwrap()
    }
}

fn resources(document: Value) -> LinuxResources {
    serde_json::from_value(document).unwrap()
}

fn everything() -> LinuxResources {
    resources(json!({
        "memory": {"limit": 64 << 20},
        "pids": {"limit": 5},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0"},
        "blockIO": {
            "weight": 500,
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1_000_000}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}]
        }
    }))
}

#[test]
fn version_1_has_a_file_for_each() {
    let host = Host::new(&V1);
    limit_new(&host.folders, Some(&everything()), 130).unwrap();
    limit_time(&host.folders, Some(&everything())).unwrap();
    for (file, value) in [
        ("memory/memory.limit_in_bytes", "404750336"),
        ("pids/pids.max", "8192"),
        ("cpu/cpu.shares", "512"),
        ("cpu/cpu.cfs_quota_us", "60000"),
        ("cpu/cpu.cfs_period_us", "100000"),
        ("cpuset/cpuset.cpus", "0"),
        ("cpuset/cpuset.mems", "0"),
        ("blkio/blkio.bfq.weight", "500"),
        ("blkio/blkio.throttle.read_bps_device", "8:0 1000000"),
        ("blkio/blkio.throttle.write_iops_device", "8:16 0"),
    ] {
        assert_eq!(host.has(file), value, "{file}");
    }
}

#[test]
fn version_2_has_its_own_terms() {
    let host = Host::new(&V2);
    limit_new(&host.folders, Some(&everything()), 130).unwrap();
    limit_time(&host.folders, Some(&everything())).unwrap();
    for (file, value) in [
        ("memory.max", "404750336"),
        ("pids.max", "8192"),
        ("cpu.weight", "59"),
        ("cpu.max", "60000 100000"),
        ("cpuset.cpus", "0"),
        ("io.bfq.weight", "500"),
        ("io.max", "8:16 wiops=max"),
    ] {
        assert_eq!(host.has(&format!("container/{file}")), value, "{file}");
    }
}

#[test]
fn an_update_changes_what_it_names_and_not_the_machines_memory() {
    let host = Host::new(&V1);
    let update = resources(json!({"cpu": {"shares": 2048, "quota": -1}, "memory": {"limit": 1 << 30}}));
    limit_running(&host.folders, &update).unwrap();
    assert_eq!((host.has("cpu/cpu.shares"), host.has("cpu/cpu.cfs_quota_us")), ("2048".into(), "-1".into()));
    for file in ["memory/memory.limit_in_bytes", "cpuset/cpuset.cpus", "pids/pids.max"] {
        assert_eq!(host.has(file), "", "{file}");
    }
}

#[test]
fn systemd_gets_what_it_would_undo() {
    let expected = Properties {
        memory: Some(404_750_336),
        threads: Some(8192),
        shares: Some((512, 59)),
        cpus: Set::parse("0"),
        nodes: Set::parse("0"),
        time: None,
    };
    assert_eq!(properties(Some(&everything()), Some(130)), expected);
    let expected = Properties { memory: None, threads: None, ..expected };
    assert_eq!(properties(Some(&everything()), None), expected);
}

#[test]
fn without_a_memory_limit_the_page_cache_is_the_hosts() {
    let host = Host::new(&V1);
    limit_new(&host.folders, None, 256).unwrap();
    assert_eq!(
        (host.has("memory/memory.limit_in_bytes"), host.has("pids/pids.max")),
        ("".into(), "8192".into())
    );
}

#[test]
fn what_only_the_host_can_do_is_not_left_out() {
    let cpus = resources(json!({"cpu": {"cpus": "0"}}));
    let error = limit_new(&[], Some(&cpus), 256).unwrap_err().to_string();
    assert_eq!(
        error,
        "linux.resources.cpu.cpus needs a cgroup of the host that has cpuset.cpus, and there is none"
    );
    let throttled = json!([{"major": 8, "minor": 0, "rate": 1}]);
    let throttled = resources(json!({"blockIO": {"throttleReadIOPSDevice": throttled}}));
    assert!(need_cgroup(throttled.block_io().as_ref().unwrap()).is_err());
    limit_new(&[], Some(&resources(json!({"cpu": {"shares": 5, "quota": 7}}))), 256).unwrap();
}
