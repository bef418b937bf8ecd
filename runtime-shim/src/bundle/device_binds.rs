//! Bind mounts of character devices.
//!
//! A device is a door into a kernel, and the guest has its own: what the bind mount of one becomes is a node of the
//! same number, mode and owner in its place. Block devices are disks of the host, which the guest does not have: they
//! stay bind mounts, and are refused as such.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType, Mount, Spec};

use super::mounts;

/// Turns them into entries of `linux.devices`; relative sources are relative to `directory`.
pub(crate) fn to_devices(spec: &mut Spec, directory: &Path) {
    let Some(all) = spec.mounts().clone() else { return };
    let mut devices = Vec::new();
    let kept: Vec<Mount> = all
        .into_iter()
        .filter(|mount| match device_of(mount, directory) {
            Some(device) => {
                devices.push(device);
                false
            }
            None => true,
        })
        .collect();
    if devices.is_empty() {
        return;
    }
    spec.set_mounts(Some(kept));
    let mut linux = spec.linux().clone().unwrap_or_default();
    let described = linux.devices().clone().unwrap_or_default();
    linux.set_devices(Some(described.into_iter().chain(devices).collect()));
    spec.set_linux(Some(linux));
}

/// The node that a mount becomes. What cannot be examined is somebody else's error.
fn device_of(mount: &Mount, directory: &Path) -> Option<LinuxDevice> {
    if !mounts::is_bind(mount) {
        return None;
    }
    let found = fs::metadata(directory.join(mount.source().as_deref()?)).ok()?;
    if !found.file_type().is_char_device() {
        return None;
    }
    LinuxDeviceBuilder::default()
        .path(mount.destination())
        .typ(LinuxDeviceType::C)
        .major(i64::from(rustix::fs::major(found.rdev())))
        .minor(i64::from(rustix::fs::minor(found.rdev())))
        .file_mode(found.mode() & 0o7777)
        .uid(found.uid())
        .gid(found.gid())
        .build()
        .ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_character_devices_become_nodes() {
        let mut spec: Spec = serde_json::from_value(json!({
            "mounts": [
                {"destination": "/dev/void", "type": "bind", "source": "/dev/null"},
                {"destination": "/data", "type": "bind", "source": "/tmp"},
                {"destination": "/none", "type": "bind", "source": "/no/such/file"}
            ],
            "linux": {"devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]}
        }))
        .unwrap();
        to_devices(&mut spec, Path::new("/"));
        let places: Vec<_> =
            spec.mounts().iter().flatten().map(|mount| mount.destination().clone()).collect();
        assert_eq!(places, [Path::new("/data"), Path::new("/none")]);
        let devices = spec.linux().as_ref().unwrap().devices().clone().unwrap();
        let void = devices.get(1).unwrap();
        assert_eq!((void.path().as_path(), void.major(), void.minor()), (Path::new("/dev/void"), 1, 3));
        assert_eq!((devices.len(), void.file_mode(), void.uid()), (2, Some(0o666), Some(0)));
    }
}
