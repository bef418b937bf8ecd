//! What a workload may do: capabilities, limits, priorities, seccomp.

use std::fs;

use anyhow::{Context, Result};
use e2e::{Bundle, Runtime, Sandbox, together};
use serde_json::{Value, json};

/// Debian's package golang-github-containers-common.
const DEFAULT_PROFILE: &str = "/usr/share/containers/seccomp.json";

fn output(bundle: &Bundle) -> Result<String> {
    Ok(Sandbox::run(bundle)?.finish()?.expect_code(0)?.text())
}

#[test]
fn capabilities_and_no_new_privileges_are_the_bundles() -> Result<()> {
    let _order = together();
    let script = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status; mount -t tmpfs x /tmp || echo refused";
    let bundle = Bundle::shell(script)?.edit(|spec| {
        // KILL is 5, CHOWN 0.
        let some = json!(["CAP_KILL", "CAP_CHOWN"]);
        spec["process"]["capabilities"] = json!({ "bounding": some, "permitted": some, "effective": some });
        spec["process"]["noNewPrivileges"] = json!(true);
    })?;
    let (some, none) = ("0000000000000021", "0000000000000000");
    let expected = format!(
        "CapInh:\t{none}\nCapPrm:\t{some}\nCapEff:\t{some}\nCapBnd:\t{some}\nCapAmb:\t{none}\nNoNewPrivs:\t1\nrefused\n"
    );
    assert_eq!(output(&bundle)?, expected);
    Ok(())
}

/// A script of user 1000 with those capabilities, ambient ones included.
fn of_a_user(script: &str, capabilities: &[&str]) -> Result<Bundle> {
    Bundle::shell(script)?.edit(|spec| {
        spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        let sets = ["bounding", "permitted", "effective", "inheritable", "ambient"];
        spec["process"]["capabilities"] =
            sets.iter().map(|set| ((*set).to_owned(), json!(capabilities))).collect();
    })
}

#[test]
fn a_user_has_its_ambient_capabilities() -> Result<()> {
    let _order = together();
    let bundle = of_a_user("grep ^CapEff /proc/self/status", &["CAP_NET_BIND_SERVICE"])?;
    assert_eq!(output(&bundle)?, "CapEff:\t0000000000000400\n");
    Ok(())
}

#[test]
fn only_with_the_capability_a_user_makes_files_where_it_may_not_write() -> Result<()> {
    let _order = together();
    let script = "cd /closed; (touch file; mkdir directory; ln -s x link; mkfifo fifo) 2>/dev/null
        echo *; stat -c %u:%g * 2>/dev/null | sort -u";
    let cases = [(&["CAP_DAC_OVERRIDE"][..], "directory fifo file link\n1000:1000\n"), (&[], "*\n")];
    for (capabilities, expected) in cases {
        let bundle = of_a_user(script, capabilities)?;
        fs::create_dir(bundle.rootfs().join("closed"))?;
        assert_eq!(output(&bundle)?, expected, "{capabilities:?}");
    }
    Ok(())
}

#[test]
fn limits_and_priorities_are_the_bundles_above_those_of_the_host_too() -> Result<()> {
    let _order = together();
    let script = "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj; set -- $(cat /proc/self/stat); echo ${19} ${41}";
    let bundle = Bundle::shell(script)?.edit(|spec| {
        let process = &mut spec["process"];
        process["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 1_000_000, "hard": 1_048_576 }]);
        process["oomScoreAdj"] = json!(-700);
        process["scheduler"] = json!({ "policy": "SCHED_RR", "priority": 20 });
        process["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 3 });
    })?;
    // proc(5): nice, and the policy, 2.
    assert_eq!(output(&bundle)?, "1000000\n1048576\n-700\n0 2\n");
    Ok(())
}

#[test]
fn a_32_bit_personality_is_seen() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["uname", "-m"])?
        .edit(|spec| spec["linux"]["personality"] = json!({ "domain": "LINUX32" }))?;
    assert_eq!(output(&bundle)?, "i686\n");
    Ok(())
}

