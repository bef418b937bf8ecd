//! User and time namespaces: made in the guest, with the ids of the host.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use anyhow::Result;
use e2e::{Bundle, Sandbox, together};
use serde_json::{Value, json};

const ROOT: u32 = 200_000;

fn add_namespace(spec: &mut Value, kind: &str) {
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.push(json!({ "type": kind }));
    }
}

#[test]
fn root_of_a_user_namespace_is_another_user_on_the_host() -> Result<()> {
    let _order = together();
    let script =
        "id -u; echo x >/made && echo y >/dev/null && stat -c %u /made; tr -s ' ' </proc/self/uid_map";
    let bundle = Bundle::shell(script)?.edit(|spec| {
        add_namespace(spec, "user");
        let ids = json!([{ "containerID": 0, "hostID": ROOT, "size": 65536 }]);
        spec["linux"]["uidMappings"] = ids.clone();
        spec["linux"]["gidMappings"] = ids;
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_DAC_OVERRIDE"]);
        }
    })?;
    chown(bundle.rootfs(), Some(ROOT), Some(ROOT))?;
    // As podman's, and Fedora's: who is root there writes all the same.
    fs::set_permissions(bundle.rootfs(), Permissions::from_mode(0o555))?;
    let text = Sandbox::run(&bundle)?.finish()?.expect_code(0)?.text();
    assert_eq!(text, format!("0\n0\n 0 {ROOT} 65536\n"));
    assert_eq!(fs::metadata(bundle.rootfs().join("made"))?.uid(), ROOT);
    Ok(())
}

#[test]
fn the_clocks_of_a_time_namespace_are_ahead() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("cut -d. -f1 /proc/uptime")?.edit(|spec| {
        add_namespace(spec, "time");
        spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000 } });
    })?;
    let uptime: u64 = Sandbox::run(&bundle)?.finish()?.expect_code(0)?.text().trim().parse()?;
    assert!((1_000_000..1_001_000).contains(&uptime), "{uptime}");
    Ok(())
}
