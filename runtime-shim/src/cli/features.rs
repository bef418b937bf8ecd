//! `features`: what this runtime knows, for engines that ask (runtime specification, `features.md`).

use std::io::{self, Write};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::flags::Global;
use crate::bundle::version;
use crate::config::{self, ANNOTATION_PREFIX, Annotation, Config};
use crate::failure::Failure;

/// Print what this runtime supports, as JSON
#[derive(Debug, Args)]
pub(super) struct Arguments {}

/// Options of mounts that mean something to this runtime, whatever the file system. Each is one of the agent's
/// (`agent/src/rootfs/options.rs`).
const MOUNT_OPTIONS: &[&str] = &[
    "acl",
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noacl",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// Names that are the same for every runtime, in the guest's kernel as in any.
const NAMESPACES: &[&str] = &["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];

/// Those that a bundle can name.
const CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

/// All but `SCMP_ACT_NOTIFY`, which is refused.
const SECCOMP_ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// Of conditions on arguments.
const SECCOMP_OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// Those whose programs the guest runs.
const SECCOMP_ARCHITECTURES: &[&str] = &["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"];

/// Those that are no error; of them TSYNC and WAIT_KILLABLE_RECV have nothing to act on.
const SECCOMP_KNOWN_FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// Those that do something.
const SECCOMP_SUPPORTED_FLAGS: &[&str] = &["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"];

pub(super) fn main(_arguments: &Arguments, global: &Global) -> Result<u8, Failure> {
    let config = config::load(global.config.as_deref())?;
    let text = serde_json::to_string_pretty(&features(&config)).context("cannot write JSON")?;
    writeln!(io::stdout(), "{text}").context("cannot write to stdout")?;
    Ok(0)
}

fn features(config: &Config) -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": version::IMPLEMENTED,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": NAMESPACES,
            "capabilities": CAPABILITIES,
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": false },
            "seccomp": {
                "enabled": true,
                "actions": SECCOMP_ACTIONS,
                "operators": SECCOMP_OPERATORS,
                "archs": SECCOMP_ARCHITECTURES,
                "knownFlags": SECCOMP_KNOWN_FLAGS,
                "supportedFlags": SECCOMP_SUPPORTED_FLAGS,
            },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": false },
        },
        "annotations": annotations(config),
        // They choose what runs the container, where the administrator allows it.
        "potentiallyUnsafeConfigAnnotations": Annotation::ALL
            .map(|annotation| format!("{ANNOTATION_PREFIX}{annotation}")),
    })
}

/// What a bundle may choose here, by the configuration.
fn annotations(config: &Config) -> Value {
    let mut section: Vec<&str> = config.allow_vm_section.iter().map(|field| field.key()).collect();
    section.sort_unstable();
    let mut allowed: Vec<String> = config.allow_annotations.iter().map(ToString::to_string).collect();
    allowed.sort_unstable();
    json!({
        "io.runv.version": env!("CARGO_PKG_VERSION"),
        "io.runv.allow_annotations": allowed.join(","),
        "io.runv.allow_vm_section": section.join(","),
    })
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{
        Arch, Capability, LinuxNamespaceType, LinuxSeccompAction, LinuxSeccompFilterFlag,
        LinuxSeccompOperator,
    };
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::config::VmField;

    fn strings(value: &Value) -> Vec<&str> {
        value.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect()
    }

    #[test]
    fn what_the_administrator_allows_is_told() {
        let config = Config {
            allow_annotations: vec![Annotation::Kernel, Annotation::Cpus],
            allow_vm_section: vec![VmField::Kernel],
            ..Config::default()
        };
        let features = features(&config);
        assert_eq!(features["annotations"]["io.runv.allow_annotations"], "cpus,kernel");
        assert_eq!(features["annotations"]["io.runv.allow_vm_section"], "kernel");
        let unsafe_ones = strings(&features["potentiallyUnsafeConfigAnnotations"]);
        assert!(unsafe_ones.contains(&"io.runv.hypervisor"), "{unsafe_ones:?}");
    }

    #[test]
    fn the_words_are_those_that_a_bundle_uses() {
        fn all<T: DeserializeOwned>(list: &Value) {
            for word in strings(list) {
                assert!(serde_json::from_value::<T>(word.into()).is_ok(), "{word}");
            }
        }
        let features = features(&Config::default());
        let linux = &features["linux"];
        all::<Capability>(&linux["capabilities"]);
        all::<LinuxSeccompAction>(&linux["seccomp"]["actions"]);
        all::<LinuxSeccompOperator>(&linux["seccomp"]["operators"]);
        all::<Arch>(&linux["seccomp"]["archs"]);
        all::<LinuxSeccompFilterFlag>(&linux["seccomp"]["knownFlags"]);
        all::<LinuxNamespaceType>(&linux["namespaces"]);
        // Whatever a kernel of today has.
        let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
        assert_eq!(strings(&linux["capabilities"]).len(), last.trim().parse::<usize>().unwrap() + 1);
    }
}
