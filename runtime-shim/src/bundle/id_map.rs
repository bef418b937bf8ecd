//! Ids of a mount (OCI runtime specification, config.md, "Mounts": `uidMappings`, `gidMappings`, `idmap`, `ridmap`).
//!
//! The bind on the host is id-mapped, before it is exported: the guest sees ids that are mapped already, as a container on
//! the host would.

use device_config::{IdMap, IdRange};
use oci_spec::runtime::{LinuxIdMapping, Mount, Spec};

use super::mounts;

/// Lines that the kernel takes (user_namespaces(7)).
const MOST_RANGES: usize = 340;

/// Ids that cannot be mapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdMapError {
    /// Only binds have ids of somebody else's.
    #[error("mounts[{0}] is no bind mount: only those can be id-mapped")]
    NoBind(usize),
    /// One without the other.
    #[error("mounts[{0}].uidMappings and gidMappings need each other")]
    Half(usize),
    /// Nothing to map by.
    #[error(
        "mounts[{0}].options asks for id-mapping, but neither the mount nor a user namespace in linux has mappings"
    )]
    NoMappings(usize),
    /// Too many, or one of nothing.
    #[error("mounts[{0}]: 1 to {MOST_RANGES} ranges of 1 id or more can be mapped")]
    Ranges(usize),
}

/// How the ids of the `index`-th mount are mapped, if they are.
pub(crate) fn of_mount(spec: &Spec, index: usize, mount: &Mount) -> Result<Option<IdMap>, IdMapError> {
    let option = |name| mounts::options(mount).any(|option| option == name);
    let (asked, recursive) = (option("idmap"), option("ridmap"));
    let list = |list: &Option<Vec<LinuxIdMapping>>| list.clone().unwrap_or_default();
    let (mut uids, mut gids) = (list(mount.uid_mappings()), list(mount.gid_mappings()));
    if uids.is_empty() != gids.is_empty() {
        return Err(IdMapError::Half(index));
    }
    if uids.is_empty() && !asked && !recursive {
        return Ok(None);
    }
    if !mounts::is_bind(mount) {
        return Err(IdMapError::NoBind(index));
    }
    if uids.is_empty()
        && let Some(linux) = spec.linux()
    {
        // Without a user namespace these have been refused.
        (uids, gids) = (list(linux.uid_mappings()), list(linux.gid_mappings()));
    }
    if uids.is_empty() || gids.is_empty() {
        return Err(IdMapError::NoMappings(index));
    }
    Ok(Some(IdMap { uids: ranges(&uids, index)?, gids: ranges(&gids, index)?, recursive }))
}

fn ranges(mappings: &[LinuxIdMapping], index: usize) -> Result<Vec<IdRange>, IdMapError> {
    if mappings.len() > MOST_RANGES || mappings.iter().any(|range| range.size() == 0) {
        return Err(IdMapError::Ranges(index));
    }
    let range = |range: &LinuxIdMapping| IdRange {
        stored: range.container_id(),
        shown: range.host_id(),
        size: range.size(),
    };
    Ok(mappings.iter().map(range).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn map(mount: &Value, linux: &Value) -> Result<Option<IdMap>, String> {
        let mut mount = mount.clone();
        mount["destination"] = json!("/data");
        let spec: Spec = serde_json::from_value(json!({"mounts": [mount], "linux": linux})).unwrap();
        of_mount(&spec, 0, &spec.mounts().as_ref().unwrap()[0]).map_err(|error| error.to_string())
    }

    fn ids(host: u32) -> Value {
        json!([{"containerID": 0, "hostID": host, "size": 1000}])
    }

    #[test]
    fn mappings_are_the_mounts_or_else_those_of_the_user_namespace() {
        let range = |shown| vec![IdRange { stored: 0, shown, size: 1000 }];
        let own = json!({"type": "bind", "options": ["rbind", "ridmap"], "uidMappings": ids(5), "gidMappings": ids(6)});
        let expected = IdMap { uids: range(5), gids: range(6), recursive: true };
        assert_eq!(map(&own, &json!({})), Ok(Some(expected)));
        let user = json!({"uidMappings": ids(7), "gidMappings": ids(8)});
        let expected = IdMap { uids: range(7), gids: range(8), recursive: false };
        assert_eq!(map(&json!({"type": "bind", "options": ["idmap"]}), &user), Ok(Some(expected)));
        assert_eq!(map(&json!({"type": "bind"}), &user), Ok(None));
    }

    #[test]
    fn what_cannot_be_mapped_is_named() {
        for (mount, expected) in [
            (json!({"type": "tmpfs", "uidMappings": ids(5), "gidMappings": ids(5)}), "is no bind mount"),
            (json!({"type": "bind", "uidMappings": ids(5)}), "need each other"),
            (json!({"type": "bind", "options": ["idmap"]}), "neither the mount nor a user namespace"),
            (
                json!({"type": "bind", "gidMappings": ids(5), "uidMappings": [{"containerID": 0, "hostID": 0, "size": 0}]}),
                "ranges of 1 id or more",
            ),
        ] {
            let error = map(&mount, &json!({})).unwrap_err();
            assert!(error.starts_with("mounts[0]") && error.contains(expected), "{error}");
        }
    }
}
