//! What of the host the machine sees: a pure function of the bundle and where its sources are.

use std::path::PathBuf;

use device_config::Export;
use oci_spec::runtime::Spec;

use super::id_map;
use super::mounts;
use super::sources::Sources;

/// Place of the root file system in the share.
pub(crate) const ROOTFS: &str = "rootfs";

/// Place of the source of the n-th mount in the share.
pub(crate) fn mount_place(index: usize) -> String {
    format!("mounts/{index}")
}

/// The root file system and the source of each bind mount. Read-only ones are read-only for the device process,
/// so that the host's kernel refuses a write, whatever the guest has become. `has_upper` is whether writes to the root
/// file system go elsewhere.
pub(crate) fn exports(spec: &Spec, sources: &Sources, has_upper: bool) -> Vec<Export> {
    let root_read_only = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) || has_upper;
    let rootfs = Export {
        source: sources.rootfs.clone(),
        destination: PathBuf::from(ROOTFS),
        read_only: root_read_only,
        id_map: None,
    };
    let binds = sources.binds.iter().filter_map(|(index, source)| {
        let mount = spec.mounts().as_ref()?.get(*index)?;
        Some(Export {
            source: source.clone(),
            destination: PathBuf::from(mount_place(*index)),
            read_only: mounts::is_read_only(mount),
            // It has been checked that there is no error.
            id_map: id_map::of_mount(spec, *index, mount).ok()?,
        })
    });
    std::iter::once(rootfs).chain(binds).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn exports_keep_the_number_of_their_mount_and_its_access() {
        let mut spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc"},
                {"destination": "/a", "type": "bind", "source": "/srv/a", "options": ["ro"]},
                {"destination": "/b", "type": "bind", "source": "/srv/b"}
            ]
        }))
        .unwrap();
        let sources = Sources {
            rootfs: "/bundle/rootfs".into(),
            binds: vec![(1, "/srv/a".into()), (2, "/srv/b".into())],
        };
        let shown: Vec<(String, String, bool)> = exports(&spec, &sources, false)
            .into_iter()
            .map(|e| (e.source.display().to_string(), e.destination.display().to_string(), e.read_only))
            .collect();
        let expected =
            [("/bundle/rootfs", "rootfs", true), ("/srv/a", "mounts/1", true), ("/srv/b", "mounts/2", false)];
        assert_eq!(shown, expected.map(|(s, d, r)| (s.to_owned(), d.to_owned(), r)));
        spec.set_root(None);
        let root_is_read_only = |has_upper| exports(&spec, &sources, has_upper)[0].read_only;
        assert!(root_is_read_only(true) && !root_is_read_only(false));
    }
}
