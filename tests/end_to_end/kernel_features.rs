//! The guest's kernel has what a container user expects of one.

use anyhow::Result;
use e2e::{Bundle, Sandbox, together};
use serde_json::json;

/// What it takes to use them.
const CAPABILITIES: [&str; 6] =
    ["CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON"];

/// With many rights, and a tmpfs.
fn privileged(script: &str) -> Result<Bundle> {
    let bundle = Bundle::shell(script)?.mount("tmpfs", "tmpfs", "/scratch", &["size=16m"])?;
    bundle.edit(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(CAPABILITIES);
        }
        spec["process"]["capabilities"]["ambient"] = json!([]);
        spec["linux"]["readonlyPaths"] = json!([]);
        spec["linux"]["resources"] = json!({ "devices": [{ "allow": true, "access": "rwm" }] });
        spec["linux"]["devices"] = json!([
            { "type": "c", "path": "/dev/fuse", "major": 10, "minor": 229 },
            { "type": "c", "path": "/dev/net/tun", "major": 10, "minor": 200 },
        ]);
    })
}

#[test]
fn each_can_be_used() -> Result<()> {
    let _order = together();
    let text = Sandbox::run(&privileged("probe features /scratch")?)?.finish()?.expect_code(0)?.text();
    let failed: Vec<&str> = text.lines().filter(|line| !line.ends_with(": ok")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(text.lines().count(), 22);
    Ok(())
}

#[test]
fn interfaces_of_all_kinds_can_be_made() -> Result<()> {
    let _order = together();
    // busybox leaves the name of the veth's other end to the kernel.
    let script =
        "set -e; for k in bridge veth dummy; do ip link add my-$k type $k; ip link set my-$k up; done
        ip link set my-veth master my-bridge; ls /sys/class/net | wc -l; ls /sys/class/net/my-bridge/brif";
    let text = Sandbox::run(&privileged(script)?)?.finish()?.expect_code(0)?.text();
    assert_eq!(text, "5\nmy-veth\n", "with `lo`, and the other end of the veth");
    Ok(())
}

/// By the configuration that it was built with, as none of it shows otherwise.
#[test]
fn it_is_hardened() -> Result<()> {
    let _order = together();
    let text = Sandbox::run(&Bundle::new(&["zcat", "/proc/config.gz"])?)?.finish()?.expect_code(0)?.text();
    for option in [
        "RANDOMIZE_BASE",
        "RANDOMIZE_MEMORY",
        "STRICT_KERNEL_RWX",
        "STACKPROTECTOR_STRONG",
        "SLAB_FREELIST_RANDOM",
        "SLAB_FREELIST_HARDENED",
        "HARDENED_USERCOPY",
        "FORTIFY_SOURCE",
    ] {
        assert!(text.lines().any(|line| line == format!("CONFIG_{option}=y")), "{option}");
    }
    assert!(text.contains("# CONFIG_MODULES is not set"));
    Ok(())
}
