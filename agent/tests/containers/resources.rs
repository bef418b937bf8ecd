//! Devices, masks, kernel parameters, pausing and figures. Limits need controllers of version 2, which this host
//! may lack: they are tested end to end.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use agent_protocol::agent as api;
use protobuf::MessageField;

use crate::Test;
use crate::guest::{command, mount_of, process, shell, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("masked_paths_show_nothing", masked),
    ("a_masked_path_that_is_a_link_stays_inside", masked_link),
    ("read_only_paths_refuse_writes", readonly),
    ("the_null_that_masks_is_not_the_images", planted_null),
    ("devices_are_made_as_described", devices),
    ("a_device_where_something_else_is_is_refused", wrong_device),
    ("sysctls_are_set_in_the_containers_namespaces", sysctls),
    ("a_sysctl_that_is_not_there_is_named", unknown_sysctl),
    ("a_procfs_of_the_image_takes_no_sysctl", planted_proc),
    ("a_limit_that_the_kernel_lacks_is_named_and_nothing_is_left", unknown_limit),
    ("a_paused_container_stands_still_until_it_is_resumed", pause),
    ("a_paused_container_can_be_killed", kill_paused),
    ("processes_are_listed_with_their_numbers", list),
    ("tmpcopyup_keeps_what_the_image_has", copy_up),
    ("a_tmpfs_has_the_mode_of_what_it_covers", tmpfs_mode),
];

fn masked() {
    with_guest(async |guest| {
        fs::create_dir(guest.rootfs().join("secrets")).unwrap();
        fs::write(guest.rootfs().join("secrets/key"), "key").unwrap();
        fs::create_dir(guest.rootfs().join("more")).unwrap();
        fs::write(guest.rootfs().join("more/key"), "key").unwrap();
        fs::write(guest.rootfs().join("etc/shadow"), "hash").unwrap();
        let mut request = shell(
            "ls -A /secrets /more; cat /etc/shadow /proc/version; touch /secrets/new; stat -c '%t %T' /etc/shadow",
        );
        request.masked_paths =
            ["/secrets", "/more", "/etc/shadow", "/proc/version", "/missing", "/etc/passwd/none"]
                .map(str::to_owned)
                .to_vec();
        let outcome = guest.run(request).await.unwrap();
        assert!(outcome.stderr.contains("Read-only file system"), "{outcome:?}");
        assert_eq!(outcome.success(), "/more:\n\n/secrets:\n1 3\n");
    });
}

fn masked_link() {
    with_guest(async |guest| {
        let outside = guest.outside();
        fs::write(outside.join("bird"), "sings").unwrap();
        symlink(&outside, guest.rootfs().join("trap")).unwrap();
        let mut request = command(&["true"]);
        request.masked_paths = vec!["/trap".to_owned(), "/trap/bird".to_owned()];
        request.readonly_paths = vec!["/trap".to_owned()];
        guest.run(request).await.unwrap().success();
        assert_eq!(fs::read_to_string(outside.join("bird")).unwrap(), "sings");
    });
}

fn readonly() {
    with_guest(async |guest| {
        let mut request =
            shell("echo x > /proc/sys/kernel/hostname; touch /etc/new; cat /etc/passwd | wc -l");
        request.readonly_paths = ["/proc/sys", "/etc", "/missing"].map(str::to_owned).to_vec();
        let outcome = guest.run(request).await.unwrap();
        assert_eq!(outcome.stderr.matches("Read-only file system").count(), 2, "{outcome:?}");
        assert_eq!(outcome.success().trim(), "2");
    });
}

/// CVE-2025-31133: what covers a masked file is a node of the guest, whatever the image has as /dev/null.
fn planted_null() {
    with_guest(async |guest| {
        symlink("/etc/passwd", guest.rootfs().join("dev/null")).unwrap();
        fs::write(guest.rootfs().join("etc/shadow"), "hash").unwrap();
        let mut request = shell("cat /etc/shadow");
        request.masked_paths = vec!["/etc/shadow".to_owned()];
        assert_eq!(guest.run(request).await.unwrap().success(), "");
    });
}

