//! B11: virtio-fs. `probe bench-files` does the work, and times it with the clock it has: counted in the nested
//! host, where it is also run without a sandbox; by the wall here, where it is also run on the stand-alone
//! virtiofsd that Debian's QEMU brings.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Bundle, Deadline, Output, Setup};

use crate::emulation::{median, qemu};
use crate::meter::millions;
use crate::report::Measurement;
use crate::runtime::Runtime;

const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";
const ROUNDS: usize = 3;

/// Nanoseconds for each of an operation, by its name.
type Times = BTreeMap<String, f64>;

fn parse(text: &str) -> Result<Times> {
    let times: Times = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("took ")?.split_once(": "))
        .filter_map(|(name, time)| Some((name.to_owned(), time.parse().ok()?)))
        .collect();
    ensure!(!times.is_empty(), "probe printed no times: {text:?}");
    Ok(times)
}

fn sandboxed(mib: &str, count: &str) -> Result<Times> {
    let bundle = Bundle::new(&["probe", "bench-files", "/work", mib, count])?;
    fs::create_dir(bundle.rootfs().join("work")).context("cannot make a directory")?;
    let output =
        Runtime::Sandbox.run(&bundle)?.stdout(Stdio::piped()).output().context("cannot run sandbox")?;
    ensure!(output.status.success(), "sandbox ended with {}", output.status);
    parse(&String::from_utf8_lossy(&output.stdout))
}

pub(crate) fn measure_counted() -> Result<Vec<Measurement>> {
    let (mib, count) = ("2", "200");
    let ours = sandboxed(mib, count)?;
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let output = Command::new(Setup::get()?.probe())
        .arg("bench-files")
        .arg(directory.path())
        .args([mib, count])
        .output()
        .context("cannot run probe")?;
    let native = parse(&String::from_utf8_lossy(&output.stdout))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds, above 0")]
    let thousands = |time: f64| millions(time as u64) * 1000.0;
    Ok(ours
        .into_iter()
        .map(|(name, time)| {
            let peer = native.get(&name).copied().unwrap_or(f64::NAN);
            Measurement::new("B11", format!("virtio-fs, {name}"), thousands(time), "k instr.")
                .peer("no sandbox, tmpfs", thousands(peer))
        })
        .collect())
}

pub(crate) fn measure_against_virtiofsd(build: &Path) -> Result<Vec<Measurement>> {
    let (mib, count) = ("64", "2000");
    let mut ours: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut theirs = ours.clone();
    for _ in 0..ROUNDS {
        for (times, all) in
            [(sandboxed(mib, count)?, &mut ours), (on_virtiofsd(build, mib, count)?, &mut theirs)]
        {
            for (name, time) in times {
                all.entry(name).or_default().push(time);
            }
        }
    }
    Ok(ours
        .into_iter()
        .map(|(name, times)| {
            let ours = median(times) / 1000.0;
            let theirs = median(theirs.remove(&name).unwrap_or_default()) / 1000.0;
            Measurement::new("B11", format!("under TCG (noisy), {name}"), ours, "us")
                .peer("virtiofsd 7.2", theirs)
        })
        .collect())
}

/// The same on a bare QEMU with the stand-alone virtiofsd: busybox as `/init`, the share on `/mnt`.
fn on_virtiofsd(build: &Path, mib: &str, count: &str) -> Result<Times> {
    let bundle = Bundle::new(&["true"])?;
    let share = bundle.host_directory("share")?;
    let root = bundle.rootfs();
    let script = format!(
        "#!/bin/sh\nmount -t proc proc /proc; mount -t devtmpfs dev /dev; mkdir /mnt\n\
         mount -t virtiofs share /mnt && probe bench-files /mnt {mib} {count} >/dev/console 2>&1\nreboot -f\n"
    );
    fs::write(root.join("init"), script).context("cannot write /init")?;
    fs::set_permissions(root.join("init"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .context("cannot make /init executable")?;
    let initrd = bundle.path().join("initrd");
    let packed = Command::new("sh")
        .args(["-c", "find . | cpio --quiet -oH newc >../initrd"])
        .current_dir(&root)
        .status()
        .context("cannot run cpio")?;
    ensure!(packed.success(), "cpio failed");

    let socket = bundle.path().join("fs.sock");
    let mut daemon = Command::new(VIRTIOFSD)
        .arg(format!("--socket-path={}", socket.display()))
        // It may not be allowed to raise the limit.
        .args([
            "--rlimit-nofile=0",
            "-o",
            &format!("source={},sandbox=chroot,cache=auto,xattr", share.display()),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run virtiofsd; apt-get install qemu-system-common")?;
    Deadline::generous()?.wait_for("virtiofsd's socket", || Ok(socket.exists().then_some(())))?;
    let chardev = format!("socket,id=fs,path={}", socket.display());
    let mut child = qemu(
        &build.join("share/runv/vmlinux"),
        &initrd,
        "console=ttyS0",
        &[
            "-object",
            "memory-backend-memfd,id=mem,size=128M,share=on",
            "-machine",
            "memory-backend=mem",
            "-chardev",
            &chardev,
            "-device",
            "vhost-user-fs-device,chardev=fs,tag=share",
        ],
    )?;
    let console = Output::collect(child.stdout.take().context("no stdout")?);
    // A guest whose share does not answer would wait for ever.
    let text = console.to_end(Deadline::after(Duration::from_secs(120))?);
    for process in [&mut child, &mut daemon] {
        process.kill().context("cannot kill")?;
        process.wait().context("cannot wait")?;
    }
    parse(&String::from_utf8_lossy(&text?))
}
