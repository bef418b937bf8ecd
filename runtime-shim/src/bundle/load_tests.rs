//! What a bad `config.json` is told.

use std::error::Error;
use std::path::Path;

use serde_json::json;

use super::super::default_spec;
use super::*;

/// The errors' chain as users see it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn outcome(json: &[u8]) -> Result<Spec, String> {
    parse(json, Path::new("/b/config.json")).map_err(|error| chain(&error))
}

/// The default configuration with one value put in at a JSON pointer (or taken away, for null).
fn default_with(pointer: &str, value: Value) -> Vec<u8> {
    let mut document: Value = serde_json::from_str(default_spec::TEXT).unwrap();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    if value.is_null() {
        parent.remove(name);
    } else {
        parent.insert(name.into(), value);
    }
    serde_json::to_vec(&document).unwrap()
}

#[test]
fn the_default_configuration_is_accepted() {
    outcome(default_spec::TEXT.as_bytes()).unwrap();
}

#[test]
fn broken_json_is_told_with_its_place() {
    for (text, expected) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{\n  \"ociVersion\": \"1.0.2\",\n  oops\n}", "key must be a string at line 3 column 3"),
        ("{\"ociVersion\": 5}", "invalid type: integer `5`, expected a string at line 1 column 16"),
        ("{\"process\": {\"args\": [\"a\" \"b\"]}}", "expected `,` or `]` at line 1 column 27"),
        ("{} x", "trailing characters at line 1 column 4"),
        (
            "{\"process\":{\"user\":{\"uid\":-1},\"cwd\":\"/\"}}",
            "invalid value: integer `-1`, expected u32 at line 1",
        ),
    ] {
        let error = outcome(text.as_bytes()).unwrap_err();
        let expected = format!("cannot parse /b/config.json: {expected}");
        assert!(error.starts_with(&expected), "{text:?} gave {error:?}");
    }
}

#[test]
fn what_the_specification_forbids_is_told_by_field() {
    for (pointer, value, expected) in [
        (
            "/ociVersion",
            json!("2.0.0"),
            "ociVersion `2.0.0` is not supported; supported are 1.0.0 and later 1.x",
        ),
        ("/ociVersion", json!(null), "ociVersion is missing"),
        ("/root", json!(null), "root is missing"),
        (
            "/mounts",
            json!([{"destination": "/a", "type": "bind", "source": "/", "options": ["bind", "copy-symlink"]}]),
            "mounts[0].options `copy-symlink` is not supported",
        ),
        (
            "/mounts",
            json!([{"destination": "/a", "type": "bind", "source": "/", "options": ["bind", "idmap"]}]),
            "mounts[0].options asks for id-mapping, but neither the mount nor a user namespace in linux has mappings",
        ),
        ("/root/path", json!(""), "root.path is empty"),
        ("/process", json!(null), "process is missing"),
        ("/process/args", json!([]), "process.args is empty"),
        ("/process/args", json!(null), "process.args is empty"),
        ("/process/args", json!(["", "x"]), "process.args[0] is empty"),
        ("/process/args", json!(["sh", "a\0b"]), "process.args[1] contains a NUL character"),
        ("/process/env", json!(["A=b", "PATH"]), "process.env[1] `PATH` is not of the form NAME=VALUE"),
        ("/process/env", json!(["=b"]), "process.env[0] `=b` is not of the form NAME=VALUE"),
        ("/process/cwd", json!("tmp"), "process.cwd `tmp` is not an absolute path"),
        ("/process/cwd", json!(""), "process.cwd is empty"),
        ("/mounts", json!([{"destination": "", "type": "tmpfs"}]), "mounts[0].destination is empty"),
        ("/annotations", json!({"": "a"}), "annotations has an empty key"),
        ("/mounts", json!([{"destination": "/a"}]), "mounts[0].type is missing"),
        ("/mounts", json!([{"destination": "/a", "type": "bind"}]), "mounts[0].source is missing"),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}]),
            "hostname needs a new uts namespace in linux.namespaces",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "pid"}, {"type": "pid"}]),
            "linux.namespaces[1] (pid): it is listed twice",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount", "path": "/proc/1/ns/mnt"}]),
            "linux.namespaces[0] (mnt): it cannot be joined; a container has its own, which its files are in",
        ),
        (
            "/linux/rootfsPropagation",
            json!("odd"),
            "linux.rootfsPropagation `odd` is none of shared, slave, private and unbindable",
        ),
    ] {
        let error = outcome(&default_with(pointer, value)).unwrap_err();
        assert_eq!(error, format!("invalid /b/config.json: {expected}"));
    }
}

#[test]
fn what_is_not_applied_yet_is_told_by_field() {
    let error = outcome(&default_with("/linux/intelRdt", json!({"closID": "x"}))).unwrap_err();
    let expected = "linux.intelRdt is not supported yet; remove it from the bundle";
    assert_eq!(error, format!("cannot do all that /b/config.json asks: {expected}"));
}

#[test]
fn a_missing_configuration_is_told_with_the_remedy() {
    let bundle = tempfile::tempdir().unwrap();
    let error = load(bundle.path()).unwrap_err().to_string();
    assert!(error.ends_with("has no config.json; write one with `runv spec` or `sandbox spec`"), "{error}");
    let error = chain(&load(&bundle.path().join("none")).unwrap_err());
    assert!(error.starts_with("cannot open the bundle") && error.contains("No such file"), "{error}");
}

