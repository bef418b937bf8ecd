//! Configurations that MUST be refused, and what a refusal leaves: nothing.

use anyhow::Result;
use e2e::{Bundle, Program};
use serde_json::{Value, json};

use crate::{Subject, both};

type Change = fn(&mut Value);

/// Each makes a good configuration a bad one.
const BAD: &[(&str, Change)] = &[
    ("config.oci-version", |spec| spec["ociVersion"] = json!("one.two")),
    ("config.root", |spec| {
        spec.as_object_mut().map(|all| all.remove("root"));
    }),
    ("config.root-path", |spec| spec["root"]["path"] = json!("/nonexistent")),
    ("config.cwd", |spec| spec["process"]["cwd"] = json!("tmp")),
    ("config.args", |spec| spec["process"]["args"] = json!([])),
    ("config.rlimit-type", |spec| {
        spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NONE", "soft": 1, "hard": 1 }]);
    }),
    ("config.rlimit-twice", |spec| {
        let limit = json!({ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 });
        spec["process"]["rlimits"] = json!([limit, limit]);
    }),
    ("config.hook-path", |spec| spec["hooks"]["createRuntime"] = json!([{ "path": "bin/true" }])),
    ("config.hook-timeout", |spec| {
        spec["hooks"]["createRuntime"] = json!([{ "path": "/bin/true", "timeout": 0 }]);
    }),
    ("config.annotation-key", |spec| spec["annotations"] = json!({ "": "value" })),
    ("config.annotation-value", |spec| spec["annotations"] = json!({ "key": 5 })),
    ("config.idmap-pair", |spec| {
        spec["mounts"][0]["uidMappings"] = json!([{ "containerID": 0, "hostID": 0, "size": 1 }]);
    }),
    ("config.idmap-without", |spec| {
        add_mount(
            spec,
            &json!({ "destination": "/tmp", "type": "bind", "source": "/tmp", "options": ["bind", "idmap"] }),
        )
    }),
    ("config.invalid-values", |spec| spec["linux"]["namespaces"][0]["type"] = json!("none")),
    ("config.invalid-values", |spec| spec["process"]["terminal"] = json!("yes")),
    ("config.invalid-values", |spec| {
        add_mount(spec, &json!({ "destination": "/tmp", "type": "none-such", "source": "none" }))
    }),
    ("config.invalid-values", |spec| spec["linux"]["rootfsPropagation"] = json!("none")),
    ("linux.namespace-twice", |spec| add(&mut spec["linux"]["namespaces"], json!({ "type": "pid" }))),
    ("linux.namespace-type", |spec| network(spec, "/proc/self/ns/uts")),
    ("linux.namespace-type", |spec| network(spec, "/proc/self/status")),
    ("linux.namespace-absolute", |spec| network(spec, "self/ns/net")),
    ("linux.device-file", |spec| {
        spec["linux"]["devices"] = json!([{ "path": "/bin/busybox", "type": "c", "major": 1, "minor": 3 }]);
    }),
    ("linux.masked-absolute", |spec| spec["linux"]["maskedPaths"] = json!(["proc/kcore"])),
    ("linux.readonly-absolute", |spec| spec["linux"]["readonlyPaths"] = json!(["proc/sys"])),
    ("linux.cgroups-path-invalid", |spec| spec["linux"]["cgroupsPath"] = json!("a:b:c")),
    ("linux.unified-unknown", |spec| {
        spec["linux"]["resources"]["unified"] = json!({ "none.max": "5" });
    }),
    ("linux.not-convertible", |spec| {
        spec["linux"]["resources"]["network"] =
            json!({ "classID": 5, "priorities": [{ "name": "none", "priority": 1 }] });
    }),
    ("linux.cpu-burst", |spec| {
        spec["linux"]["resources"]["cpu"] = json!({ "quota": 10000, "period": 100_000, "burst": 20000 });
    }),
    ("linux.weight-device", |spec| {
        spec["linux"]["resources"]["blockIO"] = json!({ "weightDevice": [{ "major": 8, "minor": 0 }] });
    }),
    ("linux.rdma", |spec| spec["linux"]["resources"]["rdma"] = json!({ "none": {} })),
    ("linux.page-size", |spec| {
        spec["linux"]["resources"]["hugepageLimits"] = json!([{ "pageSize": "3MB", "limit": 0 }]);
    }),
    ("linux.intel-rdt", |spec| spec["linux"]["intelRdt"] = json!({ "closID": "group" })),
    ("linux.seccomp-names", |spec| seccomp(spec, &json!({ "names": [], "action": "SCMP_ACT_ERRNO" }))),
    ("linux.seccomp-errno", |spec| {
        seccomp(spec, &json!({ "names": ["mkdir"], "action": "SCMP_ACT_KILL", "errnoRet": 5 }));
    }),
    ("linux.seccomp-default-errno", |spec| {
        spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5 });
    }),
    ("linux.seccomp-metadata", |spec| {
        spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "data" });
    }),
    ("linux.seccomp-listener", |spec| {
        seccomp(spec, &json!({ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }));
        spec["linux"]["seccomp"]["listenerPath"] = json!("/nonexistent");
    }),
];

