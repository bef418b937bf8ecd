//! What a process has from 3 on.

use std::time::Duration;

use agent::container::Container;
use agent::reaper::Exit;
use agent_protocol::agent as api;
use api::descriptor::Kind;
use protobuf::MessageField;
use rustix::net::sockopt::socket_acceptconn;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::Test;
use crate::guest::{command, process, shell, with_guest};
use crate::relays::{hold, relay};

pub(crate) const TESTS: &[Test] = &[
    ("pipes_are_where_they_were_asked_for_and_nothing_else_is_open", pipes),
    ("a_socket_passes_the_end_of_each_direction_on", socket),
    ("connections_to_a_listener_come_as_they_are_made", listener),
    ("what_is_left_does_not_hold_up_the_end", left),
    ("who_reads_a_socket_can_be_held_and_holds_nobody_else", held),
    ("an_end_of_the_process_is_one_of_the_descriptor", closed),
    ("a_process_that_is_executed_has_them_too", exec),
    ("what_fails_in_spite_of_them_is_told", failures),
    ("they_stand_beside_a_terminal", terminal),
    ("a_stream_that_does_not_come_is_an_error", absent),
];

fn descriptor(kind: Kind, token: u64) -> api::Descriptor {
    api::Descriptor { kind: kind.into(), token, ..Default::default() }
}

fn pipes() {
    with_guest(async |guest| {
        let (mut input, reader) = guest.stream().await;
        let (mut output, writer) = guest.stream().await;
        let (mut stdout, out) = guest.stream().await;
        let mut request =
            shell("ls /proc/self/fd | tr '\\n' ' '; stat -Lc %F /dev/fd/3 /dev/fd/4; cat <&3 >&4");
        process(&mut request).streams =
            MessageField::some(api::Streams { stdout: out, ..Default::default() });
        process(&mut request).descriptors =
            vec![descriptor(Kind::KIND_READER, reader), descriptor(Kind::KIND_WRITER, writer)];
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        input.write_all(b"through both").await.unwrap();
        input.shutdown().await.unwrap();
        let (mut text, mut said) = (String::new(), String::new());
        output.read_to_string(&mut text).await.unwrap();
        stdout.read_to_string(&mut said).await.unwrap();
        assert_eq!(text, "through both");
        // 5 is the listing's own.
        assert_eq!(said, "0 1 2 3 4 5 fifo\nfifo\n");
        assert_eq!(container.wait().await, Some(Exit::Code(0)));
    });
}

fn socket() {
    with_guest(async |guest| {
        let (mut shim, token) = guest.stream().await;
        // The answer only comes when the question has ended.
        let mut request = shell("text=$(cat <&3); echo \"heard $text\" >&3; test -S /dev/fd/3");
        process(&mut request).descriptors = vec![descriptor(Kind::KIND_SOCKET, token)];
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        shim.write_all(b"a question").await.unwrap();
        shim.shutdown().await.unwrap();
        let mut text = String::new();
        shim.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "heard a question\n");
        drop(shim);
        assert_eq!(container.wait().await, Some(Exit::Code(0)));
    });
}

/// The listening socket of a process, for the test to accept in its stead.
fn socket_of(container: &Container) -> UnixListener {
    let process = pidfd_open(container.pid(), PidfdFlags::empty()).unwrap();
    let socket = pidfd_getfd(process, 3, PidfdGetfdFlags::empty()).unwrap();
    assert!(socket_acceptconn(&socket).unwrap());
    let listener = std::os::unix::net::UnixListener::from(socket);
    listener.set_nonblocking(true).unwrap();
    UnixListener::from_std(listener).unwrap()
}

