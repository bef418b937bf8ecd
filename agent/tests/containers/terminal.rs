//! A workload with a terminal.

use agent::container::Container;
use agent::process::console::WindowSize;
use agent::reaper::Exit;
use agent_protocol::agent as api;
use protobuf::MessageField;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::Test;
use crate::guest::{Guest, process, shell, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("stdio_and_the_console_are_the_containers_own_terminal", own_terminal),
    ("keys_arrive_and_control_c_interrupts", keys),
    ("a_new_size_is_announced", new_size),
    ("the_last_words_arrive", last_words),
    ("a_lost_connection_hangs_up", hang_up),
    ("the_user_owns_the_terminal", owner),
    ("without_devpts_there_is_no_terminal", no_devpts),
];

async fn start(guest: &Guest, script: &str, uid: u32) -> (Arc<Container>, UnixStream) {
    let (stream, terminal) = guest.stream().await;
    let mut request = shell(script);
    let process = process(&mut request);
    process.terminal = true;
    process.console_size =
        MessageField::some(api::WindowSize { columns: 100, rows: 30, ..Default::default() });
    process.streams = MessageField::some(api::Streams { terminal, ..Default::default() });
    process.user = MessageField::some(api::User { uid, gid: uid, ..Default::default() });
    let container = guest.create(request).await.unwrap();
    container.start().await.unwrap();
    (container, stream)
}

/// Reads until `text` has come.
async fn read_until(stream: &mut UnixStream, text: &str) -> String {
    let mut read = String::new();
    while !read.contains(text) {
        let mut buffer = [0; 256];
        let length = stream.read(&mut buffer).await.unwrap();
        assert_ne!(length, 0, "{text:?} did not come, but {read:?}");
        read.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    read
}

fn own_terminal() {
    with_guest(async |guest| {
        let script = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && stat -c %t:%T /dev/console /dev/pts/0; \
            echo to-tty > /dev/tty; echo to-console > /dev/console";
        let (container, mut stream) = start(&guest, script, 0).await;
        let mut output = String::new();
        stream.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "/dev/pts/0\r\n30 100\r\n88:0\r\n88:0\r\nto-tty\r\nto-console\r\n");
        assert_eq!(container.wait().await, Some(Exit::Code(0)));
    });
}

/// The shell waits for a signal by `wait`: its `read` sleeps on if one comes just before it sleeps.
fn keys() {
    with_guest(async |guest| {
        let script =
            "trap 'echo interrupted; exit 4' INT; echo ready; read line; echo got $line; sleep 1000 & wait";
        let (container, mut stream) = start(&guest, script, 0).await;
        read_until(&mut stream, "ready").await;
        stream.write_all(b"hello\r").await.unwrap();
        read_until(&mut stream, "got hello").await;
        stream.write_all(b"\x03").await.unwrap();
        read_until(&mut stream, "interrupted").await;
        assert_eq!(container.wait().await, Some(Exit::Code(4)));
    });
}

fn new_size() {
    with_guest(async |guest| {
        let script = "trap 'stty size; exit 0' WINCH; echo ready; sleep 1000 & wait";
        let (container, mut stream) = start(&guest, script, 0).await;
        read_until(&mut stream, "ready").await;
        container
            .process("")
            .unwrap()
            .terminal()
            .unwrap()
            .resize(WindowSize { columns: 132, rows: 50 })
            .unwrap();
        read_until(&mut stream, "50 132").await;
        assert_eq!(container.wait().await, Some(Exit::Code(0)));
    });
}

fn last_words() {
    with_guest(async |guest| {
        for _ in 0..5 {
            let (container, mut stream) = start(&guest, "seq 20000", 0).await;
            let mut output = String::new();
            let (exit, read) = tokio::join!(container.wait(), stream.read_to_string(&mut output));
            read.unwrap();
            assert_eq!(exit, Some(Exit::Code(0)));
            assert!(output.ends_with("\r\n19999\r\n20000\r\n"), "{:?}", output.len());
        }
    });
}

fn hang_up() {
    with_guest(async |guest| {
        let script = "trap 'exit 9' HUP; echo ready; while :; do echo more; done";
        let (container, mut stream) = start(&guest, script, 0).await;
        read_until(&mut stream, "ready").await;
        drop(stream);
        assert_eq!(container.wait().await, Some(Exit::Code(9)));
    });
}

fn owner() {
    with_guest(async |guest| {
        let (container, mut stream) = start(&guest, "stat -c '%u %g' $(tty); echo x > $(tty)", 1000).await;
        assert!(read_until(&mut stream, "x").await.starts_with("1000 5\r\nx"));
        assert_eq!(container.wait().await, Some(Exit::Code(0)));
    });
}

fn no_devpts() {
    with_guest(async |guest| {
        let mut request = shell("true");
        request.mounts.retain(|mount| mount.type_ != "devpts");
        process(&mut request).terminal = true;
        let failure = guest.create(request).await.unwrap_err();
        assert!(failure.message.contains("devpts"), "{failure}");
    });
}
