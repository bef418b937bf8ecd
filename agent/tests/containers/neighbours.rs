//! Several containers in one guest: what they share, and how one is forgotten while others live on.

use agent::container::request::ContainerSpec;
use agent_protocol::agent as api;
use agent_protocol::agent::namespace::Kind;
use protobuf::MessageField;
use tokio::io::AsyncReadExt;

use crate::Test;
use crate::guest::{command, exec_of, process, shell, with_guest};
use crate::lives::{ROOT, in_user_namespace};

pub(crate) const TESTS: &[Test] = &[
    ("namespaces_that_are_named_are_the_others", joined),
    ("clocks_and_cgroup_roots_can_be_shared", joined_time_and_cgroup),
    ("a_user_namespace_that_is_joined_owns_what_is_new", joined_user),
    ("a_user_namespace_that_is_joined_may_own_new_clocks", joined_user_new_time),
    ("a_user_namespace_that_its_init_has_left_is_not_joined", joined_user_that_was_left),
    ("the_guests_user_namespace_needs_no_joining", joined_guests_user),
    ("what_cannot_be_joined_is_refused", refused),
    ("a_container_that_is_removed_ends_and_its_name_is_free", removed),
];

/// Has these namespaces of a request be those of a container.
fn join(request: &mut api::CreateContainerRequest, container: &str, kinds: &[Kind]) {
    request.namespaces.retain(|one| !kinds.contains(&one.kind.enum_value().unwrap()));
    request.namespaces.extend(kinds.iter().map(|&kind| api::Namespace {
        kind: kind.into(),
        container_id: container.to_owned(),
        ..Default::default()
    }));
}

fn joined() {
    with_guest(async |guest| {
        let mut first = command(&["sleep", "1000"]);
        first.hostname = "first".to_owned();
        first.namespaces.push(api::Namespace { kind: Kind::KIND_NETWORK.into(), ..Default::default() });
        let first = guest.create(first).await.unwrap();
        first.start().await.unwrap();
        let mut second = shell(
            "for n in mnt pid ipc uts cgroup net; do
                [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] && echo $n
            done
            hostname; [ $$ = 1 ] || echo not the first",
        );
        join(&mut second, first.id(), &[Kind::KIND_PID, Kind::KIND_IPC, Kind::KIND_UTS, Kind::KIND_NETWORK]);
        let output = guest.run(second).await.unwrap().success();
        assert_eq!(output, "pid\nipc\nuts\nnet\nfirst\nnot the first\n");
        first.signal(9).unwrap();
        first.wait().await;
    });
}

fn offset(seconds: i64) -> api::TimeOffset {
    api::TimeOffset { clock: "boottime".to_owned(), seconds, ..Default::default() }
}

fn joined_time_and_cgroup() {
    with_guest(async |guest| {
        let mut first = command(&["sleep", "1000"]);
        first.namespaces.push(api::Namespace { kind: Kind::KIND_TIME.into(), ..Default::default() });
        first.time_offsets = vec![offset(1_000_000_000)];
        let first = guest.create(first).await.unwrap();
        first.start().await.unwrap();
        // Its own cgroup is beside the one that it takes for the root.
        let mut second = shell(
            "[ $(cut -d. -f1 /proc/uptime) -gt 1000000000 ] && echo ahead
            sed -n 's,^0::/../.*,beside,p' /proc/self/cgroup
            for n in time cgroup pid; do
                [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] && echo $n
            done",
        );
        join(&mut second, first.id(), &[Kind::KIND_TIME, Kind::KIND_CGROUP, Kind::KIND_PID]);
        let output = guest.run(second).await.unwrap().success();
        assert_eq!(output, "ahead\nbeside\ntime\ncgroup\npid\n");
        first.signal(9).unwrap();
        first.wait().await;
    });
}

fn joined_user() {
    with_guest(async |guest| {
        let mut first = in_user_namespace(&guest, command(&["sleep", "1000"]));
        first.hostname = "first".to_owned();
        let ids = first.uid_mappings.clone();
        let first = guest.create(first).await.unwrap();
        first.start().await.unwrap();
        // To mount takes a right in the user namespace that the mount namespace belongs to, and so does each of the rest.
        let script = "id -u; tr -s ' ' </proc/self/uid_map; mount -t tmpfs t /tmp && hostname second; echo x >/dev/stdout
            for n in user net uts pid ipc; do
                [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] && echo $n
            done
            hostname; echo $$";
        let network = || api::Namespace { kind: Kind::KIND_NETWORK.into(), ..Default::default() };
        let new = format!("0\n 0 {ROOT} 65536\nx\nuser\nnet\nuts\npid\nipc\nsecond\n1\n");
        let mut second = shell(script);
        second.namespaces.push(network());
        join(&mut second, first.id(), &[Kind::KIND_USER]);
        let output = guest.run(second.clone()).await.unwrap();
        assert_eq!((output.stderr.as_str(), output.stdout.as_str()), ("", new.as_str()));
        // The same ids are no contradiction, others are.
        second.container_id += "-2";
        second.uid_mappings.clone_from(&ids);
        second.gid_mappings.clone_from(&ids);
        assert_eq!(guest.run(second.clone()).await.unwrap().success(), new);
        second.container_id += "-3";
        second.gid_mappings[0].size -= 1;
        let failure = guest.create(second).await.unwrap_err();
        assert!(failure.message.contains("not those of the user namespace"), "{failure}");
        // With others of its namespaces, and with another process of its own.
        let mut third = command(&["sleep", "1000"]);
        third.container_id += "-4";
        let kinds = [Kind::KIND_USER, Kind::KIND_PID, Kind::KIND_UTS, Kind::KIND_IPC, Kind::KIND_NETWORK];
        join(&mut third, first.id(), &kinds);
        let third = guest.create(third).await.unwrap();
        third.start().await.unwrap();
        let script = "id -u; hostname; for n in user net uts pid ipc; do
                [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] && echo $n
            done";
        let output = guest.exec(&third, exec_of(&["sh", "-c", script])).await.unwrap().success();
        assert_eq!(output, "0\nfirst\nuser\nnet\nuts\npid\nipc\n");
        for container in [third, first] {
            container.signal(9).unwrap();
            container.wait().await;
        }
    });
}

