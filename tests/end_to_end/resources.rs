//! Limits, device rules, devices, masks and kernel parameters, as a workload meets them.

use std::fs;
use std::path::Path;

use anyhow::Result;
use e2e::{Bundle, Finished, Runtime, Sandbox, together};
use serde_json::{Value, json};

fn run(bundle: &Bundle) -> Result<Finished> {
    Sandbox::run(bundle)?.finish()
}

fn output(bundle: &Bundle) -> Result<String> {
    Ok(run(bundle)?.expect_code(0)?.text())
}

fn with_resources(script: &str, resources: Value) -> Result<Bundle> {
    Bundle::shell(script)?.edit(|spec| spec["linux"]["resources"] = resources)
}

/// Each limit as its file in the container's own cgroup.
#[test]
fn limits_are_in_the_containers_cgroup() -> Result<()> {
    let _order = together();
    let files = [
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("memory.low", "33554432"),
        ("memory.high", "60000000"),
        ("cpu.weight", "100"),
        ("cpu.max", "50000 200000"),
        ("cpu.max.burst", "10000"),
        ("pids.max", "123"),
        ("io.weight", "default 4950"),
        ("hugetlb.2MB.max", "4194304"),
    ];
    let names: Vec<String> = files.iter().map(|(name, _)| format!("/sys/fs/cgroup/{name}")).collect();
    let bundle = with_resources(
        &format!("head -n 1 -q {}", names.join(" ")),
        json!({
            "memory": {"limit": 67_108_864, "swap": 100_663_296, "reservation": 33_554_432},
            "cpu": {"shares": 1024, "quota": 50_000, "period": 200_000, "burst": 10_000, "cpus": "0", "mems": "0"},
            "pids": {"limit": 123},
            "blockIO": {"weight": 500},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
            "unified": {"memory.high": "60000000"}
        }),
    )?;
    let expected: String = files.iter().map(|(_, value)| format!("{value}\n")).collect();
    // The kernel rounds to whole pages.
    assert_eq!(output(&bundle)?, expected.replace("60000000", "59998208"));
    Ok(())
}

#[test]
fn idle_is_the_least_weight() -> Result<()> {
    let _order = together();
    let resources = json!({"cpu": {"shares": 1024, "idle": 1}});
    let bundle = with_resources("cat /sys/fs/cgroup/cpu.idle", resources)?;
    assert_eq!(output(&bundle)?, "1\n");
    Ok(())
}

#[test]
fn more_memory_than_the_limit_is_death() -> Result<()> {
    let _order = together();
    // tail keeps all that it reads.
    let script = "tail /dev/zero; echo $?; grep oom_kill\\  /sys/fs/cgroup/memory.events";
    let bundle = with_resources(script, json!({"memory": {"limit": 16 << 20}}))?;
    assert_eq!(output(&bundle)?, "137\noom_kill 1\n");
    Ok(())
}

/// The machine is as large as the limit needs, so that all of it can be used, and hardly larger.
#[test]
fn a_memory_limit_can_be_used_to_the_last() -> Result<()> {
    let _order = together();
    // dd has one buffer of that size.
    let script = |mib: u64| {
        format!(
            "dd if=/dev/zero of=/dev/null bs={mib}M count=1 2>&1 | grep out; grep MemTotal /proc/meminfo | tr -dc 0-9"
        )
    };
    for (limit_mib, used_mib) in [(6, 3), (100, 95), (700, 680)] {
        let bundle = with_resources(&script(used_mib), json!({"memory": {"limit": limit_mib << 20}}))?;
        let text = output(&bundle)?;
        let (used, total_kib) = text.split_once('\n').unwrap_or_default();
        assert_eq!(used, "1+0 records out", "{used_mib} of {limit_mib} MiB");
        let total_mib = total_kib.parse::<u64>()? >> 10;
        assert!((limit_mib..limit_mib + 100).contains(&total_mib), "{total_mib} MiB for {limit_mib}");
    }
    Ok(())
}

/// What a bundle's annotations choose, if they may.
#[test]
fn annotations_choose_the_machine() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("nproc; grep MemTotal /proc/meminfo | tr -dc 0-9")?
        .edit(|spec| spec["annotations"] = json!({"io.runv.memory": "300M"}))?;
    let text = output(&bundle)?;
    let total_kib: u64 = text.lines().nth(1).unwrap_or_default().parse()?;
    assert!((270 << 10..300 << 10).contains(&total_kib), "{text}");
    let bundle = bundle.edit(|spec| spec["annotations"] = json!({"io.runv.colour": "red"}))?;
    assert!(run(&bundle)?.expect_code(1)?.errors().contains("annotation io.runv.colour is not supported"));
    Ok(())
}

