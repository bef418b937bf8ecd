//! Root file systems that try to have something done outside of them. Each leaves a canary outside alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::Test;
use crate::guest::{Guest, command, mount_of, process, shell, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("directories_that_are_links_lead_nowhere", linked_directories),
    ("chained_and_climbing_links_stay_inside", climbing_links),
    ("a_link_as_console_is_refused", linked_console),
    ("a_link_to_proc_is_no_proc", linked_proc),
    ("a_passwd_that_is_no_file_is_not_read", odd_passwd),
    ("a_working_directory_cannot_be_outside", outside_cwd),
    ("a_device_that_is_a_link_is_refused", linked_device),
    ("a_share_entry_that_is_a_link_is_refused", linked_source),
    ("cve_2019_5736_the_agents_program_is_not_executed_or_written", own_program),
    ("cve_2021_30465_a_swapped_mount_point_stays_inside", swapped_mount_point),
    ("cve_2024_21626_nothing_but_stdio_is_inherited", inherited),
];

/// Names of everything below `folder`, with what links point to.
fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            format!("{:?} {:?}", entry.file_name(), entry.metadata().unwrap().file_type())
        })
        .collect();
    names.sort();
    names
}

fn canary(guest: &Guest) -> std::path::PathBuf {
    let canary = guest.outside();
    fs::write(canary.join("bird"), "sings").unwrap();
    canary
}

/// Each of the root's directories as a link to a directory outside, by an absolute path.
fn linked_directories() {
    with_guest(async |guest| {
        let canary = canary(&guest);
        let before = listing(&canary);
        for name in ["dev", "proc", "sys", "etc", "tmp"] {
            let rootfs = guest.share.join(format!("rootfs-{name}"));
            fs::create_dir(&rootfs).unwrap();
            fs::create_dir(rootfs.join("bin")).unwrap();
            fs::copy("/bin/busybox", rootfs.join("bin/sh")).unwrap();
            symlink(&canary, rootfs.join(name)).unwrap();
            let mut request = shell("exit 0");
            request.root.mut_or_insert_default().share_path = format!("rootfs-{name}");
            request.mounts.push(mount_of("tmpfs", "tmpfs", "/etc/place", &[]));
            // Refused, or done inside of the root: the link dangles there.
            let _ = guest.run(request).await;
            assert_eq!(listing(&canary), before, "{name}");
        }
    });
}

fn climbing_links() {
    with_guest(async |guest| {
        let canary = canary(&guest);
        let before = listing(&canary);
        let rootfs = guest.rootfs();
        fs::create_dir_all(rootfs.join("a/b")).unwrap();
        symlink("../../../../../../../../../../..", rootfs.join("a/up")).unwrap();
        symlink("a/up", rootfs.join("chain")).unwrap();
        let climb = format!("/chain{}/new", canary.display());
        let mut request = shell(&format!("test -d {}/new", canary.display()));
        request.mounts.push(mount_of("tmpfs", "tmpfs", &climb, &[]));
        // As in chroot: `..` of the root is the root, so the path exists inside.
        guest.run(request).await.unwrap().success();
        assert_eq!(listing(&canary), before);
    });
}

fn linked_console() {
    with_guest(async |guest| {
        let canary = canary(&guest);
        let mut request = command(&["true"]);
        request.mounts.retain(|mount| mount.destination != "/dev");
        process(&mut request).terminal = true;
        for target in [canary.join("bird").to_str().unwrap(), "/etc/passwd", "/proc/1/attr/exec"] {
            let console = guest.rootfs().join("dev/console");
            symlink(target, &console).unwrap();
            let failure = guest.create(request.clone()).await.unwrap_err();
            assert!(failure.message.starts_with("cannot mount the terminal on /dev/console"), "{failure}");
            fs::remove_file(console).unwrap();
        }
    });
}

fn linked_proc() {
    with_guest(async |guest| {
        fs::remove_dir(guest.rootfs().join("proc")).unwrap();
        symlink("/tmp", guest.rootfs().join("proc")).unwrap();
        let failure = guest.create(command(&["true"])).await.unwrap_err();
        assert!(failure.message.contains("mount point \"/proc\""), "{failure}");
    });
}

