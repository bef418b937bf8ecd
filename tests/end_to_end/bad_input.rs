//! Bad input: one clear line, the right status, and nothing left.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use e2e::{Bundle, Census, Deadline, Hypervisor, Sandbox, Setup, alone, together};
use serde_json::{Value, json};

/// The error is one line that names cause and object, with the status.
fn refused(name: &str, sandbox: &Sandbox, status: i32, fragments: &[&str]) -> Result<()> {
    let finished =
        sandbox.finish().and_then(|finished| finished.expect_code(status)).context(name.to_owned())?;
    let errors = finished.errors();
    assert_eq!(errors.lines().count(), 1, "{name}: one line: {errors:?}");
    assert!(errors.starts_with("sandbox: error: "), "{name}: {errors:?}");
    for fragment in fragments {
        assert!(errors.contains(fragment), "{name}: no {fragment:?} in {errors:?}");
    }
    assert_eq!(finished.text(), "", "{name}");
    Ok(())
}

/// What is wrong with `config.json`, and what the error has to name.
type SpecCase = (&'static str, fn(&mut Value), &'static [&'static str]);

const SPECS: &[SpecCase] = &[
    ("no args", |spec| spec["process"]["args"] = json!([]), &["process.args"]),
    ("no process", |spec| spec["process"] = Value::Null, &["process"]),
    ("empty first argument", |spec| spec["process"]["args"] = json!([""]), &["process.args"]),
    ("relative cwd", |spec| spec["process"]["cwd"] = json!("bin"), &["process.cwd"]),
    ("old version", |spec| spec["ociVersion"] = json!("0.6.0"), &["ociVersion", "0.6.0"]),
    ("future version", |spec| spec["ociVersion"] = json!("2.0.0"), &["ociVersion", "2.0.0"]),
    ("no version", |spec| spec["ociVersion"] = json!("next"), &["ociVersion", "next"]),
    ("missing rootfs", |spec| spec["root"]["path"] = json!("elsewhere"), &["elsewhere", "root"]),
    ("rootfs is a file", |spec| spec["root"]["path"] = json!("config.json"), &["config.json", "directory"]),
    ("no root", |spec| spec["root"] = Value::Null, &["root"]),
    ("variable without =", |spec| spec["process"]["env"] = json!(["PATH=/bin", "WORD"]), &["process.env[1]"]),
    ("NUL in an argument", |spec| spec["process"]["args"] = json!(["echo", "a\u{0}b"]), &["process.args"]),
    (
        "bind source is missing",
        |spec| {
            spec["mounts"] =
                json!([{ "type": "bind", "source": "/no/such", "destination": "/m", "options": ["bind"] }])
        },
        &["/no/such"],
    ),
    (
        "unknown mount type",
        |spec| spec["mounts"] = json!([{ "type": "hovercraft", "source": "x", "destination": "/m" }]),
        &["hovercraft"],
    ),
    (
        "relative mount destination",
        |spec| spec["mounts"] = json!([{ "type": "tmpfs", "source": "x", "destination": "m/../.." }]),
        &["m/../.."],
    ),
    (
        "AppArmor profile of the user's own",
        |spec| spec["process"]["apparmorProfile"] = json!("mine"),
        &["process.apparmorProfile", "mine"],
    ),
    (
        "seccomp listener",
        |spec| spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_NOTIFY" }),
        &["linux.seccomp", "SCMP_ACT_NOTIFY"],
    ),
    ("wrong type", |spec| spec["process"]["cwd"] = json!(7), &["config.json", "line"]),
];

#[test]
fn in_config_json_is_found_before_anything_is_started() -> Result<()> {
    let _order = together();
    for (name, change, fragments) in SPECS {
        let bundle = Bundle::new(&["true"])?.edit(change)?;
        refused(name, &Sandbox::run(&bundle)?, 1, fragments)?;
    }
    Ok(())
}

#[test]
fn no_bundle_no_config_or_broken_json() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["true"])?;
    let sandbox = Sandbox::run(&bundle)?;
    fs::write(bundle.config(), "{\n  \"ociVersion\": \"1.0.2\",\n  \"process\": {,\n}")?;
    refused("broken JSON", &sandbox, 1, &["config.json", "line 3"])?;
    fs::write(bundle.config(), "")?;
    refused("empty file", &sandbox, 1, &["config.json"])?;
    fs::remove_file(bundle.config())?;
    refused("no config.json", &sandbox, 1, &["config.json", "sandbox spec"])?;
    refused("no bundle", &Sandbox::command(&["run", "/no/such/bundle"]), 1, &["/no/such/bundle"])?;
    Ok(())
}

