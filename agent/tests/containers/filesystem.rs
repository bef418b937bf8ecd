//! The root file system and the mounts.

use std::fs;

use agent_protocol::agent as api;

use crate::Test;
use crate::guest::{command, mount_of, shell, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("a_read_only_root_refuses_writes", readonly_root),
    ("a_bind_mount_shares_files_both_ways", bind),
    ("a_read_only_bind_mount_refuses_writes", readonly_bind),
    ("a_file_can_be_bind_mounted_on_a_missing_one", file_bind),
    ("a_recursive_bind_takes_submounts_along", recursive_bind),
    ("recursive_read_only_holds_for_submounts", recursive_readonly),
    ("a_tmpfs_has_its_size_and_mode", tmpfs),
    ("a_read_only_tmpfs_is_filled_first", readonly_tmpfs),
    ("mount_attributes_are_set", attributes),
    ("a_remount_changes_what_is_mounted", remount),
    ("the_default_devices_work", devices),
    ("an_existing_device_is_kept_and_a_wrong_one_covered", existing_devices),
    ("nothing_of_the_guest_is_left_in_the_mount_table", mount_table),
    ("the_roots_propagation_is_set", propagation),
];

fn readonly_root() {
    with_guest(async |guest| {
        let mut request = shell("touch /file; touch /tmp/file || touch /dev/shm/file");
        request.root.mut_or_insert_default().readonly = true;
        let outcome = guest.run(request).await.unwrap();
        assert_eq!(outcome.stderr.matches("Read-only file system").count(), 2, "{outcome:?}");
        outcome.success();
        assert!(!guest.rootfs().join("file").exists());
    });
}

fn with_mounts(script: &str, mounts: &[api::Mount]) -> api::CreateContainerRequest {
    let mut request = shell(script);
    request.mounts.extend_from_slice(mounts);
    request
}

fn bind() {
    with_guest(async |guest| {
        let source = guest.share.join("mounts/0");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("in"), "from outside").unwrap();
        let mounts = [mount_of("bind", "mounts/0", "/new/place", &["rbind", "rprivate"])];
        let output =
            guest.run(with_mounts("cat /new/place/in; echo -n inside > /new/place/out", &mounts)).await;
        assert_eq!(output.unwrap().success(), "from outside");
        assert_eq!(fs::read_to_string(source.join("out")).unwrap(), "inside");
    });
}

fn readonly_bind() {
    with_guest(async |guest| {
        fs::create_dir(guest.share.join("mounts/0")).unwrap();
        let mounts = [mount_of("bind", "mounts/0", "/data", &["bind", "ro", "nosuid"])];
        let outcome =
            guest.run(with_mounts("touch /data/x; grep ' /data ' /proc/mounts", &mounts)).await.unwrap();
        assert!(outcome.stderr.contains("Read-only file system"), "{outcome:?}");
        assert!(outcome.stdout.contains(" ro,nosuid,"), "{outcome:?}");
    });
}

fn file_bind() {
    with_guest(async |guest| {
        fs::write(guest.share.join("mounts/0"), "content").unwrap();
        let mounts = [mount_of("bind", "mounts/0", "/etc/new/file", &["bind", "ro"])];
        assert_eq!(guest.run(with_mounts("cat /etc/new/file", &mounts)).await.unwrap().success(), "content");
    });
}

fn remount() {
    with_guest(async |guest| {
        fs::create_dir(guest.share.join("mounts/0")).unwrap();
        let mut mounts = vec![
            mount_of("tmpfs", "tmpfs", "/scratch", &["size=64k", "nodev"]),
            mount_of("", "", "/scratch", &["remount", "size=128k", "noexec"]),
            mount_of("bind", "mounts/0", "/data", &["bind", "nosuid"]),
            mount_of("bind", "", "/data", &["bind", "remount", "ro"]),
        ];
        let output =
            guest.run(with_mounts("grep -E ' /(scratch|data) ' /proc/mounts", &mounts)).await.unwrap();
        let output = output.success();
        let [scratch, data] = output.lines().collect::<Vec<_>>()[..] else { panic!("{output}") };
        for (line, options) in [(scratch, ["noexec", "size=128k"]), (data, ["ro", "relatime"])] {
            let found: Vec<&str> = line.split(' ').nth(3).unwrap().split(',').collect();
            assert!(options.iter().all(|option| found.contains(option)), "{line}");
            // As with mount(2), what is not named is taken away.
            assert!(!found.contains(&"nodev") && !found.contains(&"nosuid"), "{line}");
        }
        mounts.push(mount_of("", "", "/nothing", &["remount", "ro"]));
        let failure = guest.run(with_mounts("true", &mounts)).await.unwrap_err();
        assert!(failure.message.contains("\"/nothing\""), "{failure}");
    });
}

