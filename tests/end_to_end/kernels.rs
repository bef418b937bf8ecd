//! A kernel of its own for each container: chosen by the bundle where the administrator allows it, and refused by name
//! where not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use e2e::{Bundle, Deadline, Hypervisor, Sandbox, Setup, together};
use serde_json::{Value, json};

/// All that there is to allow.
const ALLOWED: &str = r#"
    allow_annotations = ["memory", "cpus", "hypervisor", "kernel", "initrd", "kernel_parameters"]
    allow_vm_section = ["hypervisor", "kernel", "initrd", "kernel_parameters"]
"#;

/// Prints the release and what the configuration says of preemption and the tick.
const WHICH_KERNEL: &str =
    "uname -r; zcat /proc/config.gz | grep -E '^CONFIG_(PREEMPT|PREEMPT_VOLUNTARY|HZ)='";

fn allowed(kernels: &Path) -> String {
    format!("{ALLOWED}kernel_directories = [{kernels:?}]\n")
}

fn annotated(script: &str, name: &str, value: &str) -> Result<Bundle> {
    Bundle::shell(script)?.edit(|spec| spec["annotations"][format!("io.runv.{name}")] = json!(value))
}

fn with_kernel(script: &str, kernel: &Path) -> Result<Bundle> {
    Bundle::shell(script)?.edit(|spec| spec["vm"] = json!({ "kernel": { "path": kernel } }))
}

/// One line that has the fragments, before a machine is started.
fn refused(sandbox: &Sandbox, fragments: &[&str]) -> Result<()> {
    let errors = sandbox.finish()?.expect_code(1)?.errors();
    assert_eq!(errors.lines().count(), 1, "{errors:?}");
    for fragment in fragments {
        assert!(errors.contains(fragment), "no {fragment:?} in {errors:?}");
    }
    Ok(())
}

#[test]
fn three_containers_have_three_kernels() -> Result<()> {
    let _order = together();
    let kernels = Setup::get()?.kernels()?;
    let config = allowed(&kernels);
    let bundles = [
        Bundle::shell(WHICH_KERNEL)?,
        annotated(WHICH_KERNEL, "kernel", "lean")?,
        with_kernel(WHICH_KERNEL, &kernels.join("6.1"))?,
    ];
    let mut running = Vec::new();
    for bundle in &bundles {
        running.push(Sandbox::configured(bundle, &config)?.start()?);
    }
    let mut told = Vec::new();
    for one in running {
        told.push(one.finish(Deadline::generous()?)?.expect_code(0)?.text());
    }
    let [standard, lean, old] = told.as_slice() else { unreachable!("there are three") };
    assert!(standard.starts_with("6.12.") && standard.contains("-runv\n"), "{standard}");
    assert!(
        standard.contains("CONFIG_PREEMPT_VOLUNTARY=y") && standard.contains("CONFIG_HZ=250"),
        "{standard}"
    );
    assert!(lean.starts_with("6.12.") && lean.contains("-runv-lean\n"), "{lean}");
    assert!(lean.contains("CONFIG_PREEMPT=y") && lean.contains("CONFIG_HZ=1000"), "{lean}");
    assert!(old.starts_with("6.1.") && old.contains("CONFIG_HZ=250"), "{old}");
    Ok(())
}

/// Namespaces, limits, devices, file systems and a filter, all of which an older kernel does in its own way.
#[test]
fn an_older_kernel_holds_what_the_bundle_says() -> Result<()> {
    let _order = together();
    let kernels = Setup::get()?.kernels()?;
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; true >/dev/serial; \
        chmod 600 /etc/passwd || echo filtered; stat -f -c %T /scratch; cat /proc/self/uid_map; echo $$";
    let bundle = with_kernel(script, &kernels.join("6.1"))?
        .mount("tmpfs", "tmpfs", "/scratch", &["size=1m"])?
        .edit(|spec| {
            spec["linux"]["resources"] = json!({
                "memory": { "limit": 64 << 20 },
                "pids": { "limit": 50 },
                "devices": [{ "allow": false, "access": "rwm" }],
            });
            spec["linux"]["devices"] = json!([
                { "type": "c", "path": "/dev/serial", "major": 4, "minor": 64, "fileMode": 0o666 }
            ]);
            spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO" }],
            });
        })?;
    let finished = Sandbox::configured(&bundle, &allowed(&kernels))?.finish()?.expect_code(0)?;
    let (text, errors) = (finished.text(), finished.errors());
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected = [&["67108864"][..], &["50"], &["filtered"], &["tmpfs"], &["0", "0", "4294967295"], &["1"]];
    assert_eq!(lines, expected, "{errors}");
    assert!(errors.contains("/dev/serial: Operation not permitted"), "{errors}");
    Ok(())
}

