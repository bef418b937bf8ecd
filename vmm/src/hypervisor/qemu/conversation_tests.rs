//! Client and watch against a QMP server of the test's own, on a socket pair.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use super::qmp::{Client, MAX_LINE, QmpError, ShutdownReason};
use super::watch::{Observed, Sources, Watch};

const GREETING: &str = "{\"QMP\":{\"version\":{\"qemu\":{\"major\":7}},\"capabilities\":[]}}\r\n";

/// The server's side of a conversation.
struct Server {
    qmp: BufReader<UnixStream>,
    stderr: File,
    reset_log: File,
}

impl Server {
    fn say(&mut self, text: &str) {
        // A client that has hung up is for the client's half to complain of.
        let _ = self.qmp.get_mut().write_all(text.as_bytes());
    }

    /// Reads a command; gives its name and id.
    fn hear(&mut self) -> (String, u64) {
        let mut line = String::new();
        self.qmp.read_line(&mut line).unwrap();
        let command: Value = serde_json::from_str(&line).unwrap();
        (command["execute"].as_str().unwrap().to_owned(), command["id"].as_u64().unwrap())
    }

    fn accept(&mut self, expected: &str) {
        let (command, id) = self.hear();
        assert_eq!(command, expected);
        self.say(&format!("{{\"return\": {{}}, \"id\": {id}}}\r\n"));
    }
}

/// Runs the server's part in a thread; its end closes the connection.
fn converse(server_part: impl FnOnce(Server) + Send + 'static) -> (Client, Watch, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let pipe = || rustix::pipe::pipe().map(|(ours, theirs): (OwnedFd, OwnedFd)| (ours.into(), theirs.into()));
    let (stderr, stderr_writer) = pipe().unwrap();
    let (reset_log, log_writer) = pipe().unwrap();
    let server = Server { qmp: BufReader::new(theirs), stderr: stderr_writer, reset_log: log_writer };
    let sources = Sources { qmp: ours.try_clone().unwrap(), stderr, reset_log: Some(reset_log) };
    let (watch, messages) = Watch::start(sources).unwrap();
    let client = Client::new(ours, messages, Duration::from_secs(60)).unwrap();
    (client, watch, thread::spawn(move || server_part(server)))
}

/// A conversation of which only what the client makes of the server's first words is of interest.
fn greeted_with(words: String) -> (QmpError, Observed) {
    let (understood, wait) = std::sync::mpsc::channel::<()>();
    let (mut client, watch, server) = converse(move |mut server| {
        server.say(&words);
        // An early end would be taken for the reason.
        let _ = wait.recv();
    });
    let error = client.negotiate_and_execute("cont").unwrap_err();
    drop(understood);
    (error, watch_end(watch, server))
}

fn watch_end(watch: Watch, server: JoinHandle<()>) -> Observed {
    server.join().unwrap();
    watch.join()
}

/// A child that a QEMU has left has its descriptors.
#[test]
fn what_a_child_holds_open_is_not_waited_for() {
    let (mut client, watch, server) = converse(|mut server| {
        server.say(GREETING);
        server.accept("qmp_capabilities");
        server.accept("cont");
        server.say("{\"event\":\"SHUTDOWN\",\"data\":{\"guest\":true,\"reason\":\"guest-reset\"}}\r\n");
        server.stderr.write_all(b"last words\n").unwrap();
        std::mem::forget(server);
    });
    client.negotiate_and_execute("cont").unwrap();
    let observed = watch_end(watch, server);
    assert_eq!((observed.shutdown, &*observed.stderr), (Some(ShutdownReason::GuestReset), "last words"));
}

#[test]
fn commands_are_answered_though_events_come_between() {
    let (mut client, watch, server) = converse(|mut server| {
        server.say(GREETING);
        server.accept("qmp_capabilities");
        server.say("{\"event\":\"RESUME\",\"timestamp\":{}}\r\n");
        server.say("{\"event\":\"RTC_CHANGE\",\"data\":{\"offset\":-1}}\r\n");
        server.accept("cont");
        server.say("{\"event\":\"SHUTDOWN\",\"data\":{\"guest\":true,\"reason\":\"guest-reset\"}}\r\n");
        server.stderr.write_all(b"a warning\n").unwrap();
        server.reset_log.write_all(b"CPU Reset (CPU 0)\nRAX=0\nTriple fault\n").unwrap();
    });
    client.negotiate_and_execute("cont").unwrap();
    let observed = watch_end(watch, server);
    assert_eq!(observed.shutdown, Some(ShutdownReason::GuestReset));
    assert_eq!(observed.stderr, "a warning");
    assert_eq!(observed.violation, None);
    assert!(observed.triple_fault);
}

