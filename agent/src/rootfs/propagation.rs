//! Mount propagation by its names in the specification.

/// One of the propagation types of mount_namespaces(7), for one mount or for all below it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Propagation {
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`.
    pub kind: u64,
    /// With all mounts below.
    pub recursive: bool,
}

impl Propagation {
    /// From a mount option or from `rootfsPropagation`.
    pub fn from_name(name: &str) -> Option<Self> {
        let (kind, recursive) = match name {
            "shared" => (libc::MS_SHARED, false),
            "rshared" => (libc::MS_SHARED, true),
            "slave" => (libc::MS_SLAVE, false),
            "rslave" => (libc::MS_SLAVE, true),
            "private" => (libc::MS_PRIVATE, false),
            "rprivate" => (libc::MS_PRIVATE, true),
            "unbindable" => (libc::MS_UNBINDABLE, false),
            "runbindable" => (libc::MS_UNBINDABLE, true),
            _ => return None,
        };
        Some(Self { kind, recursive })
    }
}
