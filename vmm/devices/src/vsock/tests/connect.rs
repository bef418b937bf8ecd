//! Who may connect, and what those hear who may not.

use std::io::Write;
use std::os::unix::net::UnixStream;

use super::super::packet::{HOST_CID, Header, op};
use super::rig::{GUEST_BUFFER, Rig, is_at_end, is_closed, read, read_line};

#[test]
fn guest_reaches_a_service_of_the_host() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let mut host = rig.connect(&service, 5000, 1111);

    rig.send(Rig::header(op::RW, 5000, 1111), b"ping");
    assert_eq!(read(&mut host, 4), b"ping");
    host.write_all(b"pong").unwrap();
    assert_eq!(rig.expect_data(4), b"pong");
}

#[test]
fn guest_is_reset_at_once_where_nobody_listens() {
    let mut rig = Rig::new();
    drop(rig.serve(5001));
    for port in [5000, 5001, u32::MAX] {
        rig.send(Rig::header(op::REQUEST, port, 1111), &[]);
        let reset = rig.expect(op::RST);
        assert_eq!((reset.header.src_port, reset.header.dst_port), (port, 1111));
    }
}

#[test]
fn host_reaches_a_service_of_the_guest() {
    let mut rig = Rig::new();
    let (mut client, host_port) = rig.connect_from_host(1024);

    client.write_all(b"ping").unwrap();
    assert_eq!(rig.expect_data(4), b"ping");
    rig.send(Rig::header(op::RW, host_port, 1024), b"pong");
    assert_eq!(read(&mut client, 4), b"pong");
}

#[test]
fn data_sent_right_behind_the_request_arrives_after_the_guest_accepts() {
    let mut rig = Rig::new();
    let mut client = rig.ask(1024);
    client.write_all(b"early").unwrap();
    let request = rig.expect(op::REQUEST);
    assert_eq!(rig.receive(), None);

    rig.send(Rig::header(op::RESPONSE, request.header.src_port, 1024), &[]);
    assert_eq!(rig.expect_data(5), b"early");
    assert!(read_line(&mut client).starts_with("OK "));
}

#[test]
fn host_sees_the_end_where_the_guest_does_not_listen() {
    let mut rig = Rig::new();
    let mut client = rig.ask(1024);
    let request = rig.expect(op::REQUEST);
    rig.send(Rig::header(op::RST, request.header.src_port, 1024), &[]);

    assert!(is_at_end(&mut client));
    assert_eq!(rig.receive(), None);
}

#[test]
fn host_sees_the_end_while_no_guest_is_up() {
    let mut rig = Rig::new();
    rig.guest.deactivate();
    let mut client = UnixStream::connect(rig.directory.path().join("vsock.sock")).unwrap();
    rig.guest.poll_host();

    assert!(is_at_end(&mut client));
}

#[test]
fn host_that_gives_up_before_the_answer_resets_the_guest() {
    let mut rig = Rig::new();
    let client = rig.ask(1024);
    rig.expect(op::REQUEST);
    drop(client);

    rig.expect(op::RST);
}

#[test]
fn clients_that_never_ask_hold_nothing_up_and_the_oldest_go() {
    let mut rig = Rig::new();
    let path = rig.directory.path().join("vsock.sock");
    let mut silent: Vec<_> = Vec::new();
    for _ in 0..100 {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"CONNEC").unwrap();
        rig.guest.poll_host();
        silent.push(client);
    }
    assert!(rig.is_waiting());

    let _client = rig.connect_from_host(1024);
    assert!(is_closed(&mut silent[0]));
    let last = silent.last_mut().unwrap();
    last.write_all(b"T 77\n").unwrap();
    assert_eq!(rig.expect(op::REQUEST).header.dst_port, 77);
}

#[test]
fn request_for_a_connection_that_exists_ends_it() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let mut host = rig.connect(&service, 5000, 1111);
    rig.send(Rig::header(op::REQUEST, 5000, 1111), &[]);

    rig.expect(op::RST);
    assert!(is_at_end(&mut host));
    rig.connect(&service, 5000, 1111);
}

#[test]
fn port_can_be_used_again_after_a_reset() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    for round in 0..3_u8 {
        let mut host = rig.connect(&service, 5000, 1111);
        rig.send(Rig::header(op::RW, 5000, 1111), &[round]);
        assert_eq!(read(&mut host, 1), [round]);
        rig.send(Rig::header(op::RST, 5000, 1111), &[]);
        assert!(is_at_end(&mut host));
    }
}

#[test]
fn five_hundred_connections_each_get_their_own_data() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let mut hosts: Vec<_> = (0..500).map(|port| rig.connect(&service, 5000, port)).collect();
    for port in 0..500_u32 {
        rig.send(Rig::header(op::RW, 5000, port), &port.to_le_bytes());
    }
    for (port, host) in (0..500_u32).zip(&mut hosts) {
        assert_eq!(read(host, 4), port.to_le_bytes());
        host.write_all(&port.to_le_bytes()).unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..500 {
        let packet = rig.expect(op::RW);
        assert_eq!(packet.payload, packet.header.dst_port.to_le_bytes());
        assert!(seen.insert(packet.header.dst_port));
    }
}

#[test]
fn one_connection_too_many_is_reset_and_the_others_live() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let mut hosts: Vec<_> = (0..1023).map(|port| rig.connect(&service, 5000, port)).collect();
    rig.send(Rig::header(op::REQUEST, 5000, 5000), &[]);
    rig.expect(op::RST);
    let mut client = rig.ask(1024);
    assert_eq!(rig.receive(), None);
    assert!(is_at_end(&mut client));

    hosts[1022].write_all(b"alive").unwrap();
    assert_eq!(rig.expect_data(5), b"alive");
    rig.send(Rig::header(op::RST, 5000, 7), &[]);
    rig.connect(&service, 5000, 5000);
}

#[test]
fn new_driver_finds_no_connection_of_the_old_one() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let mut host = rig.connect(&service, 5000, 1111);
    crate::device::Device::reset(&mut rig.guest.device);

    assert!(is_at_end(&mut host));
    rig.send(Rig::header(op::RW, 5000, 1111), b"late");
    rig.expect(op::RST);
}

#[test]
fn response_tells_the_guest_its_credit() {
    let mut rig = Rig::new();
    let _service = rig.serve(5000);
    rig.send(Rig::header(op::REQUEST, 5000, 1111), &[]);
    let header = rig.expect(op::RESPONSE).header;

    let expected = Header {
        src_cid: HOST_CID,
        dst_cid: 3,
        src_port: 5000,
        dst_port: 1111,
        buf_alloc: GUEST_BUFFER / 4,
        ..Header { kind: 1, op: op::RESPONSE, ..Header::default() }
    };
    assert_eq!(header, expected);
}
