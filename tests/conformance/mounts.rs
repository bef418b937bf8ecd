//! config.md, "Root" and "Mounts".

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;
use e2e::{Bundle, Program};
use serde_json::{Value, json};

use crate::both;

/// What is seen of a mount in /proc/self/mountinfo (proc(5)).
struct Seen<'a> {
    attributes: Vec<&'a str>,
    propagation: &'a str,
    superblock: Vec<&'a str>,
}

impl<'a> Seen<'a> {
    /// With its place.
    fn parse(line: &'a str) -> Option<(&'a str, Self)> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.splitn(7, ' ').skip(4);
        let (place, attributes) = (fields.next()?, fields.next()?.split(',').collect());
        let superblock = file_system.split(' ').nth(2)?.split(',').collect();
        Some((place, Self { attributes, propagation: fields.next().unwrap_or_default(), superblock }))
    }

    fn has(&self, flag: &str) -> bool {
        self.attributes.contains(&flag) || self.superblock.contains(&flag)
    }
}

/// Options of a tmpfs, and flags that it has (or, with `!`, has not).
const OPTIONS: &[(&str, &[&str], &[&str])] = &[
    ("mount.access", &["ro"], &["ro"]),
    ("mount.access", &["ro", "rw"], &["!ro"]),
    ("mount.suid", &["nosuid"], &["nosuid"]),
    ("mount.suid", &["nosuid", "suid"], &["!nosuid"]),
    ("mount.dev", &["nodev"], &["nodev"]),
    ("mount.dev", &["nodev", "dev"], &["!nodev"]),
    ("mount.exec", &["noexec"], &["noexec"]),
    ("mount.exec", &["noexec", "exec"], &["!noexec"]),
    ("mount.atime", &["noatime"], &["noatime"]),
    ("mount.atime", &["noatime", "atime"], &["!noatime"]),
    ("mount.atime", &["nodiratime"], &["nodiratime"]),
    ("mount.atime", &["nodiratime", "diratime"], &["!nodiratime"]),
    ("mount.atime", &["relatime"], &["relatime"]),
    ("mount.atime", &["relatime", "norelatime"], &["!noatime"]),
    ("mount.atime", &["strictatime"], &["!relatime", "!noatime"]),
    ("mount.atime", &["strictatime", "nostrictatime"], &["!noatime"]),
    ("mount.sync", &["sync"], &["sync"]),
    ("mount.sync", &["dirsync"], &["dirsync"]),
    ("mount.sync", &["sync", "async"], &["!sync"]),
    ("mount.no-effect", &["defaults", "silent"], &["rw"]),
    ("mount.no-effect", &["loud"], &["rw"]),
    ("mount.iversion", &["iversion"], &["rw"]),
    ("mount.iversion", &["iversion", "noiversion"], &["rw"]),
    ("mount.lazytime", &["lazytime"], &["lazytime"]),
    ("mount.lazytime", &["lazytime", "nolazytime"], &["!lazytime"]),
];

/// Options of a bind mount, and what its propagation begins with.
const PROPAGATION: &[(&str, &str)] = &[
    ("private", ""),
    ("rprivate", ""),
    ("shared", "shared:"),
    ("rshared", "shared:"),
    ("slave", ""),
    ("rslave", ""),
    ("unbindable", "unbindable"),
    ("runbindable", "unbindable"),
];

/// What runc 1.1 takes for a parameter of the file system, so that the mount, and with it the container, fails.
const NOT_RUNCS: &[&str] = &["defaults", "loud", "lazytime", "nolazytime"];

#[test]
fn mounts() -> Result<()> {
    both("mounts", bundle, |subject| {
        let answer = subject.runtime.call(&["run", "c1"])?;
        subject.must("mount.all", answer.code == 0, &answer);
        let table: BTreeMap<&str, Seen<'_>> = answer.stdout.lines().filter_map(Seen::parse).collect();
        for (index, (id, options, flags)) in OPTIONS.iter().enumerate() {
            let seen = table.get(format!("/m/{index}").as_str());
            let holds = flags.iter().all(|flag| match flag.strip_prefix('!') {
                Some(flag) => seen.is_some_and(|seen| !seen.has(flag)),
                None => seen.is_some_and(|seen| seen.has(flag)),
            });
            subject.must(id, holds, (options, seen.map(|seen| (&seen.attributes, &seen.superblock))));
        }
        for (option, expected) in PROPAGATION {
            let seen = table.get(format!("/m/{option}").as_str()).map(|seen| seen.propagation);
            let holds = seen.is_some_and(|seen| {
                if expected.is_empty() { !seen.contains("shared") } else { seen.starts_with(expected) }
            });
            subject.must("mount.propagation", holds, (option, seen));
        }
        let says = |text: &str| answer.stdout.lines().any(|line| line == text);
        subject.must("mount.order", table.contains_key("/m/0"), &answer);
        subject.must("mount.bind", says("bound") && says("bound below"), &answer);
        subject.must("mount.relative", table.contains_key("/m/relative"), &answer);
        subject.must("config.root-readonly", says("root is read-only"), &answer);
        subject.must("config.oom-score-unset", says("score 0"), &answer);
        let remounted = table.get("/m/again").map(|seen| (seen.has("ro"), &seen.attributes));
        subject.must("mount.remount", remounted.as_ref().is_some_and(|(read_only, _)| *read_only), remounted);
        Ok(())
    })
}

const SCRIPT: &str = "cat /proc/self/mountinfo /m/bind/file /m/rbind/below/file
    touch /file 2>/dev/null || echo root is read-only
    echo score $(cat /proc/self/oom_score_adj)";

fn bundle(program: Program) -> Result<Bundle> {
    let bundle = Bundle::shell(SCRIPT)?;
    fs::create_dir(bundle.rootfs().join("m"))?;
    let source = bundle.host_directory("source")?;
    fs::create_dir(source.join("below"))?;
    fs::write(source.join("file"), "bound\n")?;
    fs::write(source.join("below/file"), "bound below\n")?;
    let tmpfs = |place: &str, options: &[&str]| json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": options });
    let bind = |place: &str, options: &[&str]| json!({ "destination": place, "type": "none", "source": source, "options": options });
    let mut all = vec![tmpfs("/m", &[])];
    for (index, (_, options, _)) in OPTIONS.iter().enumerate() {
        let has_it = program == Program::Runv || !options.iter().any(|option| NOT_RUNCS.contains(option));
        if has_it {
            all.push(tmpfs(&format!("/m/{index}"), options));
        }
    }
    all.extend(PROPAGATION.iter().map(|(option, _)| bind(&format!("/m/{option}"), &["bind", option])));
    all.push(bind("/m/bind", &["bind"]));
    all.push(bind("/m/rbind", &["rbind"]));
    all.push(tmpfs("m/relative", &[]));
    all.push(tmpfs("/m/again", &["nosuid"]));
    all.push(tmpfs("/m/again", &["remount", "ro"]));
    bundle.edit(|spec| {
        spec["root"]["readonly"] = json!(true);
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.extend::<Vec<Value>>(all);
        }
    })
}
