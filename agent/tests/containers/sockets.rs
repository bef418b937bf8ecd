//! Sockets of the host in a container. There is no host that listens: who connects is told so by the end.

use std::time::Duration;

use agent::container::Container;
use agent::reaper::Exit;
use agent_protocol::agent as api;
use protobuf::MessageField;
use rustix::fs::{FileType, Mode};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::Test;
use crate::guest::{Guest, command, with_guest};
use crate::relays::{hold, relay, relays};

pub(crate) const TESTS: &[Test] = &[
    ("a_socket_is_there_as_long_as_the_container_lives", life),
    ("who_reads_a_connection_can_be_held_and_is_not_the_agent", held),
    ("only_a_container_that_has_sockets_has_a_relay_for_them", none),
];

/// The vsock port. None that a host might have in use.
const PORT: u32 = 0x7fff_f001;

/// The name of the process that relays them.
const RELAY: &str = "sockets";

fn with_socket(args: &[&str]) -> api::CreateContainerRequest {
    let socket = api::UnixSocket { port: PORT, mode: 0o640, uid: 7, gid: 8, ..Default::default() };
    let mut request = command(args);
    request.mounts.push(api::Mount {
        destination: "/run/host.sock".to_owned(),
        socket: MessageField::some(socket),
        ..Default::default()
    });
    request
}

/// A connection as of a process in the container.
fn connect(container: &Container) -> UnixStream {
    let path = format!("/proc/{}/root/run/host.sock", container.pid().as_raw_nonzero());
    let connection = std::os::unix::net::UnixStream::connect(path).unwrap();
    connection.set_nonblocking(true).unwrap();
    UnixStream::from_std(connection).unwrap()
}

fn folders(guest: &Guest) -> usize {
    std::fs::read_dir(&guest.containers.places.sockets).map_or(0, Iterator::count)
}

fn life() {
    with_guest(async |guest| {
        let container = guest.create(with_socket(&["sleep", "1000"])).await.unwrap();
        container.start().await.unwrap();
        let path = format!("/proc/{}/root/run/host.sock", container.pid().as_raw_nonzero());
        let status = rustix::fs::stat(path).unwrap();
        assert_eq!(FileType::from_raw_mode(status.st_mode), FileType::Socket);
        assert_eq!(Mode::from_raw_mode(status.st_mode).bits(), 0o640);
        assert_eq!((status.st_uid, status.st_gid), (7, 8));
        // Twice: the first does not end it.
        for _ in 0..2 {
            assert_eq!(connect(&container).read(&mut [0]).await.unwrap(), 0);
        }
        assert_eq!((relays(RELAY).len(), folders(&guest)), (1, 1));
        container.signal(9).unwrap();
        assert_eq!(container.wait().await, Some(Exit::Signal(9)));
        assert_eq!(folders(&guest), 0);
    });
}

fn held() {
    with_guest(async |guest| {
        let container = guest.create(with_socket(&["sleep", "1000"])).await.unwrap();
        container.start().await.unwrap();
        let mut connection = connect(&container);
        // Longer than an agent that is not held can take.
        let far = hold(relay(RELAY).await, &connection, Duration::from_secs(20));
        let end = async {
            // Closed, with what has not been read.
            let ended = connection.read(&mut [0]).await;
            assert!(!matches!(ended, Ok(1..)), "{ended:?}");
            container.signal(9).unwrap();
            container.wait().await
        };
        let end = tokio::time::timeout(Duration::from_secs(10), end).await;
        assert_eq!(end.expect("the agent was held"), Some(Exit::Signal(9)));
        drop(far);
    });
}

fn none() {
    with_guest(async |guest| {
        let container = guest.create(command(&["sleep", "1000"])).await.unwrap();
        container.start().await.unwrap();
        assert_eq!((relays(RELAY), folders(&guest)), (Vec::new(), 0));
        // Nor one that could not be made.
        let mut request = with_socket(&["true"]);
        request.mounts.push(api::Mount {
            destination: "/there".to_owned(),
            type_: "no-such-file-system".to_owned(),
            source: "none".to_owned(),
            ..Default::default()
        });
        guest.create(request).await.unwrap_err();
        assert_eq!(folders(&guest), 0);
    });
}
