//! Bind mounts of unix sockets, such as an engine's own.
//!
//! Both ends of a unix socket are in one kernel, so a socket that is shared as a file cannot be connected to from a
//! guest. Instead the agent listens on a socket of the same mode and owner in its place, and each connection goes by
//! vsock to this host, and on to the socket that the bundle names (`sandbox::socket_relay`). What goes along is
//! bytes: no descriptors, and the peer is the runtime.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use agent_protocol::agent as proto;
use oci_spec::runtime::{Mount, Spec};
use protobuf::MessageField;

use super::mounts;
use super::place::Place;

/// The type that such a mount gets; its options say mode and owner.
const KIND: &str = "unix-socket";

/// A socket of the host that the guest may connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostSocket {
    /// By this vsock port.
    pub(crate) port: u32,
    /// Absolute.
    pub(crate) path: PathBuf,
}

/// Gives binds of sockets a type of their own; relative sources are relative to `directory`.
pub(crate) fn mark(spec: &mut Spec, directory: &Path) {
    let Some(mut all) = spec.mounts().clone() else { return };
    for mount in &mut all {
        if mounts::is_bind(mount) {
            mark_one(mount, directory);
        }
    }
    spec.set_mounts(Some(all));
}

/// What cannot be examined is somebody else's error.
fn mark_one(mount: &mut Mount, directory: &Path) {
    let Some(source) = mount.source().as_deref().map(|source| directory.join(source)) else { return };
    let Ok(found) = fs::metadata(&source) else { return };
    if !found.file_type().is_socket() {
        return;
    }
    let options = [
        format!("mode={:o}", found.mode() & 0o7777),
        format!("uid={}", found.uid()),
        format!("gid={}", found.gid()),
    ];
    mount.set_typ(Some(KIND.to_owned()));
    mount.set_source(Some(source));
    mount.set_options(Some(options.to_vec()));
}

/// The sockets of a bundle, whose container is at `place`.
pub(crate) fn host_sockets(place: &Place, spec: &Spec) -> Vec<HostSocket> {
    let mounts = spec.mounts().iter().flatten().zip(place.ports());
    let sockets = mounts.filter(|(mount, _)| is_socket(mount));
    sockets
        .map(|(mount, port)| HostSocket { port, path: mount.source().clone().unwrap_or_default() })
        .collect()
}

/// For the agent, if the n-th mount is one.
pub(crate) fn to_agent(place: &Place, index: usize, mount: &Mount) -> MessageField<proto::UnixSocket> {
    if !is_socket(mount) {
        return MessageField::none();
    }
    let number = |key: &str, radix| {
        mounts::options(mount)
            .find_map(|option| u32::from_str_radix(option.strip_prefix(key)?.strip_prefix('=')?, radix).ok())
            .unwrap_or(0)
    };
    MessageField::some(proto::UnixSocket {
        port: place.ports().nth(index).unwrap_or(0),
        mode: number("mode", 8),
        uid: number("uid", 10),
        gid: number("gid", 10),
        ..Default::default()
    })
}

pub(crate) fn is_socket(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some(KIND)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_bound_socket_gets_a_port_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engine.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        let mut spec: Spec = serde_json::from_value(json!({"mounts": [
            {"destination": "/proc", "type": "proc"},
            {"destination": "/run/engine.sock", "type": "bind", "source": "engine.sock", "options": ["rbind", "ro"]},
            {"destination": "/data", "type": "bind", "source": "."}
        ]}))
        .unwrap();
        mark(&mut spec, folder.path());
        assert_eq!(host_sockets(&Place::of_owner(), &spec), [HostSocket { port: 4097, path }]);
        let mounts = spec.mounts().clone().unwrap();
        assert!(!mounts::is_bind(&mounts[1]) && mounts::is_bind(&mounts[2]));
        let socket = to_agent(&Place::of_owner(), 1, &mounts[1]).unwrap();
        assert_eq!((socket.port, socket.mode), (4097, 0o660));
        assert!(to_agent(&Place::of_owner(), 2, &mounts[2]).is_none());
    }
}