#[test]
fn nothing_can_be_chosen_unless_the_administrator_allows_it() -> Result<()> {
    let _order = together();
    for (name, value) in
        [("kernel", "lean"), ("initrd", "/i"), ("hypervisor", "qemu"), ("kernel_parameters", "quiet")]
    {
        let bundle = annotated("true", name, value)?;
        let annotation = format!("annotation io.runv.{name} is not allowed here");
        refused(
            &Sandbox::run(&bundle)?,
            &[&annotation, "allow_annotations of the configuration can allow it"],
        )?;
    }
    let bundle = with_kernel("true", Path::new("/k"))?;
    refused(
        &Sandbox::run(&bundle)?,
        &["vm.kernel.path is not allowed here", "allow_vm_section", "(\"kernel\")"],
    )
}

/// A change of the `vm` section, and what the error has to name.
type SectionCase = (fn(&mut Value), &'static [&'static str]);

const SECTIONS: &[SectionCase] = &[
    (
        |vm| vm["image"] = json!({ "path": "/i", "format": "raw" }),
        &["vm.image is not supported", "remove it"],
    ),
    (
        |vm| vm["hypervisor"] = json!({ "path": "/opt/runv-vmm", "parameters": ["-x"] }),
        &["vm.hypervisor.parameters: the embedded VMM has none", "remove it"],
    ),
    (
        |vm| vm["hypervisor"] = json!({ "path": "/bin/true" }),
        &["vm.hypervisor.path `/bin/true`", "hypervisor_paths"],
    ),
    (|vm| vm["hwConfig"] = json!({ "vcpus": 1 }), &["vm.hwConfig is not supported"]),
    (
        |vm| vm["kernel"]["parameters"] = json!(["rdinit=/bin/sh"]),
        &["vm.kernel.parameters: rdinit is the runtime's"],
    ),
    (|vm| vm["kernel"]["path"] = json!("lean"), &["vm.kernel.path `lean` is not an absolute path"]),
];

#[test]
fn what_no_bundle_may_choose_is_refused_by_name() -> Result<()> {
    let _order = together();
    let kernels = Setup::get()?.kernels()?;
    for (change, fragments) in SECTIONS {
        let bundle = with_kernel("true", &kernels.join("6.1"))?.edit(|spec| change(&mut spec["vm"]))?;
        refused(&Sandbox::configured(&bundle, &allowed(&kernels))?, fragments)?;
    }
    Ok(())
}

#[test]
fn no_file_outside_of_the_directories_can_be_had() -> Result<()> {
    let _order = together();
    let place = Bundle::shell("true")?;
    let kernels = place.host_directory("kernels")?;
    fs::copy(Setup::get()?.kernel(), place.path().join("vmlinux")).context("cannot copy the kernel")?;
    symlink("../vmlinux", kernels.join("link")).context("cannot make a link")?;
    symlink("/proc/self/exe", kernels.join("magic")).context("cannot make a link")?;
    fs::write(kernels.join("text"), "#!/bin/sh\n").context("cannot write")?;
    let at = |name: &str| kernels.join(name);
    for (path, fragments) in [
        (place.path().join("vmlinux"), &["is in none of the directories", "kernel_directories"][..]),
        ("/etc/passwd".into(), &["/etc/passwd", "is in none of the directories", "kernel_directories"]),
        (at("../vmlinux"), &["leads out of"]),
        (at("link"), &["leads out of"]),
        (at("magic"), &["leads out of"]),
        (at("text"), &["is not a 64-bit ELF file", "uncompressed vmlinux"]),
        (at("none"), &["none", "there is no such file in"]),
        (kernels.clone(), &["is in none of the directories"]),
    ] {
        let bundle = with_kernel("true", &path)?;
        let fragments = [fragments, &["(vm.kernel.path)"]].concat();
        refused(&Sandbox::configured(&bundle, &allowed(&kernels))?, &fragments)?;
    }
    let bundle = annotated("true", "initrd", "../vmlinux")?;
    refused(
        &Sandbox::configured(&bundle, &allowed(&kernels))?,
        &["leads out of", "annotation io.runv.initrd"],
    )
}

