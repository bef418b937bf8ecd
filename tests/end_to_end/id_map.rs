//! Bind mounts whose ids are mapped.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use anyhow::Result;
use e2e::{Bundle, Finished, Sandbox, together};
use rustix::fs::statfs;
use serde_json::{Value, json};

fn ids(container: u32, host: u32) -> Value {
    json!([{"containerID": container, "hostID": host, "size": 100}])
}

/// A file of user 1 and group 2 of the host, mapped by 0 → 5000 and 0 → 6000, in a container that shows and makes some.
fn bundle(options: &[&str]) -> Result<Bundle> {
    let bundle = Bundle::shell(
        "stat -c %u:%g /data/file; su -s /bin/sh alice -c 'echo x >/data/new' && stat -c %u:%g /data/new
         touch /data/roots 2>&1 | grep -o 'Value too large.*'",
    )?
    .edit(|spec| {
        spec["process"]["noNewPrivileges"] = json!(false);
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"]);
        }
    })?;
    let data = bundle.host_directory("data")?;
    fs::write(data.join("file"), "")?;
    chown(data.join("file"), Some(1), Some(2))?;
    fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    bundle.mount("bind", &data.to_string_lossy(), "/data", options)?.edit(|spec| {
        if let Some(mount) = spec["mounts"].as_array_mut().and_then(|mounts| mounts.last_mut()) {
            mount["uidMappings"] = json!([
                {"containerID": 0, "hostID": 5000, "size": 100}, {"containerID": 100, "hostID": 1000, "size": 1}
            ]);
            mount["gidMappings"] = json!([
                {"containerID": 0, "hostID": 6000, "size": 100}, {"containerID": 100, "hostID": 1000, "size": 1}
            ]);
        }
    })
}

/// Whether the host's file system can map ids; that it is told if not.
fn mapped(finished: Finished, data: &Path) -> Result<Option<String>> {
    let kind = statfs(data)?.f_type;
    if finished.code() == Some(1) {
        assert!(finished.errors().contains("its file system cannot do that"), "{finished:?}");
        println!("the file system of type {kind:x} cannot map ids: tested that it is told");
        return Ok(None);
    }
    println!("the file system of type {kind:x} maps ids");
    Ok(Some(finished.expect_code(0)?.text()))
}

#[test]
fn owners_are_mapped_both_ways() -> Result<()> {
    let _order = together();
    for options in [&["bind"][..], &["rbind", "ridmap"]] {
        let bundle = bundle(options)?;
        let data = bundle.path().join("data");
        let Some(text) = mapped(Sandbox::run(&bundle)?.finish()?, &data)? else { continue };
        assert_eq!(text, "5001:6002\n1000:1000\nValue too large for defined data type\n", "{options:?}");
        let new = fs::metadata(data.join("new"))?;
        assert_eq!((new.uid(), new.gid()), (100, 100));
    }
    Ok(())
}

/// `idmap` without mappings is by those of the container's user namespace, so that its root owns root's files.
#[test]
fn a_user_namespace_lends_its_mappings() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("stat -c %u:%g /data /data/file; echo x >/data/new; stat -c %u:%g /data/new")?;
    let data = bundle.host_directory("data")?;
    fs::write(data.join("file"), "")?;
    let bundle =
        bundle.mount("bind", &data.to_string_lossy(), "/data", &["bind", "idmap"])?.edit(|spec| {
            spec["linux"]["uidMappings"] = ids(0, 100_000);
            spec["linux"]["gidMappings"] = ids(0, 100_000);
            if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
                namespaces.push(json!({"type": "user"}));
            }
        })?;
    chown(bundle.rootfs(), Some(100_000), Some(100_000))?;
    let Some(text) = mapped(Sandbox::run(&bundle)?.finish()?, &data)? else { return Ok(()) };
    assert_eq!(text, "0:0\n0:0\n0:0\n");
    assert_eq!(fs::metadata(data.join("new"))?.uid(), 0);
    Ok(())
}