async fn to_end(stream: &mut UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

fn listener() {
    with_guest(async |guest| {
        let token = 0x0123_4567_89ab_cdef;
        let mut request = command(&["sleep", "1000"]);
        process(&mut request).descriptors = vec![descriptor(Kind::KIND_LISTENER, token)];
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        let listener = socket_of(&container);
        let mut clients = Vec::new();
        for name in ["one", "two"] {
            let mut client = guest.stream_of(token).await;
            client.write_all(name.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            clients.push(client);
        }
        // Both at a time, and each with an answer of its own.
        let (mut first, mut second) =
            (listener.accept().await.unwrap().0, listener.accept().await.unwrap().0);
        for server in [&mut first, &mut second] {
            let answer = format!("to {}", to_end(server).await);
            server.write_all(answer.as_bytes()).await.unwrap();
        }
        drop((first, second));
        assert_eq!(to_end(&mut clients[0]).await, "to one");
        assert_eq!(to_end(&mut clients[1]).await, "to two");

        // A client that goes on when the server has hung up gets the end, and is let go.
        let mut client = guest.stream_of(token).await;
        drop(listener.accept().await.unwrap());
        assert_eq!(to_end(&mut client).await, "");
        drop(listener);
        container.signal(9).unwrap();
        assert_eq!(container.wait().await, Some(Exit::Signal(9)));
        let left: Vec<_> = std::fs::read_dir(&guest.containers.places.sockets).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

fn left() {
    with_guest(async |guest| {
        let mut tokens = Vec::new();
        let mut shims = Vec::new();
        for kind in [Kind::KIND_READER, Kind::KIND_WRITER, Kind::KIND_SOCKET] {
            let (shim, token) = guest.stream().await;
            shims.push(shim);
            tokens.push(descriptor(kind, token));
        }
        tokens.push(descriptor(Kind::KIND_LISTENER, 0x1111));
        // More than the way to the shim holds, of which nobody takes anything.
        let mut request = shell("dd if=/dev/zero bs=64k count=100 >&5 2>/dev/null & sleep 0.2; exit 3");
        process(&mut request).descriptors = tokens;
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        assert_eq!(container.wait().await, Some(Exit::Code(3)));
        drop(shims);
    });
}

fn held() {
    with_guest(async |guest| {
        let (mut shim, token) = guest.stream().await;
        let mut request = command(&["sleep", "1000"]);
        process(&mut request).descriptors = vec![descriptor(Kind::KIND_SOCKET, token)];
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        // In the workload's stead.
        let process = pidfd_open(container.pid(), PidfdFlags::empty()).unwrap();
        let socket = pidfd_getfd(process, 3, PidfdGetfdFlags::empty()).unwrap();
        let far = hold(relay("stdio").await, &socket, Duration::from_secs(20));
        // It has been read, or cannot be.
        let taken = tokio::time::timeout(Duration::from_millis(100), shim.read(&mut [0])).await;
        assert!(taken.is_err(), "the reader was not held");
        container.signal(9).unwrap();
        assert_eq!(container.wait().await, Some(Exit::Signal(9)));
        drop(far);
    });
}

fn closed() {
    with_guest(async |guest| {
        let (mut output, writer) = guest.stream().await;
        let (mut both, token) = guest.stream().await;
        let mut request = shell("exec 3>&- 4>&-; sleep 1000");
        process(&mut request).descriptors =
            vec![descriptor(Kind::KIND_WRITER, writer), descriptor(Kind::KIND_SOCKET, token)];
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        assert_eq!(output.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(both.read(&mut [0]).await.unwrap(), 0);
        container.signal(9).unwrap();
        assert_eq!(container.wait().await, Some(Exit::Signal(9)));
    });
}

fn exec() {
    with_guest(async |guest| {
        let container = guest.create(command(&["sleep", "1000"])).await.unwrap();
        container.start().await.unwrap();
        let (mut input, reader) = guest.stream().await;
        input.write_all(b"for the second process").await.unwrap();
        input.shutdown().await.unwrap();
        let process = api::Process {
            args: ["sh", "-c", "cat <&3"].map(Into::into).to_vec(),
            env: vec!["PATH=/bin".to_owned()],
            cwd: "/".to_owned(),
            descriptors: vec![descriptor(Kind::KIND_READER, reader)],
            ..Default::default()
        };
        let request = api::ExecProcessRequest {
            container_id: container.id().to_owned(),
            exec_id: "x".to_owned(),
            process: MessageField::some(process),
            ..Default::default()
        };
        assert_eq!(guest.exec(&container, request).await.unwrap().success(), "for the second process");
    });
}

/// The numbers are those at which the agent's own would be in the child.
async fn many(guest: &crate::guest::Guest) -> (Vec<UnixStream>, Vec<api::Descriptor>) {
    let (mut shims, mut descriptors) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        let (shim, token) = guest.stream().await;
        shims.push(shim);
        descriptors.push(descriptor(Kind::KIND_WRITER, token));
    }
    (shims, descriptors)
}

fn failures() {
    with_guest(async |guest| {
        let program = guest.rootfs().join("bin/garbage");
        std::fs::write(&program, [0; 64]).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (shims, descriptors) = many(&guest).await;
        let mut request = command(&["garbage"]);
        process(&mut request).descriptors = descriptors;
        let container = guest.create(request).await.unwrap();
        let failure = container.start().await.unwrap_err();
        assert!(failure.message.contains("exec format error"), "{failure}");
        for mut shim in shims {
            assert_eq!(shim.read(&mut [0]).await.unwrap(), 0);
        }
    });
}

fn terminal() {
    with_guest(async |guest| {
        let (shims, descriptors) = many(&guest).await;
        let (mut screen, token) = guest.stream().await;
        let script =
            "for fd in 3 4 5 6 7 8 9; do echo $fd >/proc/self/fd/$fd; done; echo 14 >/proc/self/fd/14; tty";
        let mut request = shell(script);
        process(&mut request).terminal = true;
        process(&mut request).streams =
            MessageField::some(api::Streams { terminal: token, ..Default::default() });
        process(&mut request).descriptors = descriptors;
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        for (fd, mut shim) in (3..).zip(shims) {
            let expected = if (10..14).contains(&fd) { String::new() } else { format!("{fd}\n") };
            assert_eq!(to_end(&mut shim).await, expected);
        }
        assert_eq!(to_end(&mut screen).await, "/dev/pts/0\r\n");
        drop(screen);
        assert_eq!(container.wait().await, Some(Exit::Code(0)));
    });
}

fn absent() {
    with_guest(async |guest| {
        tokio::time::pause();
        let mut request = command(&["true"]);
        process(&mut request).descriptors = vec![descriptor(Kind::KIND_SOCKET, 42)];
        let failure = guest.create(request).await.unwrap_err();
        tokio::time::resume();
        assert!(
            failure.message.starts_with("cannot connect a descriptor from 3 on: no connection with"),
            "{failure}"
        );
    });
}
