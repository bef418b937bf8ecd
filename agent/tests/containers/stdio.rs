//! Pipes: apart, complete, to their ends.

use agent::reaper::Exit;
use agent_protocol::agent as api;
use protobuf::MessageField;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Test;
use crate::guest::{command, process, shell, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("stdout_and_stderr_are_kept_apart", apart),
    ("all_that_was_written_arrives", complete),
    ("stdin_is_passed_to_its_end_byte_by_byte", stdin),
    ("stdin_goes_on_when_stdout_has_been_closed", stdin_alone),
    ("without_streams_there_is_dev_null", null),
    ("a_background_process_does_not_hold_up_the_end", background),
    ("a_writer_whose_reader_is_gone_gets_epipe", broken),
    ("stdout_can_be_opened_again_by_any_user", reopen),
    ("a_stream_that_does_not_come_is_an_error", absent),
    ("only_stdio_is_open", descriptors),
];

fn apart() {
    with_guest(async |guest| {
        let outcome = guest.run(shell("echo out; echo err >&2")).await.unwrap();
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    });
}

fn complete() {
    const LENGTH: usize = 100 << 20;
    with_guest(async |guest| {
        let (mut stdout, token) = guest.stream().await;
        let mut request = command(&["dd", "if=/dev/zero", "bs=1M", "count=100"]);
        process(&mut request).streams =
            MessageField::some(api::Streams { stdout: token, ..Default::default() });
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        let reader = tokio::spawn(async move {
            let (mut length, mut buffer) = (0, vec![0; 1 << 16]);
            while let count @ 1.. = stdout.read(&mut buffer).await.unwrap() {
                length += count;
            }
            length
        });
        assert_eq!(container.wait().await, Some(Exit::Code(0)));
        assert_eq!(reader.await.unwrap(), LENGTH);
    });
}

fn stdin() {
    with_guest(async |guest| {
        let ((mut stdin, in_token), (mut stdout, out_token)) = (guest.stream().await, guest.stream().await);
        let mut request = command(&["cat"]);
        let streams = api::Streams { stdin: in_token, stdout: out_token, ..Default::default() };
        process(&mut request).streams = MessageField::some(streams);
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        let sent: Vec<u8> = (0..300_000_u32).map(|index| (index % 251) as u8).collect();
        let writer = {
            let sent = sent.clone();
            tokio::spawn(async move {
                stdin.write_all(&sent).await.unwrap();
                stdin.shutdown().await.unwrap();
                stdin
            })
        };
        let mut received = Vec::new();
        stdout.read_to_end(&mut received).await.unwrap();
        assert!(received == sent);
        assert_eq!(container.wait().await, Some(Exit::Code(0)));
        drop(writer.await.unwrap());
    });
}

fn stdin_alone() {
    with_guest(async |guest| {
        let ((mut stdin, in_token), (mut stdout, out_token)) = (guest.stream().await, guest.stream().await);
        let mut request = shell("exec >&-; read line; test \"$line\" = late");
        let streams = api::Streams { stdin: in_token, stdout: out_token, ..Default::default() };
        process(&mut request).streams = MessageField::some(streams);
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        assert_eq!(stdout.read(&mut [0]).await.unwrap(), 0);
        drop(stdout);
        // Time for a relay that would end with it.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        stdin.write_all(b"late\n").await.unwrap();
        assert_eq!(container.wait().await, Some(Exit::Code(0)));
    });
}

fn null() {
    with_guest(async |guest| {
        let container =
            guest.create(shell("cat; test $(readlink /proc/self/fd/0) = /dev/null")).await.unwrap();
        container.start().await.unwrap();
        assert_eq!(container.wait().await, Some(Exit::Code(0)));
    });
}

fn background() {
    with_guest(async |guest| {
        assert_eq!(guest.shell("sleep 1000 & echo done").await, "done\n");
    });
}

fn broken() {
    with_guest(async |guest| {
        let (stdout, token) = guest.stream().await;
        let mut request = command(&["yes"]);
        process(&mut request).streams =
            MessageField::some(api::Streams { stdout: token, ..Default::default() });
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        drop(stdout);
        // Process 1 of a pid namespace has no default actions, so there is no SIGPIPE for it.
        assert_eq!(container.wait().await, Some(Exit::Code(1)));
    });
}

fn reopen() {
    with_guest(async |guest| {
        let mut request = shell("echo again > /dev/stdout; echo error > /dev/stderr");
        process(&mut request).user =
            MessageField::some(api::User { uid: 1000, gid: 1000, ..Default::default() });
        let outcome = guest.run(request).await.unwrap();
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("again\n", "error\n"));
    });
}

fn absent() {
    with_guest(async |guest| {
        tokio::time::pause();
        let mut request = command(&["true"]);
        process(&mut request).streams = MessageField::some(api::Streams { stdout: 42, ..Default::default() });
        let failure = guest.create(request).await.unwrap_err();
        tokio::time::resume();
        assert!(
            failure.message.starts_with("cannot connect stdout: no connection with the stream token"),
            "{failure}"
        );
    });
}

fn descriptors() {
    with_guest(async |guest| {
        // The fourth is that of the listing itself.
        assert_eq!(guest.run(command(&["ls", "/proc/self/fd"])).await.unwrap().success(), "0\n1\n2\n3\n");
    });
}