/// Pages of the mount come from the guest's memory, up to the limit.
#[test]
fn huge_pages_can_be_had_up_to_their_limit() -> Result<()> {
    let _order = together();
    let script = "df -h /huge | grep -c hugetlbfs; fallocate -l 8M /huge/some && echo some
        fallocate -l 8M /huge/more || echo 'no more'; cat /sys/fs/cgroup/hugetlb.2MB.current";
    let resources = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 10 << 20}]});
    let bundle =
        with_resources(script, resources)?.mount("hugetlbfs", "hugetlbfs", "/huge", &["pagesize=2M"])?;
    let text = output(&bundle)?;
    assert!(text.starts_with("1\nsome\nno more\n"), "{text}");
    assert_eq!(text.lines().last(), Some("10485760"));
    Ok(())
}

/// A device of the host that is bound is the guest's of the same number.
#[test]
fn a_bound_character_device_works_and_a_block_device_is_refused() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("stat -c '%F %t:%T' /dev/nothing; head -c 5 /dev/nothing | wc -c")?.mount(
        "bind",
        "/dev/zero",
        "/dev/nothing",
        &["bind", "rprivate"],
    )?;
    assert_eq!(output(&bundle)?, "character special file 1:5\n5\n");
    let disk = bundle.path().join("disk");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &disk,
        rustix::fs::FileType::BlockDevice,
        rustix::fs::Mode::RUSR,
        rustix::fs::makedev(7, 0),
    )?;
    let bundle = bundle.mount("bind", &disk.to_string_lossy(), "/dev/disk", &["bind"])?;
    let finished = run(&bundle)?.expect_code(1)?;
    assert!(finished.errors().contains("it is a block device of the host"), "{finished:?}");
    Ok(())
}

#[test]
fn more_processes_than_the_limit_are_refused() -> Result<()> {
    let _order = together();
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; true";
    let finished = run(&with_resources(script, json!({"pids": {"limit": 5}}))?)?;
    assert!(finished.errors().contains("can't fork: Resource temporarily unavailable"), "{finished:?}");
    let finished = run(&with_resources(script, json!({"pids": {"limit": -1}}))?)?;
    assert_eq!(finished.expect_code(0)?.errors(), "");
    Ok(())
}

/// `unified` wins, and its own mistakes are told.
#[test]
fn a_limit_that_the_kernel_does_not_know_or_take_is_named() -> Result<()> {
    let _order = together();
    for (unified, expected) in [
        (json!({"memory.maximum": "1"}), "cannot set memory.maximum: the guest's kernel has no such limit"),
        (json!({"pids.max": "many"}), "cannot set pids.max to \"many\": Invalid argument"),
    ] {
        let bundle = with_resources("true", json!({"unified": unified}))?;
        let finished = run(&bundle)?.expect_code(1)?;
        assert!(finished.errors().contains(expected), "{finished:?}");
    }
    Ok(())
}

/// Whether each device can be opened: kmsg (1:11), zero (1:5), loop-control (10:237), a TUN (10:200).
const OPEN_DEVICES: &str = "set -e; cd /tmp; mknod kmsg c 1 11; mknod zero c 1 5; mknod loop c 10 237
    for device in kmsg zero loop; do (: <$device) 2>/dev/null && echo $device; done; (: >kmsg) 2>/dev/null && echo write
    mknod disk b 7 0; true";

#[test]
fn devices_that_no_rule_allows_cannot_be_opened() -> Result<()> {
    let _order = together();
    for (rules, expected) in [
        (json!(null), "zero\n"),
        (json!([{"allow": false, "access": "rwm"}]), "zero\n"),
        (
            json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]),
            "kmsg\nzero\n",
        ),
        (
            json!([
                {"allow": true, "access": "rwm"},
                {"allow": false, "type": "c", "major": 10, "access": "rwm"},
                {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "w"}
            ]),
            "kmsg\nzero\n",
        ),
        (json!([{"allow": true, "type": "a", "access": "rwm"}]), "kmsg\nzero\nloop\nwrite\n"),
    ] {
        let bundle = with_resources(OPEN_DEVICES, json!({"devices": rules}))?.edit(all_capabilities)?;
        assert_eq!(output(&bundle)?, expected, "{rules}");
    }
    Ok(())
}

fn all_capabilities(spec: &mut Value) {
    let names =
        json!(["CAP_MKNOD", "CAP_SYS_ADMIN", "CAP_SYSLOG", "CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_NET_ADMIN"]);
    for set in ["bounding", "effective", "permitted"] {
        spec["process"]["capabilities"][set] = names.clone();
    }
}

