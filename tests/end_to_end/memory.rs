//! Memory that the guest has freed is the host's again.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use e2e::{Bundle, Deadline, Process, Role, Runtime, Sandbox, together};
use serde_json::json;

/// How many MiB of the machine's memory the host has: of the largest file of the VMM, which is the guest's memory.
fn held_mib(vmm: &Process) -> Result<u64> {
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", vmm.pid.as_raw_nonzero()))? {
        let Ok(metadata) = fs::metadata(entry?.path()) else { continue };
        files.push((metadata.len(), metadata.blocks() * 512));
    }
    let (_, held) = files.into_iter().max().context("the VMM has no file open")?;
    Ok(held >> 20)
}

#[test]
fn what_the_guest_frees_goes_back_to_the_host() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(
        "dd if=/dev/zero of=/scratch/file bs=1M count=100 2>/dev/null; echo full; read line
         rm /scratch/file; echo freed; read line; echo more >/scratch/file; cat /scratch/file",
    )?
    .mount("tmpfs", "tmpfs", "/scratch", &["size=110m"])?;
    let mut sandbox = Sandbox::configured(&bundle, "balloon = \"on\"")?.start()?;
    let deadline = Deadline::generous()?;
    sandbox.stdout().wait_for("full", deadline)?;
    let vmm = sandbox.process(Role::Vmm, deadline)?;
    let full = held_mib(&vmm)?;
    assert!(full >= 100, "{full} MiB");
    sandbox.stdin()?.write_all(b"\n")?;
    sandbox.stdout().wait_for("freed", deadline)?;
    deadline.wait_for("the memory to go back", || Ok((held_mib(&vmm)? < full - 80).then_some(())))?;
    // What went back can be used again.
    sandbox.stdin()?.write_all(b"\n")?;
    assert!(sandbox.finish(deadline)?.expect_code(0)?.text().ends_with("more\n"));
    Ok(())
}

/// A smaller limit makes the guest drop what it need not keep, and a limit above the machine's memory is refused.
#[test]
fn a_limit_that_shrinks_gives_memory_back_and_one_above_the_machine_is_refused() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("cat /big >/dev/null; echo read; exec sleep 1000")?
        .edit(|spec| spec["linux"]["resources"] = json!({"memory": {"limit": 450 << 20}}))?;
    fs::File::create(bundle.rootfs().join("big"))?.set_len(100 << 20)?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    runv.wait_for_text("out", "read")?;
    let monitor = runv.state("c1")?["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    let monitor = monitor.and_then(rustix::process::Pid::from_raw).context("no pid")?;
    let vmm = Process::part(monitor, Role::Vmm)?;
    let vmm = vmm.context("no VMM")?;
    let before = held_mib(&vmm)?;
    runv.call(&["update", "--memory", "16m", "c1"])?.expect(0)?;
    let deadline = Deadline::generous()?;
    deadline.wait_for("the memory to go back", || Ok((held_mib(&vmm)? + 60 < before).then_some(())))?;
    runv.call(&["update", "--memory", "460m", "c1"])?.expect(0)?;
    runv.call(&["update", "--memory", "4g", "c1"])?.refused("does not grow while it runs")?;
    Ok(())
}
