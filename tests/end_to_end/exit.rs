//! The exit status of `sandbox run` is the workload's.

use std::fs;

use anyhow::Result;
use e2e::{Bundle, Sandbox, together};

fn without_pid_namespace(script: &str) -> Result<Bundle> {
    // In a namespace of its own the workload is an init, which the kernel guards from most signals.
    Bundle::shell(script)?.edit(|spec| {
        if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "pid");
        }
    })
}

#[test]
fn success_is_0() -> Result<()> {
    let _order = together();
    let finished = Sandbox::run(&Bundle::new(&["/bin/true"])?)?.finish()?.expect_code(0)?;
    assert_eq!(finished.text(), "");
    assert_eq!(finished.errors(), "");
    Ok(())
}

#[test]
fn a_status_is_passed_on() -> Result<()> {
    let _order = together();
    Sandbox::run(&Bundle::shell("exit 7")?)?.finish()?.expect_code(7)?;
    Sandbox::run(&Bundle::shell("exit 255")?)?.finish()?.expect_code(255)?;
    Ok(())
}

#[test]
fn death_by_signal_is_128_and_the_signal() -> Result<()> {
    let _order = together();
    Sandbox::run(&without_pid_namespace("kill -TERM $$; sleep 60")?)?.finish()?.expect_code(143)?;
    Sandbox::run(&without_pid_namespace("kill -KILL $$; sleep 60")?)?.finish()?.expect_code(137)?;
    Ok(())
}

#[test]
fn a_process_that_outlives_the_workload_does_not_hold_the_sandbox() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000 & (sleep 1000 &) ; echo done; exit 3")?;
    let finished = Sandbox::run(&bundle)?.finish()?.expect_code(3)?;
    assert_eq!(finished.text(), "done\n");
    Ok(())
}

#[test]
fn what_the_workload_wrote_last_is_on_the_host() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("echo last >/file")?;
    Sandbox::run(&bundle)?.finish()?.expect_code(0)?;
    assert_eq!(fs::read_to_string(bundle.rootfs().join("file"))?, "last\n");
    Ok(())
}