#[test]
fn devices_of_the_bundle_are_there_with_mode_and_owner() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("stat -c '%F %t:%T %a %u %g' /dev/fuse /dev/deep/pipe; : <>/dev/fuse && echo opened")?
        .edit(|spec| {
            spec["linux"]["devices"] = json!([
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o620, "uid": 7, "gid": 8},
                {"path": "/dev/deep/pipe", "type": "p"}
            ]);
            spec["linux"]["resources"]["devices"] = json!([
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}
            ]);
            all_capabilities(spec);
        })?;
    let text = output(&bundle)?;
    assert_eq!(text, "character special file a:e5 620 7 8\nfifo 0:0 666 0 0\nopened\n");
    Ok(())
}

#[test]
fn masked_paths_are_empty_and_read_only_paths_refuse_writes() -> Result<()> {
    let _order = together();
    let script = "wc -c </proc/keys; ls -A /sys/firmware | wc -l; wc -c </etc/passwd
        echo x 2>&1 >/proc/sys/kernel/domainname; echo b 2>&1 >/proc/sysrq-trigger; true";
    let bundle = Bundle::shell(script)?.edit(|spec| {
        if let Some(masked) = spec["linux"]["maskedPaths"].as_array_mut() {
            masked.push(json!("/etc/passwd"));
        }
    })?;
    let text = output(&bundle.edit(all_capabilities)?)?;
    assert!(text.starts_with("0\n0\n0\n"), "{text}");
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    Ok(())
}

#[test]
fn sysctls_are_the_containers_own() -> Result<()> {
    let _order = together();
    let script =
        "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start net/ipv4/conf/lo/forwarding kernel/shmmni";
    let bundle = Bundle::shell(script)?.edit(|spec| {
        spec["linux"]["sysctl"] = json!({
            "net.ipv4.ip_unprivileged_port_start": "77",
            "net/ipv4/conf/lo/forwarding": "1",
            "kernel.shmmni": "99"
        });
    })?;
    assert_eq!(output(&bundle)?, "77\n1\n99\n");
    Ok(())
}

/// What is wrong, and what the error has to name.
type Case = (fn(&mut Value), &'static str);

#[test]
fn what_cannot_be_had_is_refused_before_anything_starts() -> Result<()> {
    let _order = together();
    let cases: [Case; 6] = [
        (|spec| spec["linux"]["sysctl"] = json!({"vm.overcommit_memory": "1"}), "vm.overcommit_memory"),
        (
            |spec| {
                spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
                spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}]);
            },
            "needs a network namespace",
        ),
        (|spec| spec["linux"]["devices"] = json!([{"path": "x", "type": "c"}]), "linux.devices[0].path"),
        (|spec| spec["linux"]["maskedPaths"] = json!(["proc"]), "linux.maskedPaths[0]"),
        (|spec| spec["linux"]["resources"]["memory"] = json!({"limit": -9}), "memory.limit -9"),
        (
            |spec| spec["linux"]["resources"]["devices"] = json!([{"allow": true}]),
            "resources.devices[0].access",
        ),
    ];
    for (change, expected) in cases {
        let finished = run(&Bundle::new(&["true"])?.edit(change)?)?.expect_code(1)?;
        assert!(finished.errors().contains(expected), "{finished:?}");
    }
    Ok(())
}

#[test]
fn a_tmpfs_begins_with_what_the_image_has() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("cat /etc/group | wc -l; echo new >/etc/new; rm /etc/passwd; ls /etc")?
        .mount("tmpfs", "tmpfs", "/etc", &["nosuid", "nodev", "rprivate", "tmpcopyup"])?;
    assert_eq!(output(&bundle)?, "3\ngroup\nnew\n");
    assert!(bundle.rootfs().join("etc/passwd").exists() && !bundle.rootfs().join("etc/new").exists());
    Ok(())
}

/// Engines watch the host's cgroup, and know of no other.
#[test]
fn a_lack_of_memory_in_the_guest_is_an_event_of_the_hosts_cgroup() -> Result<()> {
    let _order = together();
    // tail keeps all that it reads.
    let bundle = with_resources("tail /dev/zero; exit 6", json!({"memory": {"limit": 16 << 20}}))?;
    let runv = Runtime::new(&bundle)?;
    runv.leave(&["run", "--detach", "c1"])?.expect(0)?;
    runv.wait_for_status("c1", "stopped")?;
    let config: Value = serde_json::from_str(&fs::read_to_string(bundle.path().join("config.json"))?)?;
    let cgroup = config["linux"]["cgroupsPath"].as_str().unwrap_or_default().trim_start_matches('/');
    let version_1 = Path::new("/sys/fs/cgroup/memory").join(cgroup).join("memory.oom_control");
    let version_2 = Path::new("/sys/fs/cgroup").join(cgroup).join("memory.events");
    let file = if version_1.exists() { version_1 } else { version_2 };
    let events = fs::read_to_string(&file)?;
    assert!(events.lines().any(|line| line == "oom_kill 1"), "{}: {events}", file.display());
    Ok(())
}