fn odd_passwd() {
    with_guest(async |guest| {
        let passwd = guest.rootfs().join("etc/passwd");
        let mut request = command(&["true"]);
        process(&mut request).user.mut_or_insert_default().username = "anna".to_owned();
        fs::remove_file(&passwd).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &passwd, 0o644.into()).unwrap();
        let failure = guest.create(request.clone()).await.unwrap_err();
        assert_eq!(failure.message, "cannot read /etc/passwd of the root file system: not a regular file");
        fs::remove_file(&passwd).unwrap();
        symlink("/dev/zero", &passwd).unwrap();
        let failure = guest.create(request.clone()).await.unwrap_err();
        assert_eq!(failure.message, "cannot read /etc/passwd of the root file system: not a regular file");
        fs::remove_file(&passwd).unwrap();
        let failure = guest.create(request).await.unwrap_err();
        assert_eq!(failure.message, "unable to find user anna: no matching entries in passwd file");
    });
}

fn outside_cwd() {
    with_guest(async |guest| {
        for fd in 3..32 {
            let mut request = command(&["true"]);
            process(&mut request).cwd = format!("/proc/self/fd/{fd}");
            guest.create(request).await.unwrap_err();
        }
    });
}

fn linked_device() {
    with_guest(async |guest| {
        let canary = canary(&guest);
        symlink(canary.join("bird"), guest.rootfs().join("dev/null")).unwrap();
        let mut request = command(&["true"]);
        request.mounts.retain(|mount| !mount.destination.starts_with("/dev"));
        let failure = guest.create(request).await.unwrap_err();
        assert!(failure.message.starts_with("cannot make the device /dev/null"), "{failure}");
        assert_eq!(fs::read_to_string(canary.join("bird")).unwrap(), "sings");
    });
}

fn linked_source() {
    with_guest(async |guest| {
        symlink(canary(&guest), guest.share.join("mounts/0")).unwrap();
        let mut request = command(&["true"]);
        request.mounts.push(mount_of("bind", "mounts/0", "/data", &["bind"]));
        // What is bound is the link itself or nothing, never where it leads.
        guest.create(request).await.unwrap_err();
        assert!(!guest.rootfs().join("data/bird").exists());
    });
}

/// In the image's entry point, /proc/self/exe is the program that makes the container: executed in there, it would
/// run with what the image gives it, and could be opened for writing.
fn own_program() {
    with_guest(async |guest| {
        let program = std::env::current_exe().unwrap();
        let before = fs::read(&program).unwrap();
        for args in [&["/proc/self/exe", "--list"][..], &["/proc/1/exe", "--list"]] {
            let failure = guest.run(command(args)).await.unwrap_err();
            assert_eq!(failure.message, format!("exec: {:?}: permission denied", args[0]));
        }
        // The container's init is the image's own program by then.
        let outcome =
            guest.run(shell("echo x > /proc/1/exe; echo x > /proc/self/exe; readlink /proc/1/exe")).await;
        assert_eq!(outcome.unwrap().stdout, "/bin/busybox\n");
        assert!(fs::read(&program).unwrap() == before, "the program has changed");
    });
}

/// Whoever can write to the root file system swaps a mount point for a link while mounts are made.
fn swapped_mount_point() {
    with_guest(async |guest| {
        let canary = canary(&guest);
        let before = listing(&canary);
        fs::create_dir(guest.share.join("mounts/0")).unwrap();
        let place = guest.rootfs().join("place");
        fs::create_dir(&place).unwrap();
        let script = format!(
            "cd {}; while :; do mv place aside; ln -s {} place; rm place; mv aside place; done",
            guest.rootfs().display(),
            canary.display()
        );
        // A program of its own: the agent forks, so this one must have no second thread.
        let mut attacker = std::process::Command::new("/bin/busybox")
            .args(["sh", "-c", &script])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut made = 0;
        for _ in 0..60 {
            let mut request = shell("echo x > /place/sub/file");
            request.mounts.push(mount_of("bind", "mounts/0", "/place/sub", &["bind"]));
            request.mounts.push(mount_of("tmpfs", "tmpfs", "/place/sub2", &[]));
            // Refused, or made inside.
            made += usize::from(guest.run(request).await.is_ok());
        }
        attacker.kill().unwrap();
        attacker.wait().unwrap();
        assert_eq!(listing(&canary), before, "something was made outside");
        assert!(made > 0, "no container could be made at all");
    });
}

fn inherited() {
    with_guest(async |guest| {
        // Besides the three, ls has the directory itself.
        assert_eq!(guest.shell("ls /proc/self/fd").await, "0\n1\n2\n3\n");
        for cwd in ["/proc/self/fd/8", "/dev/fd/9"] {
            let mut request = command(&["true"]);
            process(&mut request).cwd = cwd.to_owned();
            guest.create(request).await.unwrap_err();
        }
    });
}
