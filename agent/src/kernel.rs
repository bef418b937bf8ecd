//! What the agent needs of the guest's kernel, by the name under which a kernel has it or not.
//!
//! Nothing is asked for beforehand, as each question takes time at every boot: when a call has failed in the way
//! in which it fails without a feature, the error says so. docs/guest-kernels.md has the whole list.

use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// The first version that has all calls which the agent cannot do without: `cgroup.kill` is the youngest.
const OLDEST: (u32, u32) = (5, 14);

/// The kernel has not what a step needs.
#[derive(Debug, thiserror::Error)]
#[error("the guest's kernel lacks {feature}")]
pub struct Lacking {
    feature: String,
    #[source]
    source: io::Error,
}

impl Lacking {
    /// That feature, because of which a step failed.
    pub fn new(feature: impl Into<String>, source: io::Error) -> Self {
        Self { feature: feature.into(), source }
    }
}

/// A kernel that is older than any on which the agent works.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest's kernel is Linux {release}, but the oldest that can be used is {major}.{minor}",
    major = OLDEST.0, minor = OLDEST.1)]
pub struct TooOld {
    release: String,
}

/// Refuses a kernel that is too old. A release that is no version passes.
///
/// # Errors
///
/// [`TooOld`].
pub fn check_release(release: &str) -> Result<(), TooOld> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < OLDEST => {
            Err(TooOld { release: release.to_owned() })
        }
        _ => Ok(()),
    }
}

/// What is missing if a file system of the agent's own cannot be mounted.
pub fn missing_for_mount(kind: &str, error: Errno) -> Option<&'static str> {
    Some(match (kind, error) {
        ("proc", Errno::NODEV) => "procfs (CONFIG_PROC_FS)",
        ("sysfs", Errno::NODEV) => "sysfs (CONFIG_SYSFS)",
        ("devtmpfs", Errno::NODEV) => "devtmpfs (CONFIG_DEVTMPFS)",
        // The directory is made by the control groups themselves.
        ("cgroup2", Errno::NODEV | Errno::NOENT) => "control groups, version 2 (CONFIG_CGROUPS)",
        ("virtiofs", Errno::NODEV) => "virtio-fs (CONFIG_VIRTIO_FS)",
        ("virtiofs", Errno::INVAL) => {
            "a virtio-fs device: it finds none (CONFIG_VIRTIO_MMIO and CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES)"
        }
        _ => return None,
    })
}

/// What is missing if mounts cannot be made by descriptors.
pub fn missing_for_mount_call(error: Errno) -> Option<&'static str> {
    (error == Errno::NOSYS)
        .then_some("the mount API by descriptors: open_tree, move_mount, fsopen (Linux 5.2)")
}

/// What is missing if a vsock socket cannot be had.
pub fn missing_for_vsock(error: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error)? {
        Errno::AFNOSUPPORT => Some("vsock (CONFIG_VSOCKETS)"),
        Errno::NODEV => Some("a vsock device: it finds none (CONFIG_VIRTIO_VSOCKETS)"),
        _ => None,
    }
}

/// What is missing if a child cannot be born into its control group and its new namespaces, which the kernel names in
/// `namespaces` (`/proc/self/ns`).
pub fn missing_for_clone(error: &io::Error, flags: u64, namespaces: &Path) -> Option<String> {
    match Errno::from_io_error(error)? {
        Errno::NOSYS | Errno::TOOBIG => Some("clone3 into a control group (Linux 5.7)".to_owned()),
        Errno::INVAL => missing_namespace(flags, namespaces),
        _ => None,
    }
}

/// What is missing if an eBPF program for devices cannot be loaded or attached.
pub fn missing_for_device_rules(error: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error)? {
        Errno::NOSYS | Errno::INVAL => {
            Some("eBPF programs of control groups (CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF)")
        }
        _ => None,
    }
}

