//! Hooks on the host: when they run, what they are told, and what their failure does.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Bundle, Census, Deadline, Runtime, alone, together};
use serde_json::{Value, json};

/// Appends its name and the state to a file of the bundle, and what network namespace it is in.
fn hook(bundle: &Bundle, name: &str) -> Value {
    let script = format!(
        "read -r state; echo \"{{\\\"hook\\\":\\\"{name}\\\",\\\"state\\\":$state,\\\"net\\\":\\\"$(readlink /proc/self/ns/net)\\\"}}\" >>{}/hooks",
        bundle.path().display()
    );
    json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": 20 }])
}

#[test]
fn hooks_run_in_order_with_the_state_and_in_their_namespaces() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let names = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let hooks: serde_json::Map<_, _> =
        names.iter().map(|name| ((*name).to_owned(), hook(&bundle, name))).collect();
    let bundle = bundle.edit(|spec| spec["hooks"] = Value::Object(hooks))?;
    let runv = Runtime::new(&bundle)?;
    let seen = || -> Result<Vec<Value>> {
        runv.read("hooks")
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    };
    runv.leave(&["create", "--pid-file", "pid", "c1"])?.expect(0)?;
    assert_eq!(seen()?.iter().map(|one| one["hook"].clone()).collect::<Vec<_>>(), names[..3]);
    runv.call(&["start", "c1"])?.expect(0)?;
    let container = std::fs::read_link(format!("/proc/{}/ns/net", runv.read("pid")))?;
    let host = std::fs::read_link("/proc/self/ns/net")?;
    runv.call(&["delete", "--force", "c1"])?.expect(0)?;

    let seen = seen()?;
    assert_eq!(seen.iter().map(|one| one["hook"].clone()).collect::<Vec<_>>(), names);
    let statuses: Vec<_> = seen.iter().map(|one| one["state"]["status"].clone()).collect();
    assert_eq!(statuses, ["creating", "creating", "creating", "running", "stopped"]);
    assert!(container != host);
    for one in &seen {
        let inside = one["hook"] == "createContainer";
        let expected = if inside { &container } else { &host };
        assert_eq!(one["net"].as_str(), expected.to_str(), "{one}");
        assert_eq!(one["state"]["id"], "c1");
        assert_eq!(one["state"]["bundle"].as_str(), bundle.path().to_str());
        if one["hook"] != "poststop" {
            assert_eq!(one["state"]["pid"].to_string(), runv.read("pid"));
        }
    }
    Ok(())
}

#[test]
fn a_hook_that_fails_or_hangs_ends_what_it_belongs_to() -> Result<()> {
    let _order = alone();
    let before = Census::take()?;
    for (list, script, seconds, text) in [
        ("prestart", "echo no luck >&2; exit 3", 20, "exit status 3, output: no luck"),
        ("createRuntime", "sleep 1000", 1, "hook ran past specified timeout of 1s"),
        ("createContainer", "kill -9 $$", 20, "signal 9"),
    ] {
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "timeout": seconds });
        let hooks = json!({ list: [hook] });
        let bundle = Bundle::new(&["true"])?.edit(|spec| spec["hooks"] = hooks)?;
        let runv = Runtime::new(&bundle)?;
        let refused = runv.leave(&["create", "c1"])?.refused(text)?;
        assert!(refused.stderr.contains(&format!("error running {list} hook #0")), "{refused:?}");
        assert_eq!(std::fs::read_dir(runv.root())?.count(), 0);
    }
    let hooks = json!({ "poststart": [{ "path": "/bin/false" }] });
    let bundle = Bundle::shell("sleep 1000")?.edit(|spec| spec["hooks"] = hooks)?;
    let runv = Runtime::new(&bundle)?;
    runv.leave(&["create", "c1"])?.expect(0)?;
    runv.call(&["start", "c1"])?.refused("error running poststart hook #0")?;
    assert_eq!(runv.state("c1")?["status"], "stopped");
    runv.call(&["delete", "c1"])?.expect(0)?;
    before.restored(Deadline::after(Duration::from_secs(2))?)
}

#[test]
fn hooks_of_the_container_run_in_it_when_it_is_started() -> Result<()> {
    let _order = together();
    let script = "(cat; echo; hostname) >/hook; exit $(cat /status)";
    let bundle = Bundle::shell("echo ran; sleep 1000")?.edit(|spec| {
        spec["hooks"] = json!({ "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"] }] });
        spec["hostname"] = json!("box");
        spec["annotations"] = json!({ "org.example": "yes" });
    })?;
    let runv = Runtime::new(&bundle)?;
    let (told, status) = (bundle.rootfs().join("hook"), bundle.rootfs().join("status"));
    std::fs::write(&status, "0")?;
    runv.leave(&["create", "c1"])?.expect(0)?;
    assert!(!told.exists());
    runv.call(&["start", "c1"])?.expect(0)?;
    let text = std::fs::read_to_string(&told)?;
    let (state, hostname) = text.split_once('\n').context("one line")?;
    let state: Value = serde_json::from_str(state)?;
    let expected = [("id", json!("c1")), ("pid", json!(1)), ("status", json!("created"))];
    assert!(expected.iter().all(|(name, value)| &state[name] == value), "{state}");
    assert_eq!((&state["annotations"]["org.example"], hostname), (&json!("yes"), "box\n"));

    // Both containers have the same file for their output.
    runv.wait_for_text("out", "ran")?;
    runv.call(&["delete", "--force", "c1"])?.expect(0)?;
    std::fs::write(&status, "3")?;
    runv.leave(&["create", "c2"])?.expect(0)?;
    runv.call(&["start", "c2"])?.refused("error running startContainer hook #0: exit status 3")?;
    runv.wait_for_status("c2", "stopped")?;
    assert!(!runv.read("out").contains("ran"));
    Ok(())
}

/// What the hook puts into the container's folder is nothing that the runtime would remove.
#[test]
fn a_clean_up_that_fails_does_not_hide_the_error_before_it() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["true"])?;
    let script = format!("touch {}/root/c1/foreign; echo no luck >&2; exit 3", bundle.path().display());
    let hooks = json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", script] }] });
    let bundle = bundle.edit(|spec| spec["hooks"] = hooks)?;
    let runv = Runtime::new(&bundle)?;
    let refused = runv.leave(&["--log", "log", "create", "c1"])?.refused("no luck")?;
    let lines: Vec<&str> = refused.stderr.lines().collect();
    ensure!(
        matches!(lines[..], [error, left] if error.ends_with("no luck")
        && left.starts_with("runv: warning: cannot clean up: cannot remove ")),
        "{refused:?}"
    );
    let log = runv.read("log");
    ensure!(log.lines().count() == 1 && log.contains("no luck"), "{log}");
    Ok(())
}