fn joined_user_new_time() {
    with_guest(async |guest| {
        let first = guest.create(in_user_namespace(&guest, command(&["sleep", "1000"]))).await.unwrap();
        first.start().await.unwrap();
        let mut second = shell(
            "[ $(cut -d. -f1 /proc/uptime) -gt 1000000000 ] && echo ahead; tr -s ' ' </proc/self/uid_map",
        );
        second.namespaces.push(api::Namespace { kind: Kind::KIND_TIME.into(), ..Default::default() });
        second.time_offsets = vec![offset(1_000_000_000)];
        // Its network too, for the sake of sysfs.
        join(&mut second, first.id(), &[Kind::KIND_USER, Kind::KIND_NETWORK]);
        let output = guest.run(second).await.unwrap().success();
        assert_eq!(output, format!("ahead\n 0 {ROOT} 65536\n"));
        first.signal(9).unwrap();
        first.wait().await;
    });
}

/// It is the process between that finds out, and it says so, and leaves nothing.
fn joined_user_that_was_left() {
    with_guest(async |guest| {
        let (mut output, stdout) = guest.stream().await;
        let mut first =
            in_user_namespace(&guest, shell("exec unshare -U -r sh -c 'echo left; exec sleep 1000'"));
        let streams = api::Streams { stdout, ..Default::default() };
        process(&mut first).streams = MessageField::some(streams);
        let first = guest.create(first).await.unwrap();
        first.start().await.unwrap();
        output.read_exact(&mut [0; 5]).await.unwrap();
        let mut second = shell("true");
        join(&mut second, first.id(), &[Kind::KIND_USER]);
        let failure = guest.create(second.clone()).await.unwrap_err();
        assert!(failure.message.ends_with("has left it for another one"), "{failure}");
        // What is not of that namespace can be joined all the same.
        second.namespaces.retain(|one| one.kind != Kind::KIND_USER.into());
        join(&mut second, first.id(), &[Kind::KIND_UTS]);
        guest.run(second).await.unwrap().success();
        first.signal(9).unwrap();
        first.wait().await;
    });
}

/// There is nothing to join, and nothing else to be in.
fn joined_guests_user() {
    with_guest(async |guest| {
        let first = guest.create(command(&["sleep", "1000"])).await.unwrap();
        first.start().await.unwrap();
        let mut second = shell("id -u; tr -s ' ' </proc/self/uid_map; mount -t tmpfs t /tmp");
        join(&mut second, first.id(), &[Kind::KIND_USER]);
        let output = guest.run(second).await.unwrap().success();
        assert_eq!(output, "0\n 0 0 4294967295\n");
        first.signal(9).unwrap();
        first.wait().await;
    });
}

fn refused() {
    with_guest(async |guest| {
        let first = guest.create(command(&["true"])).await.unwrap();
        first.signal(9).unwrap();
        first.wait().await;
        for (container, message) in [(first.id(), "has ended"), ("none", "does not exist")] {
            let mut second = command(&["true"]);
            join(&mut second, container, &[Kind::KIND_IPC]);
            let failure = guest.create(second).await.unwrap_err();
            assert!(failure.message.ends_with(message), "{failure}");
        }
        let mut second = command(&["true"]);
        join(&mut second, first.id(), &[Kind::KIND_MOUNT]);
        let error = ContainerSpec::from_request(second).unwrap_err().to_string();
        assert!(error.starts_with("joining a namespace of kind"), "{error}");
        let mut second = command(&["true"]);
        join(&mut second, first.id(), &[Kind::KIND_TIME]);
        second.time_offsets = vec![offset(1)];
        let error = ContainerSpec::from_request(second).unwrap_err().to_string();
        assert!(error.contains("it needs a time namespace of the container's own"), "{error}");
        let mut second = command(&["true"]);
        join(&mut second, first.id(), &[Kind::KIND_IPC]);
        second.namespaces.push(api::Namespace { kind: Kind::KIND_USER.into(), ..Default::default() });
        assert!(ContainerSpec::from_request(second).is_err());
    });
}

fn removed() {
    with_guest(async |guest| {
        let request = command(&["sleep", "1000"]);
        let first = guest.create(request.clone()).await.unwrap();
        first.start().await.unwrap();
        guest.containers.remove(first.id()).await.unwrap();
        assert!(first.exited().await.is_some());
        let second = guest.create(request).await.unwrap();
        guest.containers.remove(second.id()).await.unwrap();
        guest.containers.remove(second.id()).await.unwrap();
        guest.containers.remove("none").await.unwrap();
    });
}
