//! From create to the end: status, signals, reaping, nothing left.

use std::fs;

use agent::container::status::Status;
use agent::reaper::Exit;
use agent_protocol::agent::namespace::Kind;

use crate::Test;
use crate::guest::{command, shell, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("an_exit_status_is_passed_on", exit_status),
    ("a_signal_is_told_from_an_exit_status", signal_status),
    ("the_status_can_be_asked_for_before_at_and_after_the_end", several_waiters),
    ("a_created_container_has_not_run_its_workload", created),
    ("a_container_starts_once", starts_once),
    ("an_id_is_taken_once", id_taken),
    ("the_workload_is_process_1_and_sees_only_its_own", process_1),
    ("orphans_of_a_shared_pid_namespace_are_killed_and_reaped", orphans),
    ("a_signal_to_all_reaches_children", signal_all),
    ("a_created_container_can_be_killed", kill_created),
];

fn exit_status() {
    with_guest(async |guest| {
        for status in [0, 7, 255] {
            let outcome = guest.run(shell(&format!("exit {status}"))).await.unwrap();
            assert_eq!(outcome.exit, Exit::Code(status));
        }
    });
}

fn signal_status() {
    with_guest(async |guest| {
        let container = guest.create(command(&["sleep", "1000"])).await.unwrap();
        container.start().await.unwrap();
        container.signal(9).unwrap();
        assert_eq!(container.wait().await, Some(Exit::Signal(9)));
        assert_eq!(container.status(), Status::Stopped);
        assert!(container.signal(9).is_err());
    });
}

fn several_waiters() {
    with_guest(async |guest| {
        let container = guest.create(shell("exit 3")).await.unwrap();
        let early = {
            let container = container.clone();
            tokio::spawn(async move { container.wait().await })
        };
        container.start().await.unwrap();
        assert_eq!(container.wait().await, Some(Exit::Code(3)));
        assert_eq!(early.await.unwrap(), Some(Exit::Code(3)));
        assert_eq!(container.wait().await, Some(Exit::Code(3)));
    });
}

fn created() {
    with_guest(async |guest| {
        let container = guest.create(command(&["touch", "/ran"])).await.unwrap();
        assert_eq!(container.status(), Status::Created);
        assert!(!guest.rootfs().join("ran").exists());
        container.start().await.unwrap();
        container.wait().await;
        assert!(guest.rootfs().join("ran").exists());
    });
}

fn starts_once() {
    with_guest(async |guest| {
        let container = guest.create(command(&["true"])).await.unwrap();
        container.start().await.unwrap();
        let refused = container.start().await.unwrap_err();
        assert!(refused.message.contains("cannot be started"), "{refused}");
    });
}

fn id_taken() {
    with_guest(async |guest| {
        let request = command(&["true"]);
        guest.create(request.clone()).await.unwrap();
        let refused = guest.create(request).await.unwrap_err();
        assert!(refused.message.ends_with("already exists"), "{refused}");
    });
}

fn process_1() {
    with_guest(async |guest| {
        let output = guest.shell("echo $$; ps -o pid,comm | wc -l; readlink /proc/1/exe").await;
        // The heading, the shell and the two of the pipe.
        assert_eq!(output, "1\n4\n/bin/busybox\n");
    });
}

fn orphans() {
    with_guest(async |guest| {
        let mut request = shell("(sleep 1000 & sleep 1000 &) ; cat /proc/self/cgroup");
        request.namespaces.retain(|namespace| namespace.kind != Kind::KIND_PID.into());
        // That it ends at all shows that nobody waits for the sleeps, which hold stdout open; that they
        // are gone is checked for every test.
        let outcome = guest.run(request).await.unwrap();
        assert_eq!(outcome.exit, Exit::Code(0), "{outcome:?}");
        assert!(outcome.stdout.contains("0::/"));
    });
}

fn signal_all() {
    with_guest(async |guest| {
        // The child is ready once it has executed a program of its own: until then it has its parent's trap.
        let script = "trap 'wait; exit 5' USR1; sh -c 'touch /tmp/ready; exec sleep 1000' & wait";
        let container = guest.create(shell(script)).await.unwrap();
        container.start().await.unwrap();
        while !guest.rootfs().join("tmp/ready").exists() {
            tokio::task::yield_now().await;
        }
        container.signal_all(10).unwrap();
        assert_eq!(container.wait().await, Some(Exit::Code(5)));
    });
}

fn kill_created() {
    with_guest(async |guest| {
        let container = guest.create(command(&["true"])).await.unwrap();
        let cgroup = guest.cgroups.join(
            fs::read_dir(&guest.cgroups)
                .unwrap()
                .flatten()
                .find(|entry| entry.path().is_dir())
                .unwrap()
                .file_name(),
        );
        container.signal(9).unwrap();
        assert_eq!(container.wait().await, Some(Exit::Signal(9)));
        assert!(!cgroup.exists());
        assert!(container.start().await.unwrap_err().message.contains("it is stopped"));
    });
}
