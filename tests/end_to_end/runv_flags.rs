//! The command line of `runv`: runc's flags in the forms that engines write.

use anyhow::{Context, Result};
use e2e::{Bundle, Runtime, together};
use serde_json::Value;

#[test]
fn flags_are_read_as_go_reads_them() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["true"])?;
    let runv = Runtime::new(&bundle)?;
    let create = [
        "--log=log.json",
        "-log-format",
        "json",
        "--criu",
        "/usr/bin/criu",
        "--rootless=auto",
        "--cgroup-manager",
        "cgroupfs",
        "create",
        "-no-pivot",
        "--no-new-keyring=true",
        "--preserve-fds=0",
        "-b=.",
        "-pid-file",
        "pid",
        "c1",
    ];
    runv.leave(&create)?.expect(0)?;
    assert_eq!(runv.read("log.json"), "");
    runv.call(&["--systemd-cgroup", "delete", "-force", "c1"])?.expect(0)?;
    Ok(())
}

#[test]
fn versions_and_features_can_be_asked_for() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["true"])?;
    let runv = Runtime::new(&bundle)?;
    let version = runv.call(&["--version"])?.expect(0)?.stdout;
    assert!(version.starts_with("runv version ") && version.contains("\nspec: 1."), "{version}");
    let features: Value =
        serde_json::from_str(&runv.call(&["features"])?.expect(0)?.stdout).context("no JSON")?;
    assert!(
        features["hooks"].as_array().is_some_and(|hooks| hooks.contains(&"prestart".into())),
        "{features}"
    );
    for list in ["/mountOptions", "/linux/capabilities", "/linux/seccomp/actions", "/linux/seccomp/archs"] {
        assert!(
            features.pointer(list).and_then(Value::as_array).is_some_and(|all| !all.is_empty()),
            "{list}"
        );
    }
    assert_eq!(features["annotations"]["io.runv.allow_annotations"], "cpus,memory,rootfs_upper");
    std::fs::remove_file(bundle.config())?;
    runv.call(&["spec"])?.expect(0)?;
    assert!(bundle.config().exists());
    Ok(())
}

/// podman reads no stderr of `state` and gives it hardly an environment, others close stdin.
#[test]
fn a_caller_may_have_no_environment_and_no_streams() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    let call = |script: &str, arguments: &[&str]| -> Result<String> {
        let mut words = runv.words(arguments)?;
        words.splice(0..0, ["-c", script, "sh"].map(Into::into));
        let mut command = std::process::Command::new("/bin/sh");
        command.args(words).current_dir(bundle.path()).env_clear().env("XDG_RUNTIME_DIR", "");
        let output = command.output().context("cannot start a shell")?;
        assert!(output.status.success(), "{script} {arguments:?}: {output:?} {}", runv.read("err"));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    call("unset PATH HOME; exec \"$@\" <&- >out 2>err", &["create", "--pid-file", "pid", "c1"])?;
    call("exec \"$@\" <&- >&- 2>&-", &["start", "c1"])?;
    for arguments in [&["state", "c1"][..], &["list", "--format", "json"], &["ps", "--format", "json", "c1"]]
    {
        let text = call("unset PATH HOME; exec \"$@\" <&- 2>&-", arguments)?;
        serde_json::from_str::<Value>(&text).with_context(|| format!("{arguments:?}: {text}"))?;
    }
    // An error that cannot be told is one all the same.
    call("\"$@\" 2>&-; test $? = 1", &["state", "none"])?;
    call("exec \"$@\" <&- >&- 2>&-", &["delete", "--force", "c1"])?;
    Ok(())
}

/// podman takes a successful `checkpoint --help` for a promise.
#[test]
fn what_is_not_there_is_not_promised() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["true"])?;
    let runv = Runtime::new(&bundle)?;
    for command in
        [&["checkpoint", "--help"][..], &["restore", "--detach", "-no-subreaper", "--bundle", ".", "c1"]]
    {
        runv.call(command)?.refused("not supported yet")?;
    }
    runv.call(&["create", "--unknown", "c1"])?.refused("--unknown")?;
    runv.call(&["unknown"])?.refused("unknown")?;
    Ok(())
}

/// There is no systemd here: what it would have been asked for is checked, and nothing is left.
#[test]
fn without_systemd_its_cgroups_are_refused() -> Result<()> {
    let _order = together();
    for (path, refusal) in [
        ("/runv-test", "expected cgroupsPath to be of format"),
        ("machine.slice:runv-test:c1", "cannot reach systemd over D-Bus"),
    ] {
        let bundle = Bundle::new(&["true"])?.edit(|spec| spec["linux"]["cgroupsPath"] = path.into())?;
        let runv = Runtime::new(&bundle)?;
        runv.leave(&["--systemd-cgroup", "create", "c1"])?.refused(refusal)?;
        runv.call(&["state", "c1"])?.refused("container does not exist")?;
    }
    Ok(())
}