/// What is missing if a filter cannot be set.
pub fn missing_for_filter(error: &io::Error) -> Option<&'static str> {
    (Errno::from_io_error(error)? == Errno::NOSYS).then_some("seccomp (CONFIG_SECCOMP_FILTER)")
}

/// The first namespace of `flags` that there is no file of.
pub fn missing_namespace(flags: u64, namespaces: &Path) -> Option<String> {
    const ALL: [(i32, &str, &str); 7] = [
        (libc::CLONE_NEWUSER, "user", "USER_NS"),
        (libc::CLONE_NEWPID, "pid", "PID_NS"),
        (libc::CLONE_NEWNET, "net", "NET_NS"),
        (libc::CLONE_NEWIPC, "ipc", "IPC_NS"),
        (libc::CLONE_NEWUTS, "uts", "UTS_NS"),
        (libc::CLONE_NEWTIME, "time", "TIME_NS"),
        (libc::CLONE_NEWCGROUP, "cgroup", "CGROUPS"),
    ];
    let wanted = ALL.iter().filter(|(flag, ..)| flags & u64::from(flag.unsigned_abs()) != 0);
    let mut missing = wanted.filter(|(_, name, _)| fs::symlink_metadata(namespaces.join(name)).is_err());
    missing.next().map(|(_, name, option)| format!("{name} namespaces (CONFIG_{option})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_cgroup_kill_are_too_old() {
        for old in ["4.19.0-27-amd64", "5.10.0-30-amd64", "5.13.19", "5.4"] {
            let told = check_release(old).unwrap_err().to_string();
            assert_eq!(
                told,
                format!("the guest's kernel is Linux {old}, but the oldest that can be used is 5.14")
            );
        }
        for new in ["5.14.0", "5.15.1-x", "6.1.176-runv", "6.12.117-runv", "10.0.0", "odd"] {
            assert_eq!(check_release(new), Ok(()), "{new}");
        }
    }

    #[test]
    fn a_failure_names_what_is_missing() {
        assert_eq!(missing_for_mount("virtiofs", Errno::NODEV), Some("virtio-fs (CONFIG_VIRTIO_FS)"));
        assert!(missing_for_mount("virtiofs", Errno::INVAL).unwrap().contains("VIRTIO_MMIO_CMDLINE"));
        assert!(missing_for_mount("cgroup2", Errno::NOENT).unwrap().contains("CONFIG_CGROUPS"));
        assert_eq!(missing_for_mount("proc", Errno::PERM), None);
        assert!(missing_for_vsock(&Errno::AFNOSUPPORT.into()).unwrap().contains("CONFIG_VSOCKETS"));
        assert!(missing_for_vsock(&Errno::NODEV.into()).unwrap().contains("CONFIG_VIRTIO_VSOCKETS"));
        assert_eq!(missing_for_vsock(&Errno::CONNRESET.into()), None);
        assert!(missing_for_filter(&Errno::NOSYS.into()).is_some());
        assert_eq!(missing_for_filter(&Errno::INVAL.into()), None);
    }

    #[test]
    fn of_the_namespaces_that_are_wanted_the_missing_one_is_named() {
        let place = tempfile::tempdir().unwrap();
        for name in ["pid", "net", "ipc", "uts", "cgroup"] {
            fs::write(place.path().join(name), "").unwrap();
        }
        let missing = |flags: i32| {
            missing_for_clone(&Errno::INVAL.into(), u64::from(flags.unsigned_abs()), place.path())
        };
        assert_eq!(missing(libc::CLONE_NEWPID | libc::CLONE_NEWNET), None);
        let user = missing(libc::CLONE_NEWPID | libc::CLONE_NEWUSER);
        assert_eq!(user.as_deref(), Some("user namespaces (CONFIG_USER_NS)"));
        let old = missing_for_clone(&Errno::TOOBIG.into(), 0, place.path());
        assert_eq!(old.as_deref(), Some("clone3 into a control group (Linux 5.7)"));
    }
}
