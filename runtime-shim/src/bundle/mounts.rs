//! What the options of a mount say.

use oci_spec::runtime::Mount;

/// Whether the mount shows a directory or file of the host, as runc tells it.
pub(crate) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || options(mount).any(|option| option == "bind" || option == "rbind")
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
    fn binds_and_their_access() {
        for (document, bind, read_only) in [
            (json!({"type": "bind"}), true, false),
            (json!({"type": "none", "options": ["rbind", "ro"]}), true, true),
            (json!({"options": ["bind", "ro", "rw"]}), true, false),
            (json!({"type": "bind", "options": ["rw", "rro"]}), true, true),
            (json!({"type": "tmpfs", "options": ["size=5m"]}), false, false),
        ] {
            let mut document = document;
            document["destination"] = json!("/x");
            let mount: Mount = serde_json::from_value(document.clone()).unwrap();
            assert_eq!((is_bind(&mount), is_read_only(&mount)), (bind, read_only), "{document}");
        }
    }
}
