//! `linux.devices`: nodes that a container has besides the default ones. Pure.

use agent_protocol::agent as proto;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use proto::device::Type;

/// As runc: for everybody, unless `fileMode` says something else.
const DEFAULT_MODE: u32 = 0o666;

/// Permission bits; an engine that copies `st_mode` has the type there too.
const PERMISSIONS: u32 = 0o7777;

/// A node that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("linux.devices[{index}].{field} `{value}` {reason}")]
pub(crate) struct DeviceError {
    index: usize,
    field: &'static str,
    value: String,
    reason: &'static str,
}

/// The nodes in their order.
pub(crate) fn to_agent(devices: &[LinuxDevice]) -> Result<Vec<proto::Device>, DeviceError> {
    devices.iter().enumerate().map(|(index, one)| device(index, one)).collect()
}

fn device(index: usize, device: &LinuxDevice) -> Result<proto::Device, DeviceError> {
    let error =
        |field, value: &dyn ToString, reason| DeviceError { index, field, value: value.to_string(), reason };
    let path = device.path().to_string_lossy().into_owned();
    if !path.starts_with('/') || path.contains('\0') {
        return Err(error("path", &path, "is not an absolute path"));
    }
    let kind = match device.typ() {
        LinuxDeviceType::B => Type::TYPE_BLOCK,
        LinuxDeviceType::C | LinuxDeviceType::U => Type::TYPE_CHARACTER,
        LinuxDeviceType::P => Type::TYPE_FIFO,
        LinuxDeviceType::A => return Err(error("type", &"a", "is a type for rules only")),
    };
    let number = |field, number: i64| {
        // A named pipe has none.
        let number = if kind == Type::TYPE_FIFO { 0 } else { number };
        u32::try_from(number).map_err(|_range| error(field, &number, "is no device number"))
    };
    Ok(proto::Device {
        type_: kind.into(),
        major: number("major", device.major())?,
        minor: number("minor", device.minor())?,
        mode: device.file_mode().unwrap_or(DEFAULT_MODE) & PERMISSIONS,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        path,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn one(device: &Value) -> Result<proto::Device, String> {
        let devices: Vec<LinuxDevice> = serde_json::from_value(json!([device])).unwrap();
        Ok(to_agent(&devices).map_err(|error| error.to_string())?.remove(0))
    }

    #[test]
    fn nodes_get_what_the_bundle_says_or_the_defaults() {
        let fuse = one(&json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229})).unwrap();
        assert_eq!((fuse.major, fuse.minor, fuse.mode, fuse.uid), (10, 229, 0o666, 0));
        let full = json!({"path": "/d", "type": "b", "major": 7, "minor": 1, "fileMode": 0o60640, "uid": 5, "gid": 6});
        let full = one(&full).unwrap();
        assert_eq!((full.type_, full.mode, full.uid, full.gid), (Type::TYPE_BLOCK.into(), 0o640, 5, 6));
        let pipe = one(&json!({"path": "/pipe", "type": "p", "major": -1})).unwrap();
        assert_eq!((pipe.type_, pipe.major), (Type::TYPE_FIFO.into(), 0));
    }

    #[test]
    fn nodes_that_cannot_be_are_refused() {
        for (device, expected) in [
            (json!({"path": "dev/x", "type": "c"}), "linux.devices[0].path `dev/x` is not an absolute path"),
            (json!({"path": "/x", "type": "a"}), "linux.devices[0].type `a` is a type for rules only"),
            (
                json!({"path": "/x", "type": "c", "major": -1}),
                "linux.devices[0].major `-1` is no device number",
            ),
        ] {
            assert_eq!(one(&device).unwrap_err(), expected);
        }
    }
}
