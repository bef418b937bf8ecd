//! The workload is in a machine, and in a container, of its own.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::{Bundle, Deadline, Hypervisor, Sandbox, Setup, together};

/// The release that is written in the kernel image.
fn release_of_built_kernel() -> Result<String> {
    const MARK: &[u8] = b"Linux version ";
    let image = fs::read(Setup::get()?.kernel())?;
    let start =
        image.windows(MARK.len()).position(|window| window == MARK).context("no version in vmlinux")?;
    let rest = image.get(start + MARK.len()..).context("vmlinux ends")?;
    let end = rest.iter().position(|byte| *byte == b' ').context("no release in vmlinux")?;
    Ok(String::from_utf8_lossy(rest.get(..end).context("no release")?).into_owned())
}

#[test]
fn the_kernel_is_the_built_one_and_not_the_hosts() -> Result<()> {
    let _order = together();
    let finished = Sandbox::run(&Bundle::new(&["uname", "-r"])?)?.finish()?.expect_code(0)?;
    let host = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    assert_eq!(finished.text().trim(), release_of_built_kernel()?);
    assert_ne!(finished.text(), host);
    Ok(())
}

#[test]
fn the_workload_is_process_1_and_sees_only_its_own() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("echo $$; readlink /proc/1/exe; ps -o pid,comm; exit 0")?;
    let finished = Sandbox::run(&bundle)?.finish()?.expect_code(0)?;
    let text = finished.text();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines.iter().map(Vec::as_slice).collect::<Vec<_>>(),
        [&["1"][..], &["/bin/busybox"], &["PID", "COMMAND"], &["1", "sh"], &[lines[4][0], "ps"]],
        "{text}"
    );
    Ok(())
}

#[test]
fn memory_and_cpus_are_as_asked() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("nproc; awk '/MemTotal/ { print $2 }' /proc/meminfo")?;
    let finished = Sandbox::run(&bundle)?.option("--memory", "300").finish()?.expect_code(0)?;
    let text = finished.text();
    let mut numbers = text.lines().map(str::parse::<u64>);
    let cpus = numbers.next().context("no CPUs")??;
    let memory_kib = numbers.next().context("no memory")??;
    assert_eq!(cpus, u64::from(Setup::get()?.cpus()));
    // The kernel itself takes some.
    assert!((230 * 1024..=300 * 1024).contains(&memory_kib), "{memory_kib} KiB of 300 MiB");
    Ok(())
}

#[test]
fn the_hostname_is_the_bundles() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["hostname"])?.edit(|spec| spec["hostname"] = "my-sandbox".into())?;
    let finished = Sandbox::run(&bundle)?.finish()?.expect_code(0)?;
    assert_eq!(finished.text(), "my-sandbox\n");
    Ok(())
}

#[test]
fn nothing_of_the_host_or_the_agent_is_inherited() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(
        "env | grep -v -e ^SHLVL= -e ^PWD= -e ^HOME= | sort; ls /proc/self/fd; ls /; readlink /proc/self/cwd",
    )?;
    let finished = Sandbox::run(&bundle)?.finish()?.expect_code(0)?;
    let expected = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nTERM=xterm\n\
        0\n1\n2\n3\nbin\ndev\netc\nproc\nroot\nsys\ntmp\nusr\n/\n";
    assert_eq!(finished.text(), expected, "3 is the directory that ls itself reads");
    Ok(())
}

#[test]
fn a_guest_panic_is_told_apart_from_the_workloads_end() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("echo ready; echo c >/proc/sysrq-trigger; sleep 60")?.edit(|spec| {
        spec["linux"]["readonlyPaths"] = serde_json::json!([]);
        spec["process"]["capabilities"] = serde_json::Value::Null;
    })?;
    let finished =
        Sandbox::run(&bundle)?.finish_by(Deadline::after(Duration::from_secs(90))?)?.expect_code(1)?;
    assert!(finished.errors().contains("panic"), "{:?}", finished.errors());
    Ok(())
}

/// The workload overwrites the code of PID 1, which shares its PID namespace here.
#[test]
fn an_agent_that_dies_is_told_apart_from_the_workloads_end() -> Result<()> {
    let _order = together();
    let script = "set -e; code=$(awk '$2 ~ /x/ && $6 == \"/init\" { print $1; exit }' /proc/1/maps)
        first=$((0x${code%-*} / 4096)); last=$((0x${code#*-} / 4096)); echo $((last - first)) pages >&2
        dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$first count=$((last - first)) conv=notrunc 2>/dev/null; sleep 60";
    let bundle = Bundle::shell(script)?.edit(|spec| {
        if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "pid");
        }
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = serde_json::json!(["CAP_SYS_PTRACE"]);
        }
        spec["process"]["capabilities"]["ambient"] = serde_json::Value::Null;
    })?;
    let mut sandbox = Sandbox::run(&bundle)?.start()?;
    let deadline = Deadline::after(Duration::from_secs(90))?;
    sandbox.stderr().wait_for("pages\n", deadline)?;
    // The agent wakes, if it has not done so.
    let _ = std::io::Write::write_all(sandbox.stdin()?, b"line\n");
    let errors = sandbox.finish(deadline)?.expect_code(1)?.errors();
    let last = errors.lines().last().unwrap_or_default();
    assert!(last.starts_with("sandbox: error: the agent died: Attempted to kill init!"), "{errors}");
    Ok(())
}

#[test]
fn debug_shows_the_guests_console() -> Result<()> {
    let _order = together();
    let finished = Sandbox::run(&Bundle::new(&["/bin/true"])?)?.flag("--debug").finish()?.expect_code(0)?;
    assert!(finished.errors().contains("Linux version"), "{:?}", finished.errors());
    assert_eq!(finished.text(), "");
    Ok(())
}

/// Whether the guests of these tests have an emulated processor.
fn emulates() -> Result<bool> {
    let check = Sandbox::command(&["check"]).finish()?.expect_code(0)?.text();
    Ok(Setup::get()?.hypervisor() == Hypervisor::Qemu && check.contains("software emulation"))
}

#[test]
fn emulation_is_announced_and_nothing_else_is() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["/bin/true"])?;
    let path = bundle.path().to_string_lossy().into_owned();
    let command = ["run", "--hypervisor", Setup::get()?.hypervisor().name(), &path];
    let errors = Sandbox::command(&command).finish()?.expect_code(0)?.errors();
    let emulates = emulates()?;
    assert_eq!(errors.contains("software emulation"), emulates, "{errors:?}");
    assert_eq!(errors.lines().count(), usize::from(emulates), "{errors:?}");
    Ok(())
}

/// QEMU 7.2 emulates `cmpxchg16b` such that an interrupt beside it can break the kernel.
#[test]
fn an_emulated_kernel_does_without_what_is_emulated_wrongly() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("grep -w -c cx16 /proc/cpuinfo || true")?;
    let text = Sandbox::run(&bundle)?.finish()?.expect_code(0)?.text();
    assert_eq!(text == "0\n", emulates()?, "{text:?}");
    Ok(())
}
