//! SELinux labels: of the host's processes and mounts, as there is no SELinux in a guest. What keeps the processes that
//! a guest may come to own from the files of others is the host's policy, by the label that the engine chose for the
//! container (sVirt).

use std::fs;
use std::path::Path;

use child::ExecLabel;
use oci_spec::runtime::{Process, Spec};

/// Where the kernel's SELinux is spoken to.
const SELINUXFS: &str = "/sys/fs/selinux";
/// linux/magic.h.
const SELINUX_MAGIC: i64 = 0xf97c_ff8c;
/// The context of this process.
const CURRENT: &str = "/proc/thread-self/attr/current";
/// That of every process until a policy is loaded.
const NO_POLICY: &str = "kernel";

/// A label that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SeLinuxError {
    /// In runc's words.
    #[error("{0} is specified in config, but selinux is disabled or not supported")]
    Absent(&'static str),
    /// No kernel would take it.
    #[error("{0} is no security context: it has a NUL character, or more than 4095 of others")]
    Form(&'static str),
}

/// What a container's part of the host is labelled with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    /// The machine's process and the device process.
    pub(crate) processes: Option<ExecLabel>,
    /// File systems that the runtime makes for them.
    pub(crate) mounts: Option<String>,
}

/// Those of a container.
pub(crate) fn labels(spec: &Spec) -> Result<Labels, SeLinuxError> {
    labels_on(spec, is_enabled)
}

/// Checks that of a process, be it the container's first one or one for `exec`.
pub(crate) fn check_process(process: &Process) -> Result<(), SeLinuxError> {
    of_process(process, is_enabled).map(|_label| ())
}

fn labels_on(spec: &Spec, is_enabled: impl Fn() -> bool) -> Result<Labels, SeLinuxError> {
    let process = spec.process().as_ref().map(|process| of_process(process, &is_enabled)).transpose()?;
    let mounts = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    let mounts = checked(mounts, ["selinux mount label", "linux.mountLabel"], is_enabled)?;
    Ok(Labels { processes: process.flatten(), mounts: mounts.map(|label| label.to_string()) })
}

fn of_process(process: &Process, is_enabled: impl Fn() -> bool) -> Result<Option<ExecLabel>, SeLinuxError> {
    checked(process.selinux_label().as_deref(), ["selinux label", "process.selinuxLabel"], is_enabled)
}

/// `runcs` is what runc calls the field.
fn checked(
    label: Option<&str>,
    [runcs, field]: [&'static str; 2],
    is_enabled: impl Fn() -> bool,
) -> Result<Option<ExecLabel>, SeLinuxError> {
    match label {
        None | Some("") => Ok(None),
        Some(_) if !is_enabled() => Err(SeLinuxError::Absent(runcs)),
        Some(label) => ExecLabel::new(label).map(Some).ok_or(SeLinuxError::Form(field)),
    }
}

/// As libselinux decides it: where the file system cannot be written to, this process is in a container, for which
/// there is no SELinux.
fn is_enabled() -> bool {
    is_writable_selinuxfs(Path::new(SELINUXFS))
        && fs::read_to_string(CURRENT).is_ok_and(|context| has_policy(&context))
}

fn is_writable_selinuxfs(path: &Path) -> bool {
    let is_selinuxfs = rustix::fs::statfs(path).is_ok_and(|file_system| file_system.f_type == SELINUX_MAGIC);
    let flags = rustix::fs::statvfs(path).map(|file_system| file_system.f_flag);
    is_selinuxfs && flags.is_ok_and(|flags| !flags.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

fn has_policy(context: &str) -> bool {
    context.trim_end_matches(['\0', '\n']) != NO_POLICY
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KVM: &str = "system_u:system_r:container_kvm_t:s0:c1,c2";
    const FILE: &str = "system_u:object_r:container_file_t:s0:c1,c2";

    fn of(label: Option<&str>, mount_label: Option<&str>, is_enabled: bool) -> Result<Labels, String> {
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "selinuxLabel": label},
            "linux": {"mountLabel": mount_label},
        }))
        .unwrap();
        labels_on(&spec, || is_enabled).map_err(|error| error.to_string())
    }

    #[test]
    fn labels_are_taken_as_they_are_where_there_is_selinux() {
        let labels = of(Some(KVM), Some(FILE), true).unwrap();
        assert_eq!(labels.processes.unwrap().to_string(), KVM);
        assert_eq!(labels.mounts.as_deref(), Some(FILE));
    }

    #[test]
    fn nothing_is_asked_for_without_a_label() {
        for none in [None, Some("")] {
            for is_enabled in [true, false] {
                assert_eq!(of(none, none, is_enabled), Ok(Labels::default()));
            }
        }
    }

    #[test]
    fn a_host_without_selinux_refuses_them_in_runcs_words() {
        let reason = "is specified in config, but selinux is disabled or not supported";
        assert_eq!(of(Some(KVM), None, false), Err(format!("selinux label {reason}")));
        assert_eq!(of(None, Some(FILE), false), Err(format!("selinux mount label {reason}")));
    }

    #[test]
    fn what_no_kernel_takes_is_told_by_field() {
        let error = of(Some("a:b:c\0"), None, true).unwrap_err();
        assert!(error.starts_with("process.selinuxLabel is no security context"), "{error}");
        let error = of(None, Some(&"a".repeat(5000)), true).unwrap_err();
        assert!(error.starts_with("linux.mountLabel is no security context"), "{error}");
    }

    #[test]
    fn a_file_system_of_another_kind_and_a_kernel_without_policy_are_no_selinux() {
        assert!(!is_writable_selinuxfs(Path::new("/")));
        assert!(!is_writable_selinuxfs(Path::new("/no/such/folder")));
        assert!(!has_policy("kernel\0") && !has_policy("kernel\n"));
        assert!(has_policy("system_u:system_r:container_runtime_t:s0\0"));
    }
}