/// The configuration's driver cannot work here with the program that it would take.
#[test]
fn the_hypervisor_is_the_bundles_if_the_administrator_names_the_program() -> Result<()> {
    let _order = together();
    let setup = Setup::get()?;
    let (program, other) = match setup.hypervisor() {
        Hypervisor::Qemu => ("/usr/bin/qemu-system-x86_64".into(), "builtin"),
        Hypervisor::Builtin => (setup.program("runv-vmm"), "qemu"),
    };
    let bundle = Bundle::shell("echo up")?.edit(|spec| {
        spec["vm"] = json!({ "hypervisor": { "path": program }, "kernel": { "path": setup.kernel() } });
    })?;
    let config = bundle.path().join("other.toml");
    let directory = setup.kernel().parent().context("no directory")?.to_owned();
    fs::write(
        &config,
        format!(
            "hypervisor = \"{other}\"\nsoftware_emulation = \"allow\"\nhypervisor_paths = [{program:?}]\n{}",
            allowed(&directory)
        ),
    )?;
    let command = ["run", "--config", &config.to_string_lossy(), &bundle.path().to_string_lossy()];
    let finished = Sandbox::command(&command).finish()?.expect_code(0)?;
    assert_eq!(finished.text(), "up\n");
    Ok(())
}

/// The guest sees it by what its processor lacks. Only QEMU has parameters.
#[test]
fn qemu_is_told_what_the_administrator_lets_a_bundle_say() -> Result<()> {
    let _order = together();
    let setup = Setup::get()?;
    if setup.hypervisor() == Hypervisor::Builtin {
        println!("the embedded VMM has no parameters: see what_no_bundle_may_choose_is_refused_by_name");
        return Ok(());
    }
    let program = "/usr/bin/qemu-system-x86_64";
    let told = |parameters: &[&str]| {
        let bundle = Bundle::shell("grep -c rdrand /proc/cpuinfo || true")?.edit(|spec| {
            spec["vm"] = json!({
                "hypervisor": { "path": program, "parameters": parameters },
                "kernel": { "path": setup.kernel() },
            });
        })?;
        let directory = setup.kernel().parent().context("no directory")?.to_owned();
        let config = format!(
            "hypervisor_paths = [{program:?}]\nhypervisor_parameters = [[\"-cpu\", \"max,rdrand=off\"]]\n{}",
            allowed(&directory)
        );
        let file = bundle.path().join("qemu.toml");
        fs::write(&file, config)?;
        // Without `--hypervisor`, which would be in the section's place.
        Sandbox::command(&["run", "--config", &file.to_string_lossy(), &bundle.path().to_string_lossy()])
            .finish()
    };
    assert_eq!(told(&[])?.expect_code(0)?.text(), "1\n");
    assert_eq!(told(&["-cpu", "max,rdrand=off"])?.expect_code(0)?.text(), "0\n");
    let refused = told(&["-cpu", "max,rdrand=off", "-pidfile", "/x"])?.expect_code(1)?.errors();
    assert!(
        refused.contains("hypervisor_parameters of the configuration allows begins at word 2, `-pidfile`"),
        "{refused}"
    );
    Ok(())
}

#[test]
fn parameters_come_in_the_order_of_who_may_override_whom() -> Result<()> {
    let _order = together();
    let setup = Setup::get()?;
    let bundle =
        annotated("cat /proc/cmdline", "kernel_parameters", "w.w=annotation loglevel=2")?.edit(|spec| {
            spec["vm"] = json!({ "kernel": { "path": setup.kernel(), "parameters": ["w.w=section"] } });
        })?;
    let directory = setup.kernel().parent().context("no directory")?.to_owned();
    let config = format!("{}kernel_parameters = [\"w.w=file\"]\n", allowed(&directory));
    let sandbox = Sandbox::configured(&bundle, &config)?.option("--kernel-parameters", "w.w=hand");
    let line = sandbox.finish()?.expect_code(0)?.text();
    let words: Vec<&str> = line.split_whitespace().filter_map(|word| word.strip_prefix("w.w=")).collect();
    assert_eq!(words, ["file", "section", "annotation", "hand"], "{line}");
    assert!(line.contains("panic=-1"), "{line}");
    Ok(())
}

#[test]
fn a_kernel_without_what_the_agent_needs_is_told_by_what_is_missing() -> Result<()> {
    let _order = together();
    let config = allowed(Path::new("/none"));
    let bundle = annotated("true", "kernel_parameters", "initcall_blacklist=virtio_fs_init")?;
    let errors = Sandbox::configured(&bundle, &config)?.finish()?.expect_code(1)?.errors();
    assert!(errors.contains("the guest's kernel lacks virtio-fs (CONFIG_VIRTIO_FS)"), "{errors}");

    let bundle = annotated("true", "kernel_parameters", "cgroup_disable=memory")?
        .edit(|spec| spec["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 }))?;
    let errors = Sandbox::configured(&bundle, &config)?.finish()?.expect_code(1)?.errors();
    assert!(errors.contains("cannot set memory.max: the guest's kernel has no such limit"), "{errors}");
    Ok(())
}