/// The specification's words for the profile in the engines' own format, as an engine makes it for these capabilities.
fn default_profile(capabilities: &[&str]) -> Result<Value> {
    let text =
        fs::read_to_string(DEFAULT_PROFILE).context("apt-get install golang-github-containers-common")?;
    let mut profile: Value = serde_json::from_str(&text)?;
    let has = |names: &Value, ours: &[&str]| {
        names.as_array().is_some_and(|names| {
            names.iter().any(|name| name.as_str().is_some_and(|name| ours.contains(&name)))
        })
    };
    let calls = profile["syscalls"].as_array().context("no syscalls")?.iter().filter(|call| {
        let (includes, excludes) = (&call["includes"], &call["excludes"]);
        let wanted = includes["caps"].is_null() || has(&includes["caps"], capabilities);
        let native = includes["arches"].is_null() || has(&includes["arches"], &["amd64"]);
        wanted && native && !has(&excludes["caps"], capabilities) && !has(&excludes["arches"], &["amd64"])
    });
    let fields = ["names", "action", "args", "errnoRet"];
    let calls: Vec<Value> = calls
        .map(|call| {
            fields
                .iter()
                .filter(|name| !call[**name].is_null())
                .map(|name| ((*name).to_owned(), call[*name].clone()))
                .collect()
        })
        .collect();
    profile["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    profile["syscalls"] = json!(calls);
    if let Some(profile) = profile.as_object_mut() {
        profile.remove("archMap");
    }
    Ok(profile)
}

#[test]
fn the_engines_default_profile_lets_work_and_refuses_what_it_should() -> Result<()> {
    let _order = together();
    // The process may change the hostname and its root; the profile is one for processes that may not.
    let profile = default_profile(&["CAP_CHOWN"])?;
    let capabilities = json!(["CAP_SYS_ADMIN", "CAP_SYS_CHROOT"]);
    let script = "mkdir /tmp/x && chmod 700 /tmp/x && ls /tmp; hostname other; chroot / true; \
        grep ^Seccomp: /proc/self/status";
    for (filtered, no_new_privileges) in [(false, true), (true, true), (true, false)] {
        let bundle = Bundle::shell(script)?.edit(|spec| {
            if filtered {
                spec["linux"]["seccomp"] = profile.clone();
            }
            let sets = ["bounding", "permitted", "effective"];
            spec["process"]["capabilities"] =
                sets.iter().map(|set| ((*set).to_owned(), capabilities.clone())).collect();
            spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        })?;
        let finished = Sandbox::run(&bundle)?.finish()?.expect_code(0)?;
        assert_eq!(finished.text(), format!("x\nSeccomp:\t{}\n", if filtered { 2 } else { 0 }));
        let expected = if filtered {
            "hostname: sethostname: Operation not permitted\n\
             chroot: can't change root directory to '/': Operation not permitted\n"
        } else {
            ""
        };
        assert_eq!(finished.errors(), expected);
    }
    Ok(())
}

#[test]
fn a_profile_that_refuses_to_change_modes_does() -> Result<()> {
    let _order = together();
    let names = json!(["chmod", "fchmod", "fchmodat", "fchmodat2"]);
    let bundle = Bundle::shell("chmod 700 /tmp")?.edit(|spec| {
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{ "names": names, "action": "SCMP_ACT_ERRNO" }]
        });
    })?;
    let finished = Sandbox::run(&bundle)?.finish()?.expect_code(1)?;
    assert_eq!(finished.errors(), "chmod: /tmp: Operation not permitted\n");
    Ok(())
}

#[test]
fn a_process_that_the_profile_kills_dies_of_sigsys() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["mkdir", "/tmp/x"])?.edit(|spec| {
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }]
        });
    })?;
    Sandbox::run(&bundle)?.finish()?.expect_code(128 + 31)?;
    Ok(())
}

#[test]
fn other_processes_are_under_the_containers_filter_with_rights_of_their_own() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["sleep", "1000"])?.edit(|spec| {
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }]
        });
        let one = json!(["CAP_KILL"]);
        spec["process"]["capabilities"] = json!({ "bounding": one, "permitted": one, "effective": one });
    })?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let script = "mkdir /tmp/x; grep -E '^(CapEff|Seccomp:|NoNewPrivs)' /proc/self/status";
    let answer = runv.call(&["exec", "--cap", "CAP_CHOWN", "c1", "sh", "-c", script])?.expect(0)?;
    assert!(answer.stderr.contains("Operation not permitted"), "{answer:?}");
    assert_eq!(answer.stdout, "CapEff:\t0000000000000021\nNoNewPrivs:\t1\nSeccomp:\t2\n");
    Ok(())
}
