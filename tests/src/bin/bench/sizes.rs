//! B14: bytes of stripped files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::report::Measurement;

pub(crate) fn measure(build: &Path) -> Result<Vec<Measurement>> {
    let size = |name: &str| -> Result<f64> {
        let path = build.join(name);
        let bytes = fs::metadata(&path).with_context(|| format!("cannot examine {}", path.display()))?.len();
        Ok(f64::from(u32::try_from(bytes)?) / 1024.0)
    };
    Ok(vec![
        Measurement::new("B14", "guest kernel, vmlinux", size("share/runv/vmlinux")?, "KiB").goal(12288.0),
        Measurement::new("B14", "initrd", size("share/runv/initrd.cpio")?, "KiB").goal(3072.0),
        Measurement::new("B14", "runv (sandbox)", size("bin/runv")?, "KiB")
            .peer("runc (quoted)", 8750.0)
            .peer("crun, without its 11 libraries (quoted)", 490.0),
        Measurement::new("B14", "runv-vmm", size("bin/runv-vmm")?, "KiB")
            .peer("Firecracker (quoted)", 3890.0)
            .peer("Cloud Hypervisor (quoted)", 7240.0),
        Measurement::new("B14", "runv-devices", size("bin/runv-devices")?, "KiB")
            .peer("virtiofsd (quoted)", 2960.0)
            .peer("vhost-device-vsock (quoted)", 3630.0),
    ])
}
