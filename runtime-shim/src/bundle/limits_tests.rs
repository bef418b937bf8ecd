use serde_json::{Value, json};

use super::*;

fn settings(resources: Value) -> Result<Vec<(String, String)>, String> {
    let resources: LinuxResources = serde_json::from_value(resources).unwrap();
    let request = of_update(&resources).map_err(|error| error.to_string())?;
    Ok(request.cgroup.into_iter().map(|setting| (setting.file, setting.value)).collect())
}

#[test]
fn limits_become_files_as_runc_converts_them() {
    for (resources, expected) in [
        (json!({}), &[][..]),
        (json!({"pids": {"limit": 0}, "memory": {"disableOOMKiller": false}, "blockIO": {"weight": 0}}), &[]),
        (json!({"pids": {"limit": 7}}), &[("pids.max", "7")]),
        (json!({"pids": {"limit": -1}}), &[("pids.max", "max")]),
        (json!({"memory": {"limit": 64}}), &[("memory.max", "64")]),
        (json!({"memory": {"limit": -1}}), &[("memory.swap.max", "max"), ("memory.max", "max")]),
        (
            json!({"memory": {"limit": 64, "swap": 100, "reservation": 32, "swappiness": 60}}),
            &[("memory.swap.max", "36"), ("memory.max", "64"), ("memory.low", "32")],
        ),
        (json!({"memory": {"limit": 64, "swap": 64}}), &[("memory.swap.max", "0"), ("memory.max", "64")]),
        (json!({"memory": {"limit": 64, "swap": -1}}), &[("memory.swap.max", "max"), ("memory.max", "64")]),
        (json!({"memory": {"kernel": -1, "useHierarchy": true}}), &[]),
        (json!({"cpu": {"shares": 1024}}), &[("cpu.weight", "100")]),
        (json!({"cpu": {"shares": 1024, "idle": 1}}), &[("cpu.idle", "1")]),
        (json!({"cpu": {"shares": 2, "idle": 0}}), &[("cpu.idle", "0"), ("cpu.weight", "1")]),
        (json!({"cpu": {"quota": 50000}}), &[("cpu.max", "50000 100000")]),
        (json!({"cpu": {"quota": -1, "period": 5000}}), &[("cpu.max", "max 5000")]),
        (json!({"cpu": {"period": 5000}}), &[("cpu.max", "max 5000")]),
        (
            json!({"cpu": {"quota": 5000, "period": 10000, "burst": 100}}),
            &[("cpu.max", "5000 10000"), ("cpu.max.burst", "100")],
        ),
        (json!({"cpu": {"realtimeRuntime": 0, "realtimePeriod": 0}}), &[]),
        (json!({"blockIO": {"weight": 10}}), &[("io.weight", "1")]),
        (
            json!({"blockIO": {"weight": 1000, "leafWeight": 0, "weightDevice": []}}),
            &[("io.weight", "10000")],
        ),
        (
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": -1}]}),
            &[("hugetlb.2MB.max", "0"), ("hugetlb.1GB.max", "max")],
        ),
        (
            json!({"pids": {"limit": 7}, "unified": {"pids.max": "9", "memory.high": "5", "cgroup.max.depth": "1"}}),
            &[("pids.max", "7"), ("cgroup.max.depth", "1"), ("memory.high", "5"), ("pids.max", "9")],
        ),
    ] {
        let expected: Vec<(String, String)> =
            expected.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect();
        assert_eq!(settings(resources.clone()), Ok(expected), "{resources}");
    }
}

#[test]
fn what_cannot_be_had_is_named() {
    for (resources, expected) in [
        (json!({"pids": {"limit": -2}}), "linux.resources.pids.limit -2 is not valid"),
        (json!({"memory": {"limit": -5}}), "linux.resources.memory.limit -5 is not valid"),
        (
            json!({"memory": {"swap": 5}}),
            "linux.resources.memory.swap 5 is not valid: it includes memory.limit, which",
        ),
        (
            json!({"memory": {"limit": 6, "swap": 5}}),
            "linux.resources.memory.swap 5 is not valid: it includes memory.limit and",
        ),
        (json!({"memory": {"limit": 6, "swap": -7}}), "linux.resources.memory.swap -7 is not valid"),
        (
            json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 1}]}}),
            "linux.resources.blockIO.weightDevice 8:1 is not valid: it has no weight",
        ),
        (
            json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 1, "weight": 5, "leafWeight": 5}]}}),
            "linux.resources.blockIO.leafWeight is not supported",
        ),
        (json!({"memory": {"kernel": 5}}), "linux.resources.memory.kernel is not supported"),
        (json!({"memory": {"kernelTCP": 5}}), "linux.resources.memory.kernelTCP is not supported"),
        (json!({"memory": {"swappiness": 101}}), "linux.resources.memory.swappiness 101 is not valid"),
        (
            json!({"memory": {"disableOOMKiller": true}}),
            "linux.resources.memory.disableOOMKiller is not supported",
        ),
        (json!({"cpu": {"quota": -2}}), "linux.resources.cpu.quota -2 is not valid"),
        (json!({"cpu": {"idle": 2}}), "linux.resources.cpu.idle 2 is not valid"),
        (json!({"cpu": {"realtimeRuntime": 5}}), "linux.resources.cpu.realtimeRuntime is not supported"),
        (json!({"cpu": {"cpus": "0-"}}), "linux.resources.cpu.cpus 0- is not valid"),
        (json!({"cpu": {"mems": "x"}}), "linux.resources.cpu.mems x is not valid"),
        (json!({"blockIO": {"weight": 5}}), "linux.resources.blockIO.weight 5 is not valid"),
        (json!({"blockIO": {"leafWeight": 5}}), "linux.resources.blockIO.leafWeight is not supported"),
        (
            json!({"hugepageLimits": [{"pageSize": "../x", "limit": 0}]}),
            "linux.resources.hugepageLimits[0].pageSize ../x is not valid",
        ),
        (json!({"unified": {"../x.y": "1"}}), "linux.resources.unified ../x.y is not valid"),
        (json!({"unified": {"cgroup.procs": "1"}}), "linux.resources.unified cgroup.procs is not valid"),
        (json!({"unified": {"memory.high": ""}}), "linux.resources.unified.memory.high \"\" is not valid"),
    ] {
        let error = settings(resources.clone()).unwrap_err();
        assert!(error.starts_with(expected), "{resources} gave {error:?}");
    }
}

#[test]
fn weights_keep_the_ends_and_the_middle_of_shares() {
    for (shares, weight) in [(1, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
    let weights: Vec<u64> = (2..=262_144).step_by(1000).map(weight_of_shares).collect();
    assert!(weights.is_sorted());
}

#[test]
fn a_cpu_set_is_a_number_of_the_guests_cpus() {
    let resources: LinuxResources =
        serde_json::from_value(json!({"cpu": {"cpus": "2-3,7", "mems": "0"}})).unwrap();
    assert_eq!(of_update(&resources).unwrap().cpus, 3);
}

#[test]
fn only_a_new_container_gets_rules_for_devices() {
    let resources: LinuxResources = serde_json::from_value(
        json!({"devices": [{"allow": true, "access": "rwm"}], "memory": {"checkBeforeUpdate": true}}),
    )
    .unwrap();
    let update = of_update(&resources).unwrap();
    assert!(update.devices.is_none() && update.check_memory);
    assert!(of_new(Some(&resources)).unwrap().devices.rules.len() > 1);
    assert!(!of_new(None).unwrap().devices.rules.is_empty());
}