fn add(list: &mut Value, entry: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(entry);
    }
}

fn add_mount(spec: &mut Value, mount: &Value) {
    add(&mut spec["mounts"], mount.clone());
}

fn network(spec: &mut Value, path: &str) {
    for namespace in spec["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
        if namespace["type"] == "network" {
            namespace["path"] = json!(path);
        }
    }
}

fn seccomp(spec: &mut Value, rule: &Value) {
    spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
}

#[test]
fn refusals() -> Result<()> {
    both(
        "refusals",
        |_| Bundle::new(&["true"]),
        |subject| {
            for (id, change) in BAD {
                let directory = subject.bundle.edited(change)?;
                let answer = subject.runtime.leave(&["create", "--bundle", &directory, "c1"])?;
                subject.must(id, answer.code != 0, &answer);
                if answer.code == 0 {
                    subject.runtime.call(&["delete", "--force", "c1"])?.expect(0)?;
                } else {
                    subject.must("errors.undone", subject.knows_nothing_of("c1")?, &answer);
                    let one_line = answer.stderr.trim_end().lines().count() == 1;
                    assert!(one_line || subject.program == Program::Runc, "{id}: {answer:?}");
                }
            }
            no_config(subject)?;
            unknown(subject)
        },
    )
}

fn no_config(subject: &Subject<'_>) -> Result<()> {
    let answer = subject.runtime.leave(&["create", "--bundle", "rootfs", "c1"])?;
    subject.must("config.file", answer.code != 0 && subject.knows_nothing_of("c1")?, answer);
    Ok(())
}

/// What the specification does not define, and what it lets a configuration say, is no error.
fn unknown(subject: &Subject<'_>) -> Result<()> {
    let directory = subject.bundle.edited(|spec| {
        for place in ["/process", "/linux", "/root", "/linux/resources", "/mounts/0", "/process/user"] {
            if let Some(object) = spec.pointer_mut(place) {
                object["com.example.unknown"] = json!({ "a": [1] });
            }
        }
        spec["com.example.unknown"] = json!(true);
        spec["annotations"] = json!({ "com.example.empty": "", "org.opencontainers.none": "x" });
    })?;
    let answer = subject.runtime.leave(&["create", "--bundle", &directory, "c1"])?;
    subject.must("config.unknown-properties", answer.code == 0, &answer);
    subject.must("config.unknown-annotations", answer.code == 0, &answer);
    subject.must("config.annotation-empty", answer.code == 0, &answer);
    subject.runtime.call(&["delete", "--force", "c1"])?.expect(0)?;
    Ok(())
}