fn device(path: &str, kind: api::device::Type, numbers: (u32, u32)) -> api::Device {
    api::Device {
        path: path.to_owned(),
        type_: kind.into(),
        major: numbers.0,
        minor: numbers.1,
        mode: 0o640,
        uid: 1000,
        gid: 100,
        ..Default::default()
    }
}

fn devices() {
    use api::device::Type;
    with_guest(async |guest| {
        let mut request =
            shell("stat -c '%F %t:%T %a %u %g' /dev/zero2 /dev/null /opt/pipe; head -c 2 /dev/zero2 | wc -c");
        request.devices = vec![
            device("/dev/zero2", Type::TYPE_CHARACTER, (1, 5)),
            device("/dev/null", Type::TYPE_CHARACTER, (1, 3)),
            device("/opt/pipe", Type::TYPE_FIFO, (0, 0)),
        ];
        assert_eq!(
            guest.run(request).await.unwrap().success(),
            "character special file 1:5 640 1000 100\ncharacter special file 1:3 640 1000 100\nfifo 0:0 640 1000 100\n2\n"
        );
    });
}

fn wrong_device() {
    use api::device::Type;
    with_guest(async |guest| {
        let bird = guest.outside().join("bird");
        fs::write(&bird, "sings").unwrap();
        symlink(&bird, guest.rootfs().join("tmp/link")).unwrap();
        for (path, kind) in [
            ("/etc/passwd", Type::TYPE_CHARACTER),
            ("/tmp/link", Type::TYPE_FIFO),
            ("/etc", Type::TYPE_BLOCK),
        ] {
            let mut request = command(&["true"]);
            request.devices = vec![device(path, kind, (1, 5))];
            let failure = guest.create(request).await.unwrap_err();
            assert_eq!(failure.message, format!("cannot make the device {path:?}: something else is there"));
        }
        assert_eq!(fs::metadata(&bird).unwrap().permissions().mode() & 0o777, 0o644);
    });
}

fn sysctls() {
    with_guest(async |guest| {
        let before = fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
        let mut request = shell("cat /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max");
        request.sysctl.insert("kernel.shm_rmid_forced".to_owned(), "1".to_owned());
        request.sysctl.insert("fs/mqueue/msg_max".to_owned(), "77".to_owned());
        assert_eq!(guest.run(request).await.unwrap().success(), "1\n77\n");
        assert_eq!(fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap(), before);
    });
}

fn unknown_sysctl() {
    with_guest(async |guest| {
        let mut request = command(&["true"]);
        request.sysctl.insert("kernel.no_such_thing".to_owned(), "1".to_owned());
        let failure = guest.create(request).await.unwrap_err();
        let expected = "cannot set the sysctl kernel.no_such_thing to \"1\": No such file or directory";
        assert!(failure.message.starts_with(expected), "{failure}");
    });
}

/// CVE-2025-52881: the value goes to the kernel, not to a file that the image has under that name.
fn planted_proc() {
    with_guest(async |guest| {
        let planted = guest.rootfs().join("proc/sys/kernel");
        fs::create_dir_all(&planted).unwrap();
        fs::write(planted.join("msgmax"), "planted").unwrap();
        let mut request =
            shell("mount -t proc proc /tmp && cat /tmp/sys/kernel/msgmax /proc/sys/kernel/msgmax");
        request.mounts.retain(|mount| mount.destination != "/proc");
        request.sysctl.insert("kernel.msgmax".to_owned(), "4321".to_owned());
        assert_eq!(guest.run(request).await.unwrap().success(), "4321\nplanted");
    });
}

fn unknown_limit() {
    with_guest(async |guest| {
        let limit = |file: &str, value: &str| api::CgroupSetting {
            file: file.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        };
        let mut request = command(&["true"]);
        let resources = api::Resources { cgroup: vec![limit("flux.capacity", "1")], ..Default::default() };
        request.resources = MessageField::some(resources);
        let failure = guest.create(request).await.unwrap_err();
        assert_eq!(failure.message, "cannot set flux.capacity: the guest's kernel has no such limit");
    });
}

