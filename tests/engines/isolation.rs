//! What the engines' defaults take away, and what options give back.

use anyhow::Result;
use e2e::together;

use crate::engine::Engine;

crate::engine::each_engine! {
    capabilities_are_as_asked,
    the_default_seccomp_profile_is_on_and_can_be_off,
    a_seccomp_profile_of_the_users_own_acts_as_with_runc,
    files_of_the_kernel_are_masked_unless_it_is_privileged,
    devices_are_the_guests_and_few,
}

fn capabilities_are_as_asked(engine: &Engine) -> Result<()> {
    let _order = together();
    let script = "grep CapEff /proc/self/status; chown 1:1 /tmp && echo given";
    let answer = engine.run(&[], script)?.expect(0)?;
    assert!(answer.stdout.ends_with("given\n"), "{}: {answer:?}", engine.name);
    let answer = engine.run(&["--cap-drop", "ALL"], script)?.expect(1)?;
    assert_eq!(answer.stdout, "CapEff:\t0000000000000000\n", "{}", engine.name);
    let answer =
        engine.run(&["--cap-add", "SYS_ADMIN"], "mount -t tmpfs x /mnt 2>&1 || mkdir -p /mnt; echo $?")?;
    assert!(answer.code == 0, "{}: {answer:?}", engine.name);
    Ok(())
}

fn the_default_seccomp_profile_is_on_and_can_be_off(engine: &Engine) -> Result<()> {
    let _order = together();
    let script = "grep -w Seccomp /proc/self/status";
    assert_eq!(engine.run(&[], script)?.expect(0)?.stdout, "Seccomp:\t2\n", "{}", engine.name);
    let off = engine.run(&["--security-opt", "seccomp=unconfined"], script)?.expect(0)?;
    assert_eq!(off.stdout, "Seccomp:\t0\n", "{}", engine.name);
    let nnp = engine.run(&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status")?;
    assert_eq!(nnp.expect(0)?.stdout, "NoNewPrivs:\t1\n", "{}", engine.name);
    Ok(())
}

/// It changes no modes.
fn a_seccomp_profile_of_the_users_own_acts_as_with_runc(engine: &Engine) -> Result<()> {
    let _order = together();
    let profile = tempfile::NamedTempFile::new()?;
    let calls = r#"{ "names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO" }"#;
    std::fs::write(
        profile.path(),
        format!(r#"{{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{calls}] }}"#),
    )?;
    let option = format!("seccomp={}", profile.path().display());
    let mut said = Vec::new();
    let runc: &[&str] = if engine.name == "docker" { &["--runtime", "runc"] } else { &[] };
    for (engine, runtime) in [(engine, &[][..]), (&engine.with_runc(), runc)] {
        let script = "chmod 700 /tmp 2>&1 || echo $?; stat -c %a /tmp; mkdir /x && echo made";
        let options = [runtime, &["--security-opt", &option]].concat();
        said.push(engine.run(&options, script)?.expect(0)?.stdout);
    }
    assert!(said.iter().all(|text| text.contains("Operation not permitted\n1\n")), "{said:?}");
    assert_eq!(said.first(), said.last(), "{}", engine.name);
    Ok(())
}

fn files_of_the_kernel_are_masked_unless_it_is_privileged(engine: &Engine) -> Result<()> {
    let _order = together();
    let script = "test -s /proc/timer_list && echo seen; echo 1 >/proc/sys/kernel/printk || echo refused";
    assert_eq!(engine.run(&[], script)?.expect(0)?.stdout, "refused\n", "{}", engine.name);
    Ok(())
}

fn devices_are_the_guests_and_few(engine: &Engine) -> Result<()> {
    let _order = together();
    let script =
        "for node in null zero full random urandom tty; do test -c /dev/$node || echo $node is missing; done
            mknod /tmp/disk b 8 0 && cat /tmp/disk || echo refused";
    let answer = engine.run(&[], script)?.expect(0)?;
    assert_eq!(answer.stdout, "refused\n", "{}: {answer:?}", engine.name);
    Ok(())
}
