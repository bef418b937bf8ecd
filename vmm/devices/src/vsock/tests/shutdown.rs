//! Ends: of one direction, of both, and of those who just go.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::super::packet::{Header, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, op};
use super::rig::{Rig, is_at_end, pattern, read};

fn connected() -> (Rig, UnixStream) {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let host = rig.connect(&service, 5000, 1);
    (rig, host)
}

fn shut_down(rig: &mut Rig, flags: u32) {
    rig.send(Header { flags, ..Rig::header(op::SHUTDOWN, 5000, 1) }, &[]);
}

#[test]
fn guest_that_sends_no_more_still_receives() {
    let (mut rig, mut host) = connected();
    rig.send(Rig::header(op::RW, 5000, 1), b"last");
    shut_down(&mut rig, SHUTDOWN_SEND);

    assert_eq!(read(&mut host, 4), b"last");
    assert!(is_at_end(&mut host));
    host.write_all(b"answer").unwrap();
    assert_eq!(rig.expect_data(6), b"answer");
}

#[test]
fn host_that_sends_no_more_still_receives() {
    let (mut rig, mut host) = connected();
    host.write_all(b"last").unwrap();
    host.shutdown(Shutdown::Write).unwrap();

    assert_eq!(rig.expect_data(4), b"last");
    assert_eq!(rig.expect(op::SHUTDOWN).header.flags, SHUTDOWN_SEND);
    rig.send(Rig::header(op::RW, 5000, 1), b"answer");
    assert_eq!(read(&mut host, 6), b"answer");
    assert_eq!(rig.receive(), None);
}

#[test]
fn guest_that_receives_no_more_breaks_the_hosts_pipe() {
    let (mut rig, mut host) = connected();
    shut_down(&mut rig, SHUTDOWN_RECEIVE);

    assert!(host.write_all(b"x").is_err());
    rig.send(Rig::header(op::RW, 5000, 1), b"still");
    assert_eq!(read(&mut host, 5), b"still");
}

#[test]
fn host_that_receives_no_more_is_told_to_the_guest_when_it_sends() {
    let (mut rig, mut host) = connected();
    host.shutdown(Shutdown::Read).unwrap();
    rig.send(Rig::header(op::RW, 5000, 1), b"x");

    assert_eq!(rig.expect(op::SHUTDOWN).header.flags, SHUTDOWN_RECEIVE);
    host.write_all(b"still").unwrap();
    assert_eq!(rig.expect_data(5), b"still");
}

#[test]
fn guest_that_closes_is_confirmed_by_a_reset() {
    let (mut rig, mut host) = connected();
    rig.send(Rig::header(op::RW, 5000, 1), b"last");
    shut_down(&mut rig, SHUTDOWN_SEND | SHUTDOWN_RECEIVE);

    rig.expect(op::RST);
    assert_eq!(read(&mut host, 4), b"last");
    assert!(is_at_end(&mut host));
}

#[test]
fn input_that_the_guest_never_took_does_not_spoil_its_end() {
    let (mut rig, mut host) = connected();
    let no_room = |op| Header { buf_alloc: 0, ..Rig::header(op, 5000, 1) };
    rig.send(no_room(op::CREDIT_UPDATE), &[]);
    host.write_all(&pattern(100_000)).unwrap();
    rig.send(no_room(op::RW), b"last");
    rig.send(Header { flags: SHUTDOWN_SEND | SHUTDOWN_RECEIVE, ..no_room(op::SHUTDOWN) }, &[]);

    assert_eq!(read(&mut host, 4), b"last");
    assert!(is_at_end(&mut host));
}

#[test]
fn guest_that_closes_in_two_steps_is_confirmed_after_the_second() {
    let (mut rig, _host) = connected();
    shut_down(&mut rig, SHUTDOWN_SEND);
    assert_eq!(rig.receive(), None);
    shut_down(&mut rig, SHUTDOWN_RECEIVE);

    rig.expect(op::RST);
}