#[test]
fn a_configuration_that_is_no_file_is_refused_without_reading_it() {
    let bundle = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/zero", bundle.path().join(CONFIG_FILE)).unwrap();
    assert!(chain(&load(bundle.path()).unwrap_err()).ends_with("it is no regular file"));
}

/// Small changes anywhere in a real configuration, from a fixed sequence of pseudo-random numbers: whatever
/// they make of it, it is accepted or refused, and what is accepted can be turned into a request.
#[test]
fn mutated_configurations_never_panic() {
    let original = default_spec::TEXT.as_bytes().to_vec();
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let pieces: [&[u8]; 12] = [
        b"null",
        b"-1",
        b"\"\"",
        b"{}",
        b"[]",
        b"\"/\"",
        b"\\u0000",
        b"99999999999999999999",
        b",",
        b"}",
        b"\xff",
        b"true",
    ];
    for _ in 0..20_000 {
        let mut json = original.clone();
        for _ in 0..=next(3) {
            let start = next(json.len());
            let end = (start + next(12)).min(json.len());
            json.splice(start..end, pieces[next(pieces.len())].iter().copied());
        }
        if let Ok(spec) = outcome(&json) {
            let sources = crate::bundle::sources::Sources { rootfs: "/r".into(), binds: Vec::new() };
            let exports = crate::bundle::to_vm::exports(&spec, &sources, false);
            assert_eq!(exports.len(), 1);
            let request = crate::bundle::to_agent::create_request(
                &crate::bundle::place::Place::of_owner(),
                &spec,
                Default::default(),
            );
            assert!(!request.unwrap().process.args.is_empty());
        }
    }
}

/// Of each list of names in the specification, all.
#[test]
fn every_name_that_the_specification_lists_is_known() {
    let prefixed = |prefix: &str, names: &str| -> Vec<String> {
        names.split(' ').map(|name| format!("{prefix}{name}")).collect()
    };
    let limits =
        "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK";
    let limits: Vec<Value> =
        prefixed("RLIMIT_", limits).iter().map(|name| json!({"type": name, "soft": 1, "hard": 1})).collect();
    let capabilities = prefixed(
        "CAP_",
        "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH \
         FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN \
         NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_BOOT SYS_CHROOT \
         SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG SYSLOG WAKE_ALARM",
    );
    let flags = "RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS UTIL_CLAMP_MIN UTIL_CLAMP_MAX";
    let architectures = "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE \
                         S390 S390X PARISC PARISC64 RISCV64";
    let actions = ["KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "ERRNO", "TRACE", "ALLOW", "LOG"]
        .map(|action| json!({"names": ["mkdir"], "action": format!("SCMP_ACT_{action}")}));
    let operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"].map(|operator| {
        let condition = json!({"index": 0, "value": 1, "op": format!("SCMP_CMP_{operator}")});
        json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [condition]})
    });
    let calls = [&actions[..], &operators[..]].concat();
    let seccomp = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": prefixed("SCMP_ARCH_", architectures),
        "flags": prefixed("SECCOMP_FILTER_FLAG_", "TSYNC LOG SPEC_ALLOW WAIT_KILLABLE_RECV"),
        "syscalls": calls
    });
    let namespaces =
        ["pid", "network", "mount", "ipc", "uts", "cgroup", "time"].map(|kind| json!({"type": kind}));
    let devices = ["c", "b", "u", "p"]
        .map(|kind| json!({"path": format!("/dev/{kind}"), "type": kind, "major": 1, "minor": 3}));
    let mut all = vec![
        ("/process/rlimits", json!(limits)),
        ("/process/capabilities", json!({"bounding": capabilities})),
        ("/process/scheduler", json!({"policy": "SCHED_OTHER", "flags": prefixed("SCHED_FLAG_", flags)})),
        ("/linux/seccomp", seccomp),
        ("/linux/namespaces", json!(namespaces)),
        ("/linux/devices", json!(devices)),
        ("/linux/personality", json!({"domain": "LINUX"})),
        ("/linux/personality", json!({"domain": "LINUX32"})),
    ];
    for class in ["RT", "BE", "IDLE"] {
        all.push(("/process/ioPriority", json!({"class": format!("IOPRIO_CLASS_{class}"), "priority": 1})));
    }
    for policy in ["OTHER", "BATCH", "IDLE", "ISO"] {
        all.push(("/process/scheduler", json!({"policy": format!("SCHED_{policy}")})));
    }
    for policy in ["FIFO", "RR"] {
        all.push(("/process/scheduler", json!({"policy": format!("SCHED_{policy}"), "priority": 1})));
    }
    let deadline = json!({"policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 6, "period": 7});
    all.push(("/process/scheduler", deadline));
    for (pointer, value) in all {
        let parsed = outcome(&default_with(pointer, value));
        let unknown = parsed.as_ref().is_err_and(|error| error.contains("unknown variant"));
        assert!(!unknown, "{pointer}: {parsed:?}");
    }
}
