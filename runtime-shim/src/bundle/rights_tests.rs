//! What of the `process` object reaches the agent, and what is refused.

use serde_json::json;

use super::*;

fn applied(mut fields: Value) -> Result<proto::Process, String> {
    fields["cwd"] = json!("/");
    fields["user"] = json!({"uid": 0, "gid": 0});
    let process: Process = serde_json::from_value(fields).unwrap();
    let mut converted = proto::Process::default();
    apply(&process, &mut converted).map_err(|error| error.to_string())?;
    Ok(converted)
}

#[test]
fn everything_reaches_the_agent() {
    let process = applied(json!({
        "capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN"], "ambient": ["CAP_NET_BIND_SERVICE"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 18_446_744_073_709_551_615_u64}],
        "noNewPrivileges": true,
        "oomScoreAdj": -7,
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4},
        "scheduler": {"policy": "SCHED_FIFO", "priority": 10, "flags": ["SCHED_RESET_ON_FORK"]},
        "execCPUAffinity": {"initial": "0-1", "final": "2,4"}
    }))
    .unwrap();
    let capabilities = &process.capabilities;
    assert_eq!(capabilities.bounding, ["CAP_CHOWN", "CAP_KILL"]);
    assert_eq!(capabilities.ambient, ["CAP_NET_BIND_SERVICE"]);
    assert!(capabilities.permitted.is_empty());
    let limit = &process.rlimits[0];
    assert_eq!((&*limit.type_, limit.soft, limit.hard), ("RLIMIT_NOFILE", 5, u64::MAX));
    assert_eq!((process.no_new_privileges, process.oom_score_adj), (true, Some(-7)));
    assert_eq!((process.io_priority.class, process.io_priority.level), (3, 4));
    let scheduler = &process.scheduler;
    assert_eq!((scheduler.policy, scheduler.priority, scheduler.flags), (1, 10, 1));
    assert_eq!(process.cpus, [2, 4]);
}

#[test]
fn who_says_nothing_has_no_capabilities_as_with_runc() {
    let process = applied(json!({})).unwrap();
    assert_eq!(process.capabilities.as_ref(), Some(&proto::Capabilities::default()));
    assert!(process.oom_score_adj.is_none() && process.scheduler.is_none());
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let limit = |soft, hard| json!({"type": "RLIMIT_CORE", "soft": soft, "hard": hard});
    for (fields, error) in [
        (json!({"rlimits": [limit(1, 1), limit(2, 2)]}), "process.rlimits[1]: RLIMIT_CORE is listed twice"),
        (json!({"rlimits": [limit(2, 1)]}), "process.rlimits[0]: soft 2 is more than hard 1"),
        (json!({"oomScoreAdj": 1001}), "process.oomScoreAdj 1001 is not from -1000 to 1000"),
        (
            json!({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}),
            "process.ioPriority.priority 8 is not from 0 to 7",
        ),
        (
            json!({"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}),
            "process.scheduler.nice 20 is not from -20 to 19",
        ),
        (
            json!({"scheduler": {"policy": "SCHED_OTHER", "priority": 1}}),
            "process.scheduler.priority has no meaning for SCHED_OTHER",
        ),
        (
            json!({"execCPUAffinity": {"initial": "0-1025"}}),
            "process.execCPUAffinity `0-1025` is no list of CPUs",
        ),
        (
            json!({"selinuxLabel": "a:b:c"}),
            "selinux label is specified in config, but selinux is disabled or not supported",
        ),
    ] {
        assert_eq!(applied(fields).unwrap_err(), error);
    }
}

#[test]
fn an_engines_own_profile_is_done_without_and_any_other_is_refused() {
    for profile in
        ["", "unconfined", "docker-default", "containers-default-0.50.1", "cri-containerd.apparmor.d"]
    {
        applied(json!({"apparmorProfile": profile})).unwrap();
    }
    let error = applied(json!({"apparmorProfile": "my-nginx"})).unwrap_err();
    assert!(error.starts_with("process.apparmorProfile `my-nginx`: "), "{error}");
}

#[test]
fn unknown_capabilities_are_taken_out_of_the_document() {
    let mut document =
        json!({"process": {"capabilities": {"bounding": ["CAP_KILL", "CAP_FLY"], "effective": []}}});
    assert!(adapt(&mut document));
    assert_eq!(document, json!({"process": {"capabilities": {"bounding": ["CAP_KILL"], "effective": []}}}));
    assert!(!adapt(&mut document));
}
