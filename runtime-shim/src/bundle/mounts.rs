//! What the options of a mount say.

use std::path::Path;

use oci_spec::runtime::{Mount, Spec};

/// Makes destinations absolute: a relative one is relative to the container's root (`config.md`, "Mounts"). None at all
/// stays none.
pub(crate) fn make_absolute(spec: &mut Spec) {
    let Some(mut all) = spec.mounts().clone() else { return };
    for mount in &mut all {
        if !mount.destination().as_os_str().is_empty() {
            mount.set_destination(Path::new("/").join(mount.destination()));
        }
    }
    spec.set_mounts(Some(all));
}

/// Whether the mount shows a directory or file of the host, as runc tells it.
pub(crate) fn is_bind(mount: &Mount) -> bool {
    let is_one = mount.typ().as_deref() == Some("bind")
        || options(mount).any(|option| option == "bind" || option == "rbind");
    is_one && !is_remount(mount)
}

/// Whether a mount that is there is changed, in the guest.
pub(crate) fn is_remount(mount: &Mount) -> bool {
    options(mount).any(|option| option == "remount")
}

/// Whether nothing may be written through the mount; the last option counts.
pub(crate) fn is_read_only(mount: &Mount) -> bool {
    let last = options(mount).filter(|option| ["ro", "rro", "rw", "rrw"].contains(option)).last();
    matches!(last, Some("ro" | "rro"))
}

/// Its options.
pub(crate) fn options(mount: &Mount) -> impl Iterator<Item = &str> {
    mount.options().iter().flatten().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn relative_destinations_are_relative_to_the_root() {
        let mut spec: Spec = serde_json::from_value(json!({"mounts": [
            {"destination": "a/b", "type": "tmpfs"}, {"destination": "/c", "type": "tmpfs"}, {"destination": ""}
        ]}))
        .unwrap();
        make_absolute(&mut spec);
        let all: Vec<_> = spec.mounts().iter().flatten().map(|mount| mount.destination().clone()).collect();
        assert_eq!(all, ["/a/b", "/c", ""].map(std::path::PathBuf::from));
    }

    #[test]
    fn binds_and_their_access() {
        for (document, bind, read_only) in [
            (json!({"type": "bind"}), true, false),
            (json!({"type": "none", "options": ["rbind", "ro"]}), true, true),
            (json!({"options": ["bind", "ro", "rw"]}), true, false),
            (json!({"type": "bind", "options": ["rw", "rro"]}), true, true),
            (json!({"type": "tmpfs", "options": ["size=5m"]}), false, false),
            (json!({"type": "bind", "options": ["bind", "remount", "ro"]}), false, true),
        ] {
            let mut document = document;
            document["destination"] = json!("/x");
            let mount: Mount = serde_json::from_value(document.clone()).unwrap();
            assert_eq!((is_bind(&mount), is_read_only(&mount)), (bind, read_only), "{document}");
        }
    }
}
