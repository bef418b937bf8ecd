//! Kernel parameters of a container's namespaces (runtime specification, config-linux.md, "Sysctl").

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::rootfs::path::open_directory;

/// Where the kernel has them.
const SYSCTLS: &str = "/proc/sys";

/// A parameter and its value, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    name: String,
    /// Below /proc/sys.
    path: String,
    value: String,
}

/// A parameter could not be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot set the sysctl {name} to {value:?}")]
pub struct SysctlError {
    name: String,
    value: String,
    #[source]
    source: io::Error,
}

impl Sysctl {
    /// A parameter by its name: parts with dots between them, or with slashes where a part has dots.
    ///
    /// # Errors
    ///
    /// What is wrong with the name.
    pub fn new(name: String, value: String) -> Result<Self, &'static str> {
        let path = path_of(&name);
        let parts = path.split('/');
        if name.contains('\0') || value.contains('\0') {
            return Err("it contains a NUL character");
        }
        if parts.clone().count() < 2
            || parts.clone().any(|part| part.is_empty() || part == "." || part == "..")
        {
            return Err("that is no name of a sysctl");
        }
        Ok(Self { name, path, value })
    }
}

/// sysctl(8): the first separator decides; with dots first, slashes stand for dots.
fn path_of(name: &str) -> String {
    match name.find(['.', '/']).and_then(|place| name.as_bytes().get(place)) {
        Some(b'.') => name
            .chars()
            .map(|letter| match letter {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Sets parameters of the caller's namespaces, by the guest's own procfs: what the container has at /proc may be
/// something else (CVE-2025-52881).
///
/// # Errors
///
/// [`SysctlError`] names the parameter.
pub fn set(parameters: &[Sysctl]) -> Result<(), SysctlError> {
    let Some(first) = parameters.first() else { return Ok(()) };
    let directory = open_directory(Path::new(SYSCTLS)).map_err(|source| first.error(source))?;
    parameters.iter().try_for_each(|one| one.write(&directory).map_err(|source| one.error(source)))
}

impl Sysctl {
    fn write(&self, directory: &OwnedFd) -> io::Result<()> {
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat2(directory, self.path.as_str(), flags, Mode::empty(), inside)?;
        rustix::io::write(file, self.value.as_bytes())?;
        Ok(())
    }

    fn error(&self, source: io::Error) -> SysctlError {
        SysctlError { name: self.name.clone(), value: self.value.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_and_with_slashes_are_one() {
        for (name, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ] {
            assert_eq!(Sysctl::new(name.to_owned(), "1".to_owned()).unwrap().path, path);
        }
    }

    #[test]
    fn names_that_climb_are_refused() {
        for name in ["", "net", "net..x", "../../etc/passwd", "net/../../x", "/net/x", "net.x\0"] {
            assert!(Sysctl::new(name.to_owned(), "1".to_owned()).is_err(), "{name:?}");
        }
    }
}