#[test]
fn an_executable_that_cannot_be_run() -> Result<()> {
    let _order = together();
    let case = |name: &str, executable: &str, status: i32| {
        let bundle = Bundle::new(&[executable])?;
        fs::write(bundle.rootfs().join("bin/plain"), "text")?;
        fs::write(bundle.rootfs().join("bin/garbage"), "\u{7f}garbage")?;
        fs::set_permissions(bundle.rootfs().join("bin/garbage"), fs::Permissions::from_mode(0o755))?;
        refused(name, &Sandbox::run(&bundle)?, status, &[executable])
    };
    case("not found in PATH", "no-such-program", 127)?;
    case("path not found", "/no/such/program", 127)?;
    case("not executable", "/bin/plain", 126)?;
    case("a directory", "/bin", 126)?;
    case("no known format", "/bin/garbage", 126)?;
    Ok(())
}

#[test]
fn an_unknown_user() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["true"])?
        .edit(|spec| spec["process"]["user"] = json!({ "uid": 0, "gid": 0, "username": "nobody-here" }))?;
    refused("unknown user", &Sandbox::run(&bundle)?, 1, &["nobody-here"])
}

#[test]
fn in_options() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["true"])?;
    let path = bundle.path().to_string_lossy().into_owned();
    let text = bundle.path().join("text");
    fs::write(&text, "not a kernel, but long enough to hold the header of one: ".repeat(10))?;
    let base = || Sandbox::run(&bundle);
    refused("kernel not an ELF", &base()?.option("--kernel", &text), 1, &["text", "ELF"])?;
    refused("kernel missing", &base()?.option("--kernel", "/no/vmlinux"), 1, &["/no/vmlinux"])?;
    refused("initrd missing", &base()?.option("--initrd", "/no/initrd"), 1, &["/no/initrd"])?;
    refused("memory too small", &base()?.option("--memory", "8"), 1, &["memory", "8"])?;
    let config = bundle.path().join("unknown.toml");
    fs::write(&config, "cpus = 1\nvcpus = 2\n")?;
    let config_path = config.to_string_lossy().into_owned();
    refused(
        "unknown key",
        &Sandbox::command(&["run", "--config", &config_path, &path]),
        1,
        &["vcpus", "unknown.toml"],
    )?;
    fs::write(&config, "cpus = \"many\"\n")?;
    refused(
        "wrong value",
        &Sandbox::command(&["run", "--config", &config_path, &path]),
        1,
        &["cpus", "unknown.toml"],
    )?;
    Ok(())
}

#[test]
fn emulation_that_is_denied() -> Result<()> {
    let _order = together();
    let bundle = Bundle::new(&["true"])?;
    let config = bundle.path().join("deny.toml");
    let driver = Setup::get()?.hypervisor();
    fs::write(&config, format!("hypervisor = \"{}\"\nsoftware_emulation = \"deny\"\n", driver.name()))?;
    let (config, path) =
        (config.to_string_lossy().into_owned(), bundle.path().to_string_lossy().into_owned());
    let sandbox = Sandbox::command(&["run", "--config", &config, &path]);
    // The embedded VMM never emulates; QEMU does where KVM does not run kernels.
    if driver == Hypervisor::Builtin || Sandbox::command(&["run", &path]).finish()?.errors().is_empty() {
        sandbox.finish()?.expect_code(0)?;
        return Ok(());
    }
    refused("emulation", &sandbox, 1, &["software_emulation"])
}

#[test]
fn leaves_nothing() -> Result<()> {
    let _order = alone();
    let missing = Bundle::new(&["/no/such/program"])?;
    let unknown =
        Bundle::new(&["true"])?.edit(|spec| spec["process"]["user"]["username"] = json!("nobody-here"))?;
    let before = Census::take()?;
    Sandbox::run(&missing)?.finish()?.expect_code(127)?;
    Sandbox::run(&unknown)?.finish()?.expect_code(1)?;
    Sandbox::run(&missing)?.option("--memory", "8").finish()?.expect_code(1)?;
    before.restored(Deadline::after(std::time::Duration::from_secs(2))?)
}
