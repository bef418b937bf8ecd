//! Workloads that turn against the machine they run in, and what the host can still do about them.

use std::fs;

use anyhow::Result;
use e2e::{Bundle, Deadline, Runtime, together};
use serde_json::json;

/// A workload with the rights of the guest's root takes the vsock device from the agent: nothing of the host reaches it
/// any more, and it does not end by itself. It dies of SIGKILL nevertheless.
#[test]
fn a_guest_that_does_not_answer_can_be_killed() -> Result<()> {
    let _order = together();
    // Not before the start is answered.
    let script = "until [ -e /go ]; do sleep 0.1; done; cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport
        for device in virtio*; do echo $device >unbind; done; touch /unbound; sleep 1000";
    let bundle = Bundle::shell(script)?.edit(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
        }
        spec["process"]["capabilities"]["ambient"] = json!([]);
        for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
            if mount["type"] == "sysfs" {
                mount["options"] = json!(["nosuid", "noexec", "nodev"]);
            }
        }
    })?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    fs::write(bundle.rootfs().join("go"), "")?;
    let unbound = bundle.rootfs().join("unbound");
    Deadline::generous()?.wait_for("the device to be taken", || Ok(unbound.exists().then_some(())))?;
    runv.call(&["kill", "c1", "KILL"])?.expect(0)?;
    assert_eq!(runv.state("c1")?["status"], "stopped");
    runv.call(&["delete", "c1"])?.expect(0)?;
    Ok(())
}