#[test]
fn host_that_closes_is_told_to_the_guest_after_its_data() {
    let (mut rig, mut host) = connected();
    host.write_all(&pattern(50_000)).unwrap();
    drop(host);

    let (mut data, mut flags) = (Vec::new(), 0);
    while flags != SHUTDOWN_SEND | SHUTDOWN_RECEIVE {
        let packet = rig.receive().unwrap();
        match packet.op() {
            op::RW => data.extend(packet.payload),
            op::SHUTDOWN => flags = packet.header.flags,
            other => panic!("op {other}"),
        }
        assert!(flags & SHUTDOWN_SEND == 0 || data.len() == 50_000);
    }
    assert_eq!(data, pattern(50_000));
    rig.send(Rig::header(op::RST, 5000, 1), &[]);
    assert_eq!(rig.receive(), None);
}

#[test]
fn host_that_closes_without_reading_is_told_as_an_end_not_as_a_reset() {
    let (mut rig, mut host) = connected();
    rig.send(Rig::header(op::RW, 5000, 1), b"unread");
    host.write_all(b"last").unwrap();
    drop(host);

    let (mut data, mut flags) = (Vec::new(), 0);
    while let Some(packet) = rig.receive() {
        match packet.op() {
            op::RW => data.extend(packet.payload),
            op::SHUTDOWN => flags = packet.header.flags,
            other => panic!("op {other}"),
        }
    }
    assert_eq!((data.as_slice(), flags), (b"last".as_slice(), SHUTDOWN_SEND | SHUTDOWN_RECEIVE));
    assert!(rig.is_waiting());
}

#[test]
fn host_that_closes_with_data_the_guest_has_no_credit_for_is_waited_out() {
    let (mut rig, mut host) = connected();
    rig.send(Header { buf_alloc: 4, ..Rig::header(op::CREDIT_UPDATE, 5000, 1) }, &[]);
    host.write_all(b"12345678").unwrap();
    drop(host);
    assert_eq!(rig.expect(op::SHUTDOWN).header.flags, SHUTDOWN_RECEIVE);
    assert_eq!(rig.expect_data(4), b"1234");
    rig.expect(op::CREDIT_REQUEST);
    assert!(rig.is_waiting());

    rig.send(Header { buf_alloc: 4, fwd_cnt: 4, ..Rig::header(op::CREDIT_UPDATE, 5000, 1) }, &[]);
    assert_eq!(rig.expect_data(4), b"5678");
    rig.expect(op::CREDIT_REQUEST);
    rig.send(Header { buf_alloc: 4, fwd_cnt: 8, ..Rig::header(op::CREDIT_UPDATE, 5000, 1) }, &[]);
    assert_eq!(rig.expect(op::SHUTDOWN).header.flags, SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
    assert!(rig.is_waiting());
}

#[test]
fn data_that_the_socket_did_not_take_yet_comes_before_the_guests_end() {
    let (mut rig, mut host) = connected();
    // Four times what a socket's buffer takes at once, as far as the credit goes.
    for _ in 0..4 {
        rig.send(Rig::header(op::RW, 5000, 1), &pattern(64 * 1024));
    }
    shut_down(&mut rig, SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
    let mut got = 0;
    while got < 4 * 64 * 1024 {
        got += read(&mut host, 16 * 1024).len();
        rig.guest.poll_host();
    }

    assert!(is_at_end(&mut host));
    let last = std::iter::from_fn(|| rig.receive()).last().unwrap();
    assert_eq!(last.op(), op::RST);
}

#[test]
fn connection_that_the_guest_never_confirms_gives_way_when_places_run_out() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    drop(rig.connect(&service, 5000, 9999));
    while rig.receive().is_some() {}
    let _hosts: Vec<_> = (0..1023).map(|port| rig.connect_over(&service, port)).collect();
}

impl Rig {
    /// As `connect`, where a reset for another connection may come first.
    fn connect_over(&mut self, service: &std::os::unix::net::UnixListener, port: u32) -> UnixStream {
        self.send(Rig::header(op::REQUEST, 5000, port), &[]);
        loop {
            let packet = self.receive().unwrap();
            match (packet.op(), packet.header.dst_port) {
                (op::RST, 9999) => {}
                (op::RESPONSE, answered) if answered == port => return service.accept().unwrap().0,
                _ => panic!("{packet:?}"),
            }
        }
    }
}