fn make_submount(guest: &crate::guest::Guest) {
    let place = guest.share.join("mounts/0/sub");
    fs::create_dir_all(&place).unwrap();
    rustix::mount::mount("sub", &place, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    fs::write(place.join("file"), "below").unwrap();
}

fn remove_submount(guest: &crate::guest::Guest) {
    let place = guest.share.join("mounts/0/sub");
    rustix::mount::unmount(&place, rustix::mount::UnmountFlags::empty()).unwrap();
}

fn recursive_bind() {
    with_guest(async |guest| {
        make_submount(&guest);
        let mounts = [
            mount_of("bind", "mounts/0", "/all", &["rbind"]),
            mount_of("bind", "mounts/0", "/one", &["bind"]),
        ];
        let output =
            guest.run(with_mounts("cat /all/sub/file; ls /one/sub", &mounts)).await.unwrap().success();
        remove_submount(&guest);
        assert_eq!(output, "below");
    });
}

fn recursive_readonly() {
    with_guest(async |guest| {
        make_submount(&guest);
        let mounts = [
            mount_of("bind", "mounts/0", "/rro", &["rbind", "rro"]),
            mount_of("bind", "mounts/0", "/ro", &["rbind", "ro"]),
        ];
        let script = "touch /rro/sub/x || touch /ro/sub/x && touch /ro/x || echo done";
        let outcome = guest.run(with_mounts(script, &mounts)).await.unwrap();
        remove_submount(&guest);
        assert_eq!(outcome.stderr.matches("Read-only file system").count(), 2, "{outcome:?}");
        assert_eq!(outcome.stdout, "done\n");
    });
}

fn tmpfs() {
    with_guest(async |guest| {
        let mounts = [mount_of("tmpfs", "tmpfs", "/scratch", &["size=64k", "mode=1750", "nodev"])];
        let script =
            "stat -c %a /scratch; dd if=/dev/zero of=/scratch/x bs=1k count=128; stat -c %s /scratch/x";
        let outcome = guest.run(with_mounts(script, &mounts)).await.unwrap();
        assert_eq!(outcome.stdout, "1750\n65536\n");
        assert!(outcome.stderr.contains("No space left"), "{outcome:?}");
    });
}

fn readonly_tmpfs() {
    with_guest(async |guest| {
        fs::create_dir(guest.share.join("mounts/0")).unwrap();
        let mut request = with_mounts(
            "echo x > /dev/null; touch /dev/x || touch /run/x || touch /run/data/x && stat -c %t:%T /dev/zero",
            &[
                mount_of("tmpfs", "tmpfs", "/run", &["rro", "nosuid"]),
                mount_of("bind", "mounts/0", "/run/data", &["bind"]),
            ],
        );
        request.mounts[1].options.push("ro".to_owned());
        let outcome = guest.run(request).await.unwrap();
        assert_eq!(outcome.stderr.matches("Read-only file system").count(), 2, "{outcome:?}");
        assert_eq!(outcome.success(), "1:5\n");
    });
}

fn attributes() {
    with_guest(async |guest| {
        let output = guest.shell("grep -E ' (/sys|/dev|/dev/shm|/dev/mqueue) ' /proc/mounts").await;
        for (place, flags) in [
            ("/sys sysfs", "ro,nosuid,nodev,noexec"),
            ("/dev tmpfs", "rw,nosuid"),
            ("/dev/shm tmpfs", "rw,nosuid,nodev,noexec"),
            ("/dev/mqueue mqueue", "rw,nosuid,nodev,noexec"),
        ] {
            assert!(output.contains(&format!("{place} {flags}")), "{place}: {output}");
        }
    });
}

fn devices() {
    with_guest(async |guest| {
        let script = "cd /dev; echo x > null; head -c 2 zero | wc -c; head -c 2 urandom | wc -c; \
            stat -c '%n %a %t:%T' null zero full random urandom tty; \
            for link in fd stdin stdout stderr ptmx; do readlink $link; done";
        let output = guest.run(shell(&format!("umask 077; {script}"))).await.unwrap();
        assert_eq!(
            output.stdout,
            "2\n2\nnull 666 1:3\nzero 666 1:5\nfull 666 1:7\nrandom 666 1:8\nurandom 666 1:9\ntty 666 5:0\n\
             /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n",
            "{output:?}"
        );
    });
}

fn existing_devices() {
    with_guest(async |guest| {
        // No tmpfs on /dev: the root's own is used, as in a root file system that debootstrap made.
        fs::write(guest.rootfs().join("dev/null"), "no device").unwrap();
        let mut request = shell("echo gone > /dev/null; stat -c '%t:%T' /dev/null /dev/zero");
        request.mounts.retain(|mount| !mount.destination.starts_with("/dev"));
        for _ in 0..2 {
            request.container_id.push('x');
            assert_eq!(guest.run(request.clone()).await.unwrap().success(), "1:3\n1:5\n");
        }
        assert_eq!(fs::read_to_string(guest.rootfs().join("dev/null")).unwrap(), "no device");
    });
}

fn mount_table() {
    with_guest(async |guest| {
        let output = guest.run(command(&["cat", "/proc/mounts"])).await.unwrap().success();
        let places: Vec<&str> = output.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
        let expected =
            ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"];
        assert_eq!(places, expected);
    });
}

fn propagation() {
    with_guest(async |guest| {
        for (name, shown) in [("", "-"), ("rshared", "shared:"), ("unbindable", "unbindable")] {
            let mut request = command(&["grep", " / / ", "/proc/self/mountinfo"]);
            request.rootfs_propagation = name.to_owned();
            let mut request_of_root = request.clone();
            request_of_root.process.mut_or_insert_default().args = [
                "sh",
                "-c",
                "while read a b c d e f g h; do [ $e = / ] && echo $g; done < /proc/self/mountinfo; true",
            ]
            .map(str::to_owned)
            .to_vec();
            let output = guest.run(request_of_root).await.unwrap().success();
            assert!(output.starts_with(shown), "{name}: {output}");
        }
    });
}
