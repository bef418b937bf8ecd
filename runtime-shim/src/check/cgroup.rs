//! Which cgroup hierarchy this host has. Sandboxes have cgroup v2 inside whatever the host has.

use std::fs;

use super::Finding;

const NAME: &str = "cgroup";

pub(super) fn check() -> Finding {
    match fs::read_to_string("/proc/self/mounts") {
        Ok(mounts) => Finding::ok(NAME, kind(&mounts)),
        Err(error) => Finding::warn(NAME, format!("cannot read /proc/self/mounts: {error}"), "mount /proc"),
    }
}

/// By the types of the mounted file systems (`fstab(5)` lines).
fn kind(mounts: &str) -> &'static str {
    let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    match (has("cgroup"), has("cgroup2")) {
        (false, true) => "v2",
        (true, true) => "hybrid (v1 controllers, v2 mounted too)",
        (true, false) => "v1",
        (false, false) => "none mounted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let v1 = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(kind(v1), "v1");
        assert_eq!(kind(v2), "v2");
        assert!(kind(&format!("{v1}{v2}")).starts_with("hybrid"));
        assert_eq!(kind("tmpfs /cgroup tmpfs rw 0 0\n"), "none mounted");
    }
}
