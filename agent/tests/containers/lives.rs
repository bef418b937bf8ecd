//! User and time namespaces, and startContainer hooks.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use agent::reaper::Exit;
use agent_protocol::agent as api;
use agent_protocol::agent::namespace::Kind;
use protobuf::MessageField;

use crate::Test;
use crate::guest::{Guest, command, exec_of, mount_of, process, shell, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("root_of_a_user_namespace_is_somebody_else_outside", user_namespace),
    ("other_processes_are_in_the_user_namespace_too", user_namespace_exec),
    ("a_user_of_a_user_namespace_owns_its_stdio", user_namespace_stdio),
    ("ids_that_overlap_are_refused", overlapping_ids),
    ("the_clocks_of_a_time_namespace_are_ahead", time_namespace),
    ("hooks_run_in_the_container_just_before_the_workload", hooks),
    ("a_hook_that_fails_keeps_the_workload_from_running", failing_hook),
    ("a_hook_that_takes_too_long_is_killed", slow_hook),
    ("tmpcopyup_works_in_a_user_namespace", copy_up),
];

pub(crate) const ROOT: u32 = 100_000;

/// In a user namespace of its own, with a network, for the sake of sysfs.
pub(crate) fn in_user_namespace(
    guest: &Guest,
    mut request: api::CreateContainerRequest,
) -> api::CreateContainerRequest {
    for kind in [Kind::KIND_USER, Kind::KIND_NETWORK] {
        request.namespaces.push(api::Namespace { kind: kind.into(), ..Default::default() });
    }
    let ids = api::IdMapping { container_id: 0, host_id: ROOT, size: 65536, ..Default::default() };
    request.uid_mappings = vec![ids.clone()];
    request.gid_mappings = vec![ids];
    // The places on the way are the test's own.
    let folder = guest.share.parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    chown(guest.rootfs(), Some(ROOT), Some(ROOT)).unwrap();
    request
}

/// What belongs to nobody in there belongs to its root in the copy.
fn copy_up() {
    with_guest(async |guest| {
        let image = guest.rootfs().join("var/data");
        fs::create_dir_all(&image).unwrap();
        fs::write(image.join("file"), "content").unwrap();
        let mut request = in_user_namespace(
            &guest,
            shell("cat /var/data/file; stat -c ' %u' /var/data/file; touch /var/data/x"),
        );
        request.uid_mappings.iter_mut().chain(&mut request.gid_mappings).for_each(|ids| ids.size = 1000);
        request.mounts.push(mount_of("tmpfs", "tmpfs", "/var/data", &["tmpcopyup"]));
        assert_eq!(guest.run(request).await.unwrap().success(), "content 0\n");
    });
}

fn user_namespace() {
    with_guest(async |guest| {
        let script = "id -u; tr -s ' ' </proc/self/uid_map; echo x >/new; stat -c %u /etc /new; \
            grep ^CapEff /proc/self/status; echo y >/dev/null; hostname; mount -t tmpfs t /tmp";
        let mut request = in_user_namespace(&guest, shell(script));
        request.hostname = "box".to_owned();
        let outcome = guest.run(request).await.unwrap();
        assert_eq!(outcome.stderr, "");
        let text = outcome.success();
        let all = text.lines().find(|line| line.starts_with("CapEff")).unwrap();
        assert!(all.ends_with("ffffffff"), "{text}");
        assert!(
            text.starts_with(&format!("0\n 0 {ROOT} 65536\n65534\n0\nCapEff")) && text.ends_with("\nbox\n"),
            "{text}"
        );
        assert_eq!(fs::metadata(guest.rootfs().join("new")).unwrap().uid(), ROOT);
    });
}

