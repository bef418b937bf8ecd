//! A guest that means harm: it hurts itself at most.

use proptest::prelude::*;

use super::super::packet::{HOST_CID, Header, op};
use super::rig::{RX, Rig, TX, TX_BASE};
use crate::fake_guest::{Buffer, Desc, HIGH, HIGH_SIZE, INDIRECT, LOW_SIZE, NEXT, WRITE, write_desc_at};

/// The device still serves.
fn assert_alive(rig: &mut Rig) {
    while rig.receive().is_some() {}
    rig.send(Rig::header(op::REQUEST, 4321, 1234), &[]);
    let reset = rig.expect(op::RST);
    assert_eq!((reset.header.src_port, reset.header.dst_port), (4321, 1234));
}

#[test]
fn chains_that_are_no_packets_are_returned_and_ignored() {
    let outside = LOW_SIZE as u64;
    let table: [(&str, &[Buffer]); 11] = [
        ("empty header", &[(TX_BASE, 0, 0)]),
        ("short header", &[(TX_BASE, 43, 0)]),
        ("write-only header", &[(TX_BASE, 44, WRITE)]),
        ("write-only payload", &[(TX_BASE, 44, 0), (TX_BASE + 44, 4, WRITE)]),
        ("header outside memory", &[(outside, 44, 0)]),
        ("header across the end of a region", &[(outside - 20, 44, 0)]),
        ("payload outside memory", &[(TX_BASE, 44, 0), (outside, 4, 0)]),
        ("payload across the end of memory", &[(TX_BASE, 44, 0), (HIGH + HIGH_SIZE as u64 - 2, 4, 0)]),
        ("address that wraps", &[(TX_BASE, 44, 0), (u64::MAX - 1, 4, 0)]),
        ("payload shorter than its length", &[(TX_BASE, 44, 0), (TX_BASE + 44, 3, 0)]),
        ("payload missing", &[(TX_BASE, 44, 0)]),
    ];
    for (what, buffers) in table {
        let mut rig = Rig::new();
        let service = rig.serve(5000);
        let mut host = rig.connect(&service, 5000, 1);
        rig.write_tx(&Header { len: 4, ..Rig::header(op::RW, 5000, 1) }, b"data");
        rig.guest.queues[TX].add(&rig.guest.ram, buffers);
        rig.kick_tx();

        host.set_nonblocking(true).unwrap();
        assert!(std::io::Read::read(&mut host, &mut [0]).is_err(), "{what}");
        assert_alive(&mut rig);
    }
}

#[test]
fn chains_that_loop_or_lie_about_tables_end() {
    let here = Desc { address: TX_BASE, length: 44, flags: NEXT, next: 0 };
    let table = [
        ("loop", here),
        ("next outside the table", Desc { next: 999, ..here }),
        ("indirect table of no size", Desc { flags: INDIRECT, length: 0, ..here }),
        ("indirect table of odd size", Desc { flags: INDIRECT, length: 15, ..here }),
        ("indirect table outside memory", Desc { flags: INDIRECT, length: 16, address: 1 << 40, ..here }),
        ("indirect with next", Desc { flags: INDIRECT | NEXT, length: 16, ..here }),
    ];
    for (what, desc) in table {
        let mut rig = Rig::new();
        rig.guest.queues[TX].write_desc(&rig.guest.ram, 0, desc);
        rig.guest.queues[TX].offer(&rig.guest.ram, 0);
        rig.guest.kick(TX);
        assert!(rig.guest.queues[TX].take_used(&rig.guest.ram).is_some(), "{what}");
    }
}

#[test]
fn indirect_table_that_contains_itself_ends() {
    let mut rig = Rig::new();
    let table = TX_BASE + 0x1000;
    write_desc_at(&rig.guest.ram, table, Desc { address: table, length: 16, flags: INDIRECT, next: 0 });
    rig.guest.queues[TX].add(&rig.guest.ram, &[(table, 16, INDIRECT)]);
    rig.kick_tx();
    assert_alive(&mut rig);
}

#[test]
fn packets_that_are_not_ours_are_reset_or_ignored() {
    let good = Rig::header(op::REQUEST, 5000, 1);
    let table = [
        ("other type", Header { kind: 2, ..good }, true),
        ("other destination", Header { dst_cid: 7, ..good }, true),
        ("forged source", Header { src_cid: 4, ..good }, false),
        ("no operation", Header { op: 0, ..good }, true),
        ("unknown operation", Header { op: 999, ..good }, true),
        ("data without a connection", Header { op: op::RW, ..good }, true),
        ("response without a request", Header { op: op::RESPONSE, ..good }, true),
        ("credit without a connection", Header { op: op::CREDIT_REQUEST, ..good }, true),
        ("reset without a connection", Header { op: op::RST, ..good }, false),
    ];
    for (what, header, answered) in table {
        let mut rig = Rig::new();
        let _service = rig.serve(5000);
        rig.send(header, &[]);
        let answer = rig.receive();
        assert_eq!(answer.is_some(), answered, "{what}");
        if let Some(reset) = answer {
            let from = (reset.header.op, reset.header.src_cid, reset.header.kind);
            assert_eq!(from, (op::RST, header.dst_cid, header.kind), "{what}");
        }
    }
}

#[test]
fn operations_out_of_order_reset_the_connection() {
    for operation in [op::RESPONSE, 0, 8, 0xffff] {
        let mut rig = Rig::new();
        let service = rig.serve(5000);
        let _host = rig.connect(&service, 5000, 1);
        rig.send(Rig::header(operation, 5000, 1), &[]);
        rig.expect(op::RST);
    }
    for operation in [op::RW, op::SHUTDOWN] {
        let mut rig = Rig::new();
        let _client = rig.ask(1024);
        let request = rig.expect(op::REQUEST);
        rig.send(Rig::header(operation, request.header.src_port, 1024), &[]);
        rig.expect(op::RST);
    }
}

