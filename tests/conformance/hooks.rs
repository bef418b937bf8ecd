//! config.md, "POSIX-platform Hooks", and the life cycle of runtime.md with them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use e2e::Bundle;
use serde_json::{Value, json};

use crate::{Subject, both};

const ALL: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A hook that writes its name, its mount namespace and the state that it is given into a file.
fn hook(name: &str, file: &str, and_then: &str) -> Value {
    let script =
        format!("echo {name} $(readlink /proc/self/ns/mnt) $(cat | tr -d '\\n') >>{file}; {and_then}");
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 20 })
}

/// Where the hooks of the host write.
fn log_of(bundle: &Bundle) -> String {
    bundle.path().join("hooks").to_string_lossy().into_owned()
}

/// Two hooks of each kind.
fn all_hooks(log: &str) -> Value {
    let mut hooks = json!({});
    for kind in ALL {
        let file = if kind == "startContainer" { "/hooks" } else { log };
        hooks[kind] = [1, 2].map(|number| hook(&format!("{kind}-{number}"), file, "true")).into();
    }
    hooks
}

#[test]
fn hooks() -> Result<()> {
    let bundle = |_| {
        let bundle = Bundle::shell("echo process >>/hooks; sleep 1000")?;
        let log = log_of(&bundle);
        bundle.edit(|spec| spec["hooks"] = all_hooks(&log))
    };
    both("hooks", bundle, |subject| {
        in_order(subject)?;
        for (kind, id) in [
            ("prestart", "hooks.prestart-fails"),
            ("createRuntime", "hooks.create-runtime-fails"),
            ("createContainer", "hooks.create-container-fails"),
            ("startContainer", "hooks.start-container-fails"),
            ("poststart", "hooks.poststart-fails"),
            ("poststop", "hooks.poststop-fails"),
        ] {
            failing(subject, kind, id)?;
        }
        Ok(())
    })
}

/// Lines of a log: name, namespace, state.
fn lines(file: &Path) -> Vec<(String, String, Value)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let parse = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let (name, namespace) = (words.next()?, words.next().unwrap_or_default());
        Some((name, namespace, serde_json::from_str(&words.next().unwrap_or_default()).unwrap_or_default()))
    };
    text.lines().filter_map(parse).collect()
}

fn names(lines: &[(String, String, Value)]) -> Vec<&str> {
    lines.iter().map(|(name, ..)| name.as_str()).collect()
}

fn in_order(subject: &Subject<'_>) -> Result<()> {
    let (runtime, log) = (&subject.runtime, log_of(subject.bundle));
    let (log, inner) = (Path::new(&log), subject.bundle.rootfs().join("hooks"));
    runtime.leave(&["create", "c1"])?.expect(0)?;
    let created = lines(log);
    let kinds = [
        "prestart-1",
        "prestart-2",
        "createRuntime-1",
        "createRuntime-2",
        "createContainer-1",
        "createContainer-2",
    ];
    let all = names(&created).starts_with(&kinds);
    for id in ["hooks.prestart", "hooks.create-runtime", "hooks.create-container"] {
        subject.must(id, all, &created);
    }
    subject.must("hooks.start-container", !inner.exists(), "a startContainer hook by create");
    runtime.call(&["start", "c1"])?.expect(0)?;
    let started = lines(log);
    let after = names(&started).split_off(kinds.len().min(started.len()));
    let after_start = created.len() == kinds.len() && after == ["poststart-1", "poststart-2"];
    subject.must("hooks.poststart", after_start, (&created, &started));
    e2e::Deadline::generous()?.wait_for("the process", || Ok((lines(&inner).len() >= 3).then_some(())))?;
    let inside = lines(&inner);
    let inside_names = names(&inside) == ["startContainer-1", "startContainer-2", "process"];
    subject.must("hooks.start-container", inside_names, &inside);
    runtime.call(&["kill", "c1", "KILL"])?.expect(0)?;
    runtime.wait_for_status("c1", "stopped")?;
    let before = lines(log).len();
    runtime.call(&["delete", "c1"])?.expect(0)?;
    let deleted = lines(log);
    let after = names(&deleted).split_off(before.min(deleted.len()));
    subject.must("hooks.poststop", after == ["poststop-1", "poststop-2"], &deleted);
    subject.must("hooks.order", all && inside_names && after.len() == 2, (&deleted, &inside));
    namespaces_and_states(subject, &deleted, &inside)
}

fn namespaces_and_states(
    subject: &Subject<'_>,
    outside: &[(String, String, Value)],
    inside: &[(String, String, Value)],
) -> Result<()> {
    let own = fs::read_link("/proc/self/ns/mnt").context("no namespace")?;
    for (name, namespace, state) in outside.iter().chain(inside.iter().take(2)) {
        let in_the_hosts = Path::new(namespace) == own;
        match name.split('-').next() {
            Some("createContainer") => {
                subject.must("hooks.create-container-namespace", !in_the_hosts, namespace)
            }
            // Its path and its log were the container's.
            Some("startContainer") => subject.must("hooks.start-container-namespace", true, ()),
            _ => subject.must("hooks.runtime-namespace", in_the_hosts, (name, namespace)),
        }
        let told = state["id"] == "c1" && state["ociVersion"].is_string() && state["bundle"].is_string();
        subject.must("hooks.state", told && state["status"].is_string(), (name, state));
    }
    Ok(())
}

fn failing(subject: &Subject<'_>, kind: &'static str, id: &'static str) -> Result<()> {
    let log = subject.bundle.path().join(format!("failing-{kind}"));
    let file = log.to_string_lossy().into_owned();
    let directory = subject.bundle.edited(|spec| {
        spec["hooks"] = json!({ "poststop": [hook("poststop", &file, "true")] });
        let place = if kind == "startContainer" { "/hooks" } else { &file };
        let fails = hook("fails", place, "exit 5");
        // One after the one that fails is called all the same.
        spec["hooks"][kind] =
            if kind == "poststop" { json!([fails, hook("poststop", &file, "true")]) } else { json!([fails]) };
    })?;
    let create = subject.runtime.leave(&["create", "--bundle", &directory, "c1"])?;
    let mut seen = None;
    let holds = match kind {
        "prestart" | "createRuntime" | "createContainer" => {
            create.code != 0 && subject.knows_nothing_of("c1")?
        }
        "poststop" => {
            create.code == 0
                && subject.runtime.call(&["delete", "--force", "c1"])?.code == 0
                && subject.knows_nothing_of("c1")?
        }
        _ => {
            let start = subject.runtime.call(&["start", "c1"])?;
            let state = subject.runtime.call(&["state", "c1"])?;
            let ended = state.code != 0 || state.stdout.contains("\"stopped\"");
            subject.runtime.call(&["delete", "--force", "c1"])?.expect(0)?;
            let holds = create.code == 0 && start.code != 0 && ended;
            seen = Some((start, state));
            holds
        }
    };
    subject.must(id, holds, (kind, create, seen));
    let names = lines(&log).iter().map(|(name, ..)| name.clone()).collect::<Vec<_>>();
    subject.must("hooks.poststop-always", names.contains(&"poststop".to_owned()), (kind, names));
    Ok(())
}