fn user_namespace_exec() {
    with_guest(async |guest| {
        let container = guest.create(in_user_namespace(&guest, command(&["sleep", "1000"]))).await.unwrap();
        container.start().await.unwrap();
        let script = "id -u; for n in user mnt pid net cgroup; do
                [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo other $n
            done; echo again >/dev/stdout";
        let mut request = exec_of(&["sh", "-c", script]);
        request.process.mut_or_insert_default().user =
            MessageField::some(api::User { uid: 1000, gid: 100, ..Default::default() });
        // Another user may not read the init's links.
        let outcome = guest.exec(&container, request).await.unwrap().success();
        assert!(outcome.starts_with("1000\n") && outcome.ends_with("again\n"), "{outcome}");
        let outcome = guest.exec(&container, exec_of(&["sh", "-c", script])).await.unwrap().success();
        assert_eq!(outcome, "0\nagain\n");
    });
}

fn user_namespace_stdio() {
    with_guest(async |guest| {
        let mut request = in_user_namespace(&guest, shell("id -u; echo open >/dev/stdout"));
        process(&mut request).user =
            MessageField::some(api::User { uid: 1000, gid: 100, ..Default::default() });
        assert_eq!(guest.run(request).await.unwrap().success(), "1000\nopen\n");
    });
}

fn overlapping_ids() {
    with_guest(async |guest| {
        let mut request = in_user_namespace(&guest, command(&["true"]));
        let again = request.uid_mappings[0].clone();
        request.uid_mappings.push(again);
        let failure = guest.create(request).await.unwrap_err();
        assert!(failure.message.starts_with("cannot write the uid_map"), "{failure}");
    });
}

fn time_namespace() {
    with_guest(async |guest| {
        let mut request = shell("cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime");
        request.namespaces.push(api::Namespace { kind: Kind::KIND_TIME.into(), ..Default::default() });
        request.time_offsets = [("monotonic", 1000), ("boottime", 1_000_000_000)]
            .map(|(clock, seconds)| api::TimeOffset {
                clock: clock.to_owned(),
                seconds,
                nanoseconds: 5,
                ..Default::default()
            })
            .to_vec();
        let text = guest.run(request).await.unwrap().success();
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words[..6], ["monotonic", "1000", "5", "boottime", "1000000000", "5"], "{text}");
        assert!(words[6].parse::<u64>().unwrap() > 1_000_000_000, "{text}");
    });
}

fn hook(script: &str) -> api::Hook {
    api::Hook {
        path: "/bin/sh".to_owned(),
        args: ["sh", "-c", script, "hook"].map(str::to_owned).to_vec(),
        env: vec!["A=b".to_owned()],
        ..Default::default()
    }
}

fn hooks() {
    with_guest(async |guest| {
        let mut request = shell("cat /tmp/log");
        request.hostname = "box".to_owned();
        request.start_container_hooks =
            vec![hook("(echo $0 $A; cat; echo; hostname; id -u) >>/tmp/log"), hook("echo second >>/tmp/log")];
        request.state = r#"{"id":"box"}"#.to_owned();
        process(&mut request).user =
            MessageField::some(api::User { uid: 1000, gid: 100, ..Default::default() });
        let container = guest.create(request.clone()).await.unwrap();
        assert!(!guest.rootfs().join("tmp/log").exists());
        container.signal(9).unwrap();
        request.container_id += "-2";
        let text = guest.run(request).await.unwrap().success();
        assert_eq!(text, "hook b\n{\"pid\":1,\"id\":\"box\"}\nbox\n1000\nsecond\n");
    });
}

fn failing_hook() {
    with_guest(async |guest| {
        let mut request = shell("touch /tmp/ran");
        request.start_container_hooks = vec![hook("true"), hook("echo out; echo err >&2; exit 7")];
        request.state = r#"{"id":"box"}"#.to_owned();
        let container = guest.create(request).await.unwrap();
        let failure = container.start().await.unwrap_err();
        assert_eq!(
            failure.message,
            "error running startContainer hook #1: exit status 7, stdout: out, stderr: err"
        );
        assert_eq!(container.wait().await, Some(Exit::Code(1)));
        assert!(!guest.rootfs().join("tmp/ran").exists());
    });
}

fn slow_hook() {
    with_guest(async |guest| {
        let mut request = command(&["true"]);
        request.start_container_hooks = vec![api::Hook { timeout_seconds: 1, ..hook("exec sleep 1000") }];
        request.state = r#"{"id":"box"}"#.to_owned();
        let container = guest.create(request).await.unwrap();
        let failure = container.start().await.unwrap_err();
        assert_eq!(
            failure.message,
            "error running startContainer hook #0: hook ran past specified timeout of 1s"
        );
    });
}
