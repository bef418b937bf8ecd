//! config-linux.md, "Control groups".

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use e2e::{Bundle, Program};
use serde_json::{Value, json};

use crate::{Subject, both};

/// The folders of a bundle's cgroup that are there, below each hierarchy's mount.
pub(crate) fn of(bundle: &Bundle) -> Result<Vec<PathBuf>> {
    let config: Value = serde_json::from_slice(&fs::read(bundle.config())?).context("config.json")?;
    let path = config["linux"]["cgroupsPath"].as_str().context("no cgroupsPath")?;
    let below = path.trim_start_matches('/');
    let hierarchies =
        fs::read_dir("/sys/fs/cgroup").context("no cgroups")?.flatten().map(|entry| entry.path());
    let mounts = hierarchies.chain(["/sys/fs/cgroup".into()]);
    Ok(mounts.map(|mount| mount.join(below)).filter(|folder| folder.is_dir()).collect())
}

#[test]
fn cgroups() -> Result<()> {
    both(
        "cgroups",
        |_| Bundle::new(&["sleep", "1000"]),
        |subject| {
            place(subject)?;
            check_before_update(subject)?;
            unified(subject)?;
            device_order(subject)
        },
    )
}

fn place(subject: &Subject<'_>) -> Result<()> {
    let mut places = Vec::new();
    for id in ["c1", "c2"] {
        subject.runtime.leave(&["create", "--pid-file", "pid", id])?.expect(0)?;
        let (pid, folders) = (subject.runtime.read("pid"), of(subject.bundle)?);
        let member = |folder: &PathBuf| {
            fs::read_to_string(folder.join("cgroup.procs"))
                .is_ok_and(|pids| pids.lines().any(|one| one == pid))
        };
        let members = !folders.is_empty() && folders.iter().all(member);
        subject.must("linux.cgroups-path-absolute", members, &folders);
        subject.runtime.call(&["delete", "--force", id])?.expect(0)?;
        places.push(folders);
    }
    subject.must("linux.cgroups-path-same", places.first() == places.last(), places);
    Ok(())
}

fn check_before_update(subject: &Subject<'_>) -> Result<()> {
    subject.runtime.run_detached("c1")?;
    let fill = ["exec", "c1", "dd", "if=/dev/zero", "of=/dev/shm/file", "bs=1M", "count=8"];
    subject.runtime.call(&fill)?.expect(0)?;
    let limit = br#"{"memory":{"limit":2097152,"swap":2097152,"checkBeforeUpdate":true}}"#;
    let answer = subject.runtime.call_with(&["update", "--resources", "-", "c1"], limit)?;
    let runs = subject.runtime.state("c1")?["status"] == "running";
    subject.must("linux.check-before-update", answer.code != 0 && runs, answer);
    subject.runtime.call(&["delete", "--force", "c1"])?.expect(0)?;
    Ok(())
}

fn unified(subject: &Subject<'_>) -> Result<()> {
    if subject.program == Program::Runc && !PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Ok(());
    }
    let directory = subject.bundle.edited(|spec| {
        spec["process"]["args"] =
            json!(["sh", "-c", "cd /sys/fs/cgroup; cat memory.high pids.max cpu.weight.nice"]);
        spec["linux"]["resources"]["unified"] =
            json!({ "memory.high": "104857600", "pids.max": "77", "cpu.weight.nice": "5" });
    })?;
    let answer = subject.runtime.call(&["run", "--bundle", &directory, "c1"])?;
    let written = answer.stdout == "104857600\n77\n5\n";
    subject.must("linux.unified-written", written, &answer);
    subject.must("linux.unified-controllers", written, &answer);
    Ok(())
}

/// The last rule that names a device decides.
fn device_order(subject: &Subject<'_>) -> Result<()> {
    let rule =
        |allow: bool| json!({ "allow": allow, "type": "c", "major": 10, "minor": 229, "access": "rw" });
    for (last, allowed) in [(true, true), (false, false)] {
        let directory = subject.bundle.edited(|spec| {
            spec["process"]["args"] = json!(["sh", "-c", "exec 3<>/dev/listed"]);
            spec["linux"]["devices"] =
                json!([{ "path": "/dev/listed", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666 }]);
            spec["linux"]["resources"]["devices"] =
                json!([{ "allow": false, "access": "rwm" }, rule(!last), rule(last)]);
        })?;
        let answer = subject.runtime.call(&["run", "--bundle", &directory, "c1"])?;
        // There may be no driver, but that is asked only of who may ask.
        let permitted = !answer.stderr.contains("not permitted");
        subject.must("linux.device-rules", permitted == allowed, (last, answer));
    }
    Ok(())
}
