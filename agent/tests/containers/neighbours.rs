//! Several containers in one guest: what they share, and how one is forgotten while others live on.

use agent::container::request::ContainerSpec;
use agent_protocol::agent as api;
use agent_protocol::agent::namespace::Kind;

use crate::Test;
use crate::guest::{command, shell, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("namespaces_that_are_named_are_the_others", joined),
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
        for kind in [Kind::KIND_MOUNT, Kind::KIND_CGROUP, Kind::KIND_TIME] {
            let mut second = command(&["true"]);
            join(&mut second, first.id(), &[kind]);
            let error = ContainerSpec::from_request(second).unwrap_err().to_string();
            assert!(error.starts_with("joining a namespace of kind"), "{error}");
        }
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
