//! `sandbox check`, `sandbox spec`, help, and the configuration file.

use std::fs;

use anyhow::{Context, Result};
use e2e::{Bundle, Sandbox, Setup, together};
use serde_json::Value;

#[test]
fn check_says_that_sandboxes_can_run_here() -> Result<()> {
    let _order = together();
    let finished = Sandbox::command(&["check"]).finish()?.expect_code(0)?;
    let text = finished.text().to_lowercase();
    for subject in ["kvm", "qemu", "vhost", "tun", "cgroup", "kernel", "initrd"] {
        assert!(text.contains(subject), "nothing about {subject} in {text}");
    }
    Ok(())
}

#[test]
fn check_speaks_json() -> Result<()> {
    let _order = together();
    let finished = Sandbox::command(&["check", "--json"]).finish()?.expect_code(0)?;
    let report: Value = serde_json::from_slice(&finished.stdout).context("not JSON")?;
    assert_eq!(report["can_run"], true, "{report}");
    assert!(["builtin", "qemu"].contains(&report["driver"].as_str().unwrap_or_default()), "{report}");
    let found = |name: &str| {
        let checks = report["checks"].as_array().into_iter().flatten();
        checks.clone().find(|check| check["name"] == name).context(name.to_owned())
    };
    for name in ["user", "kvm", "qemu", "vhost-vsock", "vhost-net", "tun", "cgroup", "kernel", "initrd"] {
        let check = found(name)?;
        assert_ne!(check["status"], "fail", "{check}");
        assert_eq!(check["status"] == "ok", check["remedy"].is_null(), "a warning has a remedy: {check}");
    }
    let kernel = found("kernel")?["found"].to_string();
    assert!(kernel.contains("vmlinux, Linux 6.12."), "{kernel}");
    // Where KVM opens, its speed is told.
    let kvm = found("kvm")?["found"].to_string();
    let opens = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    assert_eq!(
        kvm.contains("API version 12") && kvm.contains("million instructions a second"),
        opens,
        "{kvm}"
    );
    Ok(())
}

#[test]
fn spec_writes_a_config_that_runs_and_overwrites_nothing() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["true"])?;
    fs::remove_file(bundle.config())?;
    let path = bundle.path().to_string_lossy().into_owned();
    Sandbox::command(&["spec", "--bundle", &path]).finish()?.expect_code(0)?;
    let written = fs::read(bundle.config())?;
    let mut spec: Value = serde_json::from_slice(&written).context("not JSON")?;

    let refused = Sandbox::command(&["spec", "--bundle", &path]).finish()?.expect_code(1)?;
    assert!(refused.errors().contains("config.json"), "{}", refused.errors());
    assert_eq!(fs::read(bundle.config())?, written);

    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["echo", "it runs"]);
    fs::write(bundle.config(), serde_json::to_vec(&spec)?)?;
    let finished = Sandbox::run(&bundle)?.finish()?.expect_code(0)?;
    assert_eq!(finished.text(), "it runs\n");
    Ok(())
}

#[test]
fn help_names_every_option() -> Result<()> {
    let _order = together();
    let finished = Sandbox::command(&["run", "--help"]).finish()?.expect_code(0)?;
    for option in ["--hypervisor", "--kernel", "--initrd", "--memory", "--cpus", "--debug", "--config"] {
        assert!(finished.text().contains(option), "{option} in {}", finished.text());
    }
    Ok(())
}

#[test]
fn options_win_over_the_configuration_file() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["nproc"])?;
    let config = bundle.path().join("other.toml");
    let driver = Setup::get()?.hypervisor().name();
    fs::write(&config, format!("hypervisor = \"{driver}\"\ncpus = 2\nsoftware_emulation = \"allow\"\n"))?;
    let (config, path) =
        (config.to_string_lossy().into_owned(), bundle.path().to_string_lossy().into_owned());
    let by_file = Sandbox::command(&["run", "--config", &config, &path]).finish()?.expect_code(0)?;
    let by_option =
        Sandbox::command(&["run", "--config", &config, "--cpus", "1", &path]).finish()?.expect_code(0)?;
    assert_eq!((by_file.text().as_str(), by_option.text().as_str()), ("2\n", "1\n"));
    Ok(())
}
