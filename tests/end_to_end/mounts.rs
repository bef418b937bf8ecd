//! The root file system's and the mounts' options, and the default devices.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use anyhow::Result;
use e2e::{Bundle, Sandbox, together};
use serde_json::json;

fn output(bundle: &Bundle) -> Result<String> {
    Ok(Sandbox::run(bundle)?.finish()?.expect_code(0)?.text())
}

#[test]
fn a_read_only_root_refuses_writes_but_its_mounts_do_not() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(
        "touch /file 2>&1; rm /bin/true 2>&1; mount -o remount,rw / 2>/dev/null; touch /file 2>&1; echo ok >/dev/shm/file; cat /dev/shm/file",
    )?
    .edit(|spec| spec["root"]["readonly"] = json!(true))?;
    let text = output(&bundle)?;
    assert_eq!(text.matches("Read-only file system").count(), 3, "{text}");
    assert!(text.ends_with("ok\n"), "{text}");
    assert!(!bundle.rootfs().join("file").exists());
    assert!(bundle.rootfs().join("bin/true").symlink_metadata().is_ok());
    Ok(())
}

#[test]
fn bind_mounts_of_directories_and_files() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(
        "cat /data/host; echo guest >/data/guest; cat /config; \
         touch /fixed/new 2>&1; echo x 2>&1 >/fixed/file; cat /fixed/file",
    )?;
    let data = bundle.host_directory("data")?;
    let fixed = bundle.host_directory("fixed")?;
    let file = bundle.path().join("one-file");
    fs::write(data.join("host"), "from the host\n")?;
    fs::write(fixed.join("file"), "unchanged\n")?;
    fs::write(&file, "configuration\n")?;
    let bundle = bundle
        .mount("bind", &data.to_string_lossy(), "/data", &["rbind", "rw"])?
        .mount("bind", &fixed.to_string_lossy(), "/fixed", &["bind", "ro"])?
        .mount("bind", &file.to_string_lossy(), "/config", &["bind", "ro"])?;
    let text = output(&bundle)?;
    assert!(text.starts_with("from the host\nconfiguration\n"), "{text}");
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    assert!(text.ends_with("unchanged\n"), "{text}");
    assert_eq!(fs::read_to_string(data.join("guest"))?, "guest\n");
    assert!(!fixed.join("new").exists());
    Ok(())
}

/// A server of the host is reached through its socket, by those that its mode allows.
#[test]
fn a_bound_unix_socket_connects_to_the_host() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(
        "stat -c %F:%a /run/host.sock; for i in 1 2; do echo question $i | probe connect /run/host.sock; done
         su -s /bin/sh alice -c 'echo no | probe connect /run/host.sock' 2>&1 | grep -o 'Permission denied'
         head -c 300000 /dev/zero | probe connect /run/host.sock",
    )?
    .edit(|spec| {
        spec["process"]["noNewPrivileges"] = json!(false);
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_SETUID", "CAP_SETGID"]);
        }
    })?;
    let path = bundle.path().join("server.sock");
    let server = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    let bundle = bundle.mount("bind", &path.to_string_lossy(), "/run/host.sock", &["rbind", "rprivate"])?;
    // Ends with the test.
    std::thread::spawn(move || {
        for mut connection in server.incoming().flatten() {
            let mut text = Vec::new();
            let answered = connection.read_to_end(&mut text).and_then(|length| {
                if length < 100 {
                    connection.write_all(&text)
                } else {
                    writeln!(connection, "{length} bytes")
                }
            });
            if answered.is_err() {
                return;
            }
        }
    });
    let text = output(&bundle)?;
    assert_eq!(text, "socket:600\nquestion 1\nquestion 2\nPermission denied\n300000 bytes\n");
    Ok(())
}

#[test]
fn a_tmpfs_has_its_size_and_mode() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(
        "stat -c %a /scratch; df -k /scratch | awk 'END { print $2 }'; dd if=/dev/zero of=/scratch/f bs=1M count=5 2>&1 | grep -o 'No space.*'",
    )?
    .mount("tmpfs", "tmpfs", "/scratch", &["nosuid", "mode=1770", "size=4m"])?;
    assert_eq!(output(&bundle)?, "1770\n4096\nNo space left on device\n");
    assert!(fs::read_dir(bundle.rootfs().join("scratch"))?.next().is_none(), "the tmpfs is the guest's");
    Ok(())
}

#[test]
fn the_mounts_of_runc_spec_are_there_with_their_options() -> Result<()> {
    let _order = together();
    let text = output(&Bundle::new(&["cat", "/proc/self/mounts"])?)?;
    for (place, kind, options) in [
        ("/proc", "proc", &["rw"][..]),
        ("/dev", "tmpfs", &["nosuid", "size=65536k", "mode=755"]),
        ("/dev/pts", "devpts", &["nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"]),
        ("/dev/shm", "tmpfs", &["nosuid", "nodev", "noexec", "size=65536k"]),
        ("/dev/mqueue", "mqueue", &["nosuid", "nodev", "noexec"]),
        ("/sys", "sysfs", &["ro", "nosuid", "nodev", "noexec"]),
        ("/sys/fs/cgroup", "cgroup2", &["ro", "nosuid", "nodev", "noexec"]),
    ] {
        let mount: Vec<&str> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|mount| mount.get(1) == Some(&place))
            .unwrap_or_default();
        assert_eq!(mount.get(2), Some(&kind), "{place} in {text}");
        let found: Vec<&str> = mount.get(3).unwrap_or(&"").split(',').collect();
        for option in options {
            assert!(found.contains(option), "{place}: no {option} in {found:?}");
        }
    }
    Ok(())
}

#[test]
fn default_devices_and_links_work() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell(
        "set -e; for d in null zero full random urandom tty ptmx; do test -c /dev/$d; done
         echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 16 /dev/urandom | wc -c; ! echo x 2>/dev/null >/dev/full
         for l in fd stdin stdout stderr; do readlink /dev/$l; done; echo through >/dev/stdout",
    )?;
    assert_eq!(
        output(&bundle)?,
        "3\n16\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\nthrough\n"
    );
    Ok(())
}

#[test]
fn a_mount_point_that_is_missing_is_made() -> Result<()> {
    let _order = together();
    let bundle =
        Bundle::shell("test -d /a/b/c && echo made")?.mount("tmpfs", "tmpfs", "/a/b/c", &["size=64k"])?;
    assert_eq!(output(&bundle)?, "made\n");
    Ok(())
}

#[test]
fn a_link_in_the_root_file_system_does_not_lead_a_mount_out_of_it() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("cat /trap/file; ls /outside 2>&1")?;
    let outside = bundle.host_directory("outside")?;
    let data = bundle.host_directory("data")?;
    fs::write(data.join("file"), "data\n")?;
    std::os::unix::fs::symlink(&outside, bundle.rootfs().join("trap"))?;
    let bundle = bundle.mount("bind", &data.to_string_lossy(), "/trap", &["bind"])?;
    // Either an error or a mount at that path below the root; never a file in the host's directory.
    Sandbox::run(&bundle)?.finish()?;
    assert!(fs::read_dir(&outside)?.next().is_none(), "the host's directory was written to");
    Ok(())
}
