//! runtime.md: the state, the life cycle and the operations.

use anyhow::{Context, Result};
use e2e::Bundle;

use crate::{Subject, both, cgroups};

/// Says that it runs, and ends when it is told.
const SCRIPT: &str = "trap 'echo term; exit 3' TERM; echo runs; while :; do sleep 0.05; done";

#[test]
fn life() -> Result<()> {
    both(
        "life",
        |_| bundle(),
        |subject| {
            what_is_not_there(subject)?;
            let runtime = &subject.runtime;
            let created = runtime.leave(&["create", "--bundle", ".", "--pid-file", "pid", "c1"])?;
            subject.must("create.makes", created.code == 0, &created);
            state(subject, "created")?;
            created_is_not_started(subject)?;
            names(subject)?;
            let start = runtime.call(&["start", "c1"])?;
            subject.must("start.runs-code", start.code == 0, &start);
            runtime.wait_for_text("out", "runs")?;
            subject.must(
                "create.config-frozen",
                !runtime.read("out").contains("changed"),
                runtime.read("out"),
            );
            state(subject, "running")?;
            running(subject)?;
            let kill = runtime.call(&["kill", "c1", "TERM"])?;
            runtime.wait_for_status("c1", "stopped")?;
            subject.must("kill.sends", kill.code == 0 && runtime.read("out").contains("term"), kill);
            state(subject, "stopped")?;
            stopped(subject)?;
            delete(subject)
        },
    )
}

fn bundle() -> Result<Bundle> {
    let bundle = Bundle::shell(SCRIPT)?;
    bundle.edit(|spec| spec["annotations"] = serde_json::json!({ "com.example.key": "value" }))
}

fn what_is_not_there(subject: &Subject<'_>) -> Result<()> {
    for (verb, nameless, unknown) in [
        ("state", "state.needs-id", "state.unknown"),
        ("start", "start.needs-id", "start.unknown"),
        ("kill", "kill.needs-id", "kill.unknown"),
        ("delete", "delete.needs-id", "delete.unknown"),
    ] {
        let answer = subject.runtime.call(&[verb])?;
        subject.must(nameless, answer.code != 0, answer);
        let answer = subject.runtime.call(&[verb, "none"])?;
        subject.must(unknown, answer.code != 0, answer);
    }
    let answer = subject.runtime.leave(&["create"])?;
    subject.must("create.needs-id", answer.code != 0, answer);
    let answer = subject.runtime.leave(&["create", "--bundle", "/nonexistent", "c1"])?;
    subject.must("create.needs-bundle", answer.code != 0 && subject.knows_nothing_of("c1")?, answer);
    Ok(())
}

/// The document, in the given status.
fn state(subject: &Subject<'_>, status: &str) -> Result<()> {
    let state = subject.runtime.state("c1")?;
    subject.must("state.status", state["status"] == status, &state);
    let texts = ["ociVersion", "id", "status", "bundle"].map(|field| state[field].is_string());
    let fields = texts == [true; 4] && state["pid"].is_u64() && state["annotations"].is_object();
    subject.must("state.fields", fields && state["id"] == "c1", &state);
    let bundle = state["bundle"].as_str().map(std::path::Path::new);
    subject.must("state.bundle", bundle == Some(subject.bundle.path()), &state);
    subject.must("state.annotations", state["annotations"]["com.example.key"] == "value", &state);
    if status != "stopped" {
        let is_there = std::path::Path::new("/proc").join(state["pid"].to_string()).exists();
        let written: u64 = subject.runtime.read("pid").parse().context("no pid")?;
        subject.must("state.pid", is_there && state["pid"] == written, &state);
    }
    Ok(())
}

fn created_is_not_started(subject: &Subject<'_>) -> Result<()> {
    subject.must("create.code-waits", subject.runtime.read("out").is_empty(), subject.runtime.read("out"));
    let cgroups = cgroups::of(subject.bundle)?;
    subject.must("create.resources", !cgroups.is_empty(), &cgroups);
    let text = std::fs::read_to_string(subject.bundle.config()).context("config.json")?;
    std::fs::write(subject.bundle.config(), text.replace("echo runs", "echo changed")).context("config.json")
}

/// Those that cannot be given to another container.
fn names(subject: &Subject<'_>) -> Result<()> {
    let before = subject.runtime.state("c1")?;
    // As the first has files named `out` and `err` open, not with those.
    let again = subject.runtime.call(&["create", "c1"])?;
    let unchanged = subject.runtime.state("c1")? == before;
    subject.must("create.unique", again.code != 0 && unchanged, again);
    for id in ["", "../c2", "a/b", "a b"] {
        let answer = subject.runtime.call(&["create", id])?;
        subject.must("create.valid-id", answer.code != 0, answer);
    }
    Ok(())
}

fn running(subject: &Subject<'_>) -> Result<()> {
    let before = subject.runtime.state("c1")?;
    let again = subject.runtime.call(&["start", "c1"])?;
    let unchanged = subject.runtime.state("c1")? == before;
    subject.must("start.twice", again.code != 0 && unchanged, again);
    let delete = subject.runtime.call(&["delete", "c1"])?;
    let unchanged = subject.runtime.state("c1")? == before;
    subject.must("delete.running", delete.code != 0 && unchanged, delete);
    subject.must("state.created", before["created"].is_string(), &before);
    Ok(())
}

fn stopped(subject: &Subject<'_>) -> Result<()> {
    for (verb, id) in [("kill", "kill.stopped"), ("start", "start.stopped")] {
        let answer = subject.runtime.call(&[verb, "c1"])?;
        let status = subject.runtime.state("c1")?["status"].clone();
        subject.must(id, answer.code != 0 && status == "stopped", answer);
    }
    Ok(())
}

fn delete(subject: &Subject<'_>) -> Result<()> {
    let answer = subject.runtime.call(&["delete", "c1"])?;
    subject.must("delete.undoes", answer.code == 0 && subject.knows_nothing_of("c1")?, answer);
    let left = subject.bundle.rootfs().join("bin/busybox").exists() && subject.bundle.config().exists();
    subject.must("delete.others-stay", left, "the bundle");
    let again = subject.runtime.leave(&["create", "c1"])?;
    subject.must("delete.name-is-free", again.code == 0, again);
    let status = subject.runtime.state("c1")?["status"].clone();
    let deleted = subject.runtime.call(&["delete", "c1"])?;
    subject.must("delete.created", deleted.code != 0 && status == "created", deleted);
    Ok(())
}
