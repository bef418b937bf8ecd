//! Hosts that lack something or have something more, each a mount namespace around the program.

use std::fs;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use e2e::{Bundle, Setup, together};
use serde_json::Value;

/// No device but `/dev/null`, and no folder with programs.
const NEITHER_KVM_NOR_QEMU: &str =
    "mount -t tmpfs dev /dev && mknod -m 666 /dev/null c 1 3 && export PATH=/nowhere";

/// Runs `sandbox` after `change`, a shell's words in a mount namespace of their own.
fn on_a_host(change: &str, arguments: &[&str]) -> Result<Output> {
    let script = format!("{change} && exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).arg(Setup::get()?.sandbox()).args(arguments);
    command.stdin(Stdio::null()).output().context("cannot run unshare")
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

#[test]
fn without_kvm_and_qemu_nothing_runs_and_both_are_told_with_a_remedy() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["true"])?;
    let output = on_a_host(NEITHER_KVM_NOR_QEMU, &["run", &bundle.path().to_string_lossy()])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(
        text(&output.stderr),
        "sandbox: error: no hypervisor can run here: cannot open /dev/kvm: no such device; load the module \
         kvm_intel or kvm_amd, or switch on virtualization in the firmware or cloud; and without KVM: cannot find \
         qemu-system-x86_64 in PATH; install it (Debian: apt install qemu-system-x86); see `sandbox check`\n"
    );
    Ok(())
}

#[test]
fn check_fails_where_no_driver_runs() -> Result<()> {
    let _order = together();
    let output = on_a_host(NEITHER_KVM_NOR_QEMU, &["check"])?;
    let lines = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{lines}");
    let last = lines.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("sandboxes cannot run: no hypervisor can run here: cannot open /dev/kvm"),
        "{lines}"
    );

    let output = on_a_host(NEITHER_KVM_NOR_QEMU, &["check", "--json"])?;
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).context("not JSON")?;
    assert_eq!((&report["can_run"], &report["driver"]), (&false.into(), &Value::Null), "{report}");
    Ok(())
}

/// The administrator's file holds for whoever names no other.
#[test]
fn the_configuration_of_the_host_is_read() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["true"])?;
    let path = bundle.path().to_string_lossy().into_owned();
    let own = bundle.path().join("own.toml");
    fs::write(&own, "kernel = \"/the/users/kernel\"\n")?;
    let host = "mount -t tmpfs etc /etc && mkdir /etc/runv && echo 'kernel = \"/the/hosts/kernel\"' >/etc/runv/config.toml";
    let by_host = on_a_host(host, &["run", &path])?;
    let by_user = on_a_host(host, &["run", "--config", &own.to_string_lossy(), &path])?;
    for (output, kernel) in [(by_host, "/the/hosts/kernel"), (by_user, "/the/users/kernel")] {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains(kernel), "{output:?}");
    }
    Ok(())
}