#[test]
fn refusal_is_told_in_qemus_words_on_one_line() {
    let (mut client, watch, server) = converse(|mut server| {
        server.say(GREETING);
        server.accept("qmp_capabilities");
        let (_, id) = server.hear();
        let error = "{\"class\":\"GenericError\",\"desc\":\"not\\nnow\\u001b\"}";
        server.say(&format!("{{\"error\":{error},\"id\":{id}}}\r\n"));
    });
    let error = client.negotiate_and_execute("cont").unwrap_err();
    assert_eq!(error.to_string(), "QEMU refused cont: not; now\\u{1b}");
    watch_end(watch, server);
}

#[test]
fn end_of_the_connection_is_told_at_once() {
    let (mut client, watch, server) = converse(|mut server| {
        server.stderr.write_all(b"qemu-system-x86_64: no memory\n").unwrap();
    });
    let error = client.negotiate_and_execute("cont").unwrap_err();
    assert!(matches!(error, QmpError::Closed), "{error}");
    assert_eq!(watch_end(watch, server).stderr, "no memory");
}

#[test]
fn silence_ends_in_a_timeout() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let (_sender, messages) = std::sync::mpsc::sync_channel(1);
    let mut client = Client::new(ours, messages, Duration::from_millis(1)).unwrap();
    let error = client.negotiate_and_execute("cont").unwrap_err();
    assert!(matches!(error, QmpError::Timeout { .. }), "{error}");
}

#[test]
fn broken_protocol_ends_the_conversation() {
    let long = format!("{{\"QMP\":\"{}\"}}\r\n", "x".repeat(MAX_LINE));
    let deep = format!("{}\r\n", "[".repeat(10_000));
    let cases = [
        ("hello\r\n", "a line is no JSON object of QMP"),
        ("[]\r\n", "a line is no JSON object of QMP"),
        ("{}\r\n", "a line is neither greeting, reply nor event"),
        ("\u{fffd}\0\r\n", "a line is no JSON object of QMP"),
        ("{\"event\":\"SHUTDOWN\"}\r\n", "a SHUTDOWN event has no reason"),
        ("{\"return\":{},\"id\":-1}\r\n", "a line is no JSON object of QMP"),
        (&long, "a line is too long"),
        (&deep, "a line is no JSON object of QMP"),
    ];
    for (words, violation) in cases {
        let (error, observed) = greeted_with(words.to_owned());
        assert!(matches!(error, QmpError::Closed), "{words:.40}: {error}");
        assert_eq!(observed.violation, Some(violation), "{words:.40}");
    }
}

#[test]
fn replies_to_no_command_are_refused() {
    let (error, _) = greeted_with("{\"return\":{}}\r\n".to_owned());
    assert!(matches!(error, QmpError::Protocol(_)), "{error}");
    let flood = format!("{GREETING}{}", "{\"return\":{},\"id\":99}\r\n".repeat(1000));
    let (error, _) = greeted_with(flood);
    assert!(matches!(error, QmpError::Protocol(_) | QmpError::Closed), "{error}");
}

#[test]
fn garbage_after_the_start_does_not_stop_the_watch() {
    let (mut client, watch, server) = converse(|mut server| {
        server.say(GREETING);
        server.accept("qmp_capabilities");
        server.accept("cont");
        for _ in 0..100 {
            server.say(&"garbage".repeat(10_000));
        }
        server.stderr.write_all(b"the end").unwrap();
    });
    client.negotiate_and_execute("cont").unwrap();
    let observed = watch_end(watch, server);
    assert_eq!(observed.violation, Some("a line is too long"));
    assert_eq!(observed.stderr, "the end");
    client.execute("stop").unwrap_err();
}