#[test]
fn payload_longer_than_a_packet_may_be_is_ignored() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let _host = rig.connect(&service, 5000, 1);
    rig.write_tx(&Header { len: 65537, ..Rig::header(op::RW, 5000, 1) }, &[]);
    rig.guest.queues[TX].add(&rig.guest.ram, &[(TX_BASE, 44, 0), (TX_BASE, 1 << 20, 0)]);
    rig.kick_tx();
    assert_alive(&mut rig);
}

#[test]
fn receive_buffers_that_are_no_good_are_returned_empty() {
    let mut rig = Rig::with_buffers(0, 0);
    let bad: [&[Buffer]; 5] = [
        &[(TX_BASE, 0x1000, 0)],
        &[(TX_BASE, 43, WRITE)],
        &[(1 << 40, 0x1000, WRITE)],
        &[(TX_BASE, 44, WRITE), (TX_BASE, 44, 0)],
        &[(TX_BASE, 0, WRITE)],
    ];
    for buffers in bad {
        rig.guest.queues[RX].add(&rig.guest.ram, buffers);
    }
    rig.send(Rig::header(op::REQUEST, 5000, 1), &[]);
    for _ in bad {
        assert_eq!(rig.guest.queues[RX].take_used(&rig.guest.ram).unwrap().1, 0);
    }
    assert_eq!(rig.guest.queues[RX].take_used(&rig.guest.ram), None);
    rig.guest.queues[RX].add(&rig.guest.ram, &[(TX_BASE, 44, WRITE)]);
    rig.guest.kick(RX);
    assert_eq!(rig.guest.queues[RX].take_used(&rig.guest.ram).unwrap().1, 44);
}

#[test]
fn resets_that_are_never_taken_do_not_pile_up() {
    let mut rig = Rig::with_buffers(0, 0);
    for port in 0..10_000 {
        rig.send(Rig::header(op::RW, 5000, port), b"x");
    }
    let mut taken = 0;
    loop {
        rig.guest.queues[RX].add(&rig.guest.ram, &[(TX_BASE, 64, WRITE)]);
        rig.guest.kick(RX);
        if rig.guest.queues[RX].take_used(&rig.guest.ram).is_none() {
            break;
        }
        taken += 1;
    }
    assert_eq!(taken, 256);
}

/// Any packet, with fields that are likely to mean something.
fn packets() -> impl Strategy<Value = (Header, usize)> {
    let cid = prop_oneof![9 => Just(HOST_CID), 1 => any::<u64>()];
    let source = prop_oneof![9 => Just(3_u64), 1 => any::<u64>()];
    let port = prop_oneof![9 => 5000..5003_u32, 1 => any::<u32>()];
    let guest_port = prop_oneof![9 => 0..3_u32, 1 => any::<u32>()];
    let operation = prop_oneof![9 => 0..9_u16, 1 => any::<u16>()];
    let kind = prop_oneof![9 => Just(1_u16), 1 => any::<u16>()];
    let count = prop_oneof![0..200_000_u32, any::<u32>()];
    let length = prop_oneof![0..200_usize, 60_000..65_536_usize];
    (cid, source, port, guest_port, operation, kind, 0..4_u32, count.clone(), count, length).prop_map(
        |(dst_cid, src_cid, dst_port, src_port, op, kind, flags, buf_alloc, fwd_cnt, length)| {
            let header =
                Header { src_cid, dst_cid, src_port, dst_port, len: 0, kind, op, flags, buf_alloc, fwd_cnt };
            (header, length)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_packets_in_any_order_leave_the_device_alive(
        sequence in prop::collection::vec((packets(), any::<bool>(), any::<bool>()), 1..60),
    ) {
        let mut rig = Rig::new();
        let services: Vec<_> = (5000..5003).map(|port| rig.serve(port)).collect();
        services.iter().for_each(|service| service.set_nonblocking(true).unwrap());
        let mut hosts = Vec::new();
        for ((header, length), receive, talk) in sequence {
            rig.send(header, &vec![7; length]);
            hosts.extend(services.iter().filter_map(|service| service.accept().ok()));
            if talk {
                for (host, _) in &mut hosts {
                    let _ = std::io::Write::write(host, &[1; 3000]);
                }
            }
            if receive {
                rig.receive();
            }
            rig.guest.poll_host();
        }
        assert_alive(&mut rig);
    }

    #[test]
    fn any_bytes_as_descriptors_leave_the_device_alive(
        descriptors in prop::collection::vec((any::<u64>(), any::<u32>(), 0..8_u16, 0..300_u16), 1..20),
        near in any::<bool>(),
        heads in prop::collection::vec(any::<u16>(), 1..40),
        queue in 0..2_usize,
    ) {
        let mut rig = Rig::with_buffers(0, 0);
        for (index, &(address, length, flags, next)) in (0..).zip(&descriptors) {
            let (address, length) = if near { (address % (1 << 23), length % 70_000) } else { (address, length) };
            rig.guest.queues[queue].write_desc(&rig.guest.ram, index, Desc { address, length, flags, next });
        }
        for head in heads {
            rig.guest.queues[queue].offer(&rig.guest.ram, head);
            rig.guest.kick(queue);
        }
        rig.send(Rig::header(op::REQUEST, 5000, 1), &[]);
    }
}