fn pause() {
    with_guest(async |guest| {
        let (mut stdout, token) = guest.stream().await;
        let mut request = shell("while :; do echo tick; done");
        let streams = api::Streams { stdout: token, ..Default::default() };
        process(&mut request).streams = MessageField::some(streams);
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        container.pause().await.unwrap();
        container.pause().await.unwrap();
        let running = container.processes().unwrap();
        let later = container.processes().unwrap();
        assert_eq!(running, later, "it goes on while it is paused");
        container.resume().await.unwrap();
        let mut goes_on = [0; 1 << 17];
        tokio::io::AsyncReadExt::read_exact(&mut stdout, &mut goes_on).await.unwrap();
        container.signal(9).unwrap();
        // Its end is told when all that it wrote has been read, or will not be.
        drop(stdout);
        container.wait().await;
        assert!(container.pause().await.is_err(), "it has ended");
    });
}

fn kill_paused() {
    with_guest(async |guest| {
        let container = guest.create(command(&["sleep", "1000"])).await.unwrap();
        container.start().await.unwrap();
        container.pause().await.unwrap();
        container.signal(9).unwrap();
        assert_eq!(container.wait().await, Some(agent::reaper::Exit::Signal(9)));
    });
}

fn list() {
    with_guest(async |guest| {
        let (mut stdout, token) = guest.stream().await;
        let mut request = shell("sleep 1000 & echo; wait");
        let streams = api::Streams { stdout: token, ..Default::default() };
        process(&mut request).streams = MessageField::some(streams);
        process(&mut request).user = MessageField::some(api::User { uid: 7, gid: 8, ..Default::default() });
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut stdout, &mut [0]).await.unwrap();
        let mut processes = container.processes().unwrap();
        processes.sort_by_key(|process| process.container_pid);
        let [init, child] = &processes[..] else { panic!("{processes:?}") };
        assert_eq!((init.pid.cast_signed(), init.container_pid), (container.pid().as_raw_nonzero().get(), 1));
        assert_eq!((init.uid, init.gid, &*init.name), (7, 8, "sh"));
        assert_eq!((child.parent_pid, child.container_pid), (init.pid, 2));
        assert_eq!(init.args, ["sh", "-c", "sleep 1000 & echo; wait"]);
        container.signal(9).unwrap();
        container.wait().await;
    });
}

fn copy_up() {
    with_guest(async |guest| {
        let image = guest.rootfs().join("var/data");
        fs::create_dir_all(image.join("sub")).unwrap();
        fs::write(image.join("sub/file"), "content").unwrap();
        std::os::unix::fs::chown(image.join("sub/file"), Some(7), Some(8)).unwrap();
        fs::set_permissions(image.join("sub/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        symlink("/nowhere", image.join("link")).unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o711)).unwrap();
        let mut request = shell(
            "cat /var/data/sub/file; echo; stat -c '%a %u %g' /var/data/sub/file; readlink /var/data/link
             stat -c %a /var/data; echo new > /var/data/sub/file; df /var/data | grep -c tmpfs",
        );
        request.mounts.push(mount_of("tmpfs", "tmpfs", "/var/data", &["tmpcopyup", "size=1m"]));
        assert_eq!(guest.run(request).await.unwrap().success(), "content\n4751 7 8\n/nowhere\n711\n1\n");
        assert_eq!(fs::read_to_string(image.join("sub/file")).unwrap(), "content");

        let mut request = command(&["true"]);
        fs::write(image.join("large"), vec![1; 2 << 20]).unwrap();
        request.mounts.push(mount_of("tmpfs", "tmpfs", "/var/data", &["tmpcopyup", "size=1m"]));
        let failure = guest.create(request).await.unwrap_err();
        assert!(
            failure.message.starts_with("cannot copy what is at \"/var/data\" to the tmpfs"),
            "{failure}"
        );
    });
}

fn tmpfs_mode() {
    with_guest(async |guest| {
        let mut request = shell("stat -c %a /tmp /run/new /etc");
        request.mounts.push(mount_of("tmpfs", "tmpfs", "/tmp", &["nosuid"]));
        request.mounts.push(mount_of("tmpfs", "tmpfs", "/run/new", &[]));
        request.mounts.push(mount_of("tmpfs", "tmpfs", "/etc", &["mode=700"]));
        assert_eq!(guest.run(request).await.unwrap().success(), "1777\n1777\n700\n");
    });
}
