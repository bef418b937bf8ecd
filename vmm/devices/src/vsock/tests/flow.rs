//! Flow control: no one waits for another, nothing grows without bound, nothing is lost.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::super::packet::{MAX_PAYLOAD, op};
use super::rig::{RX, Rig, TX, TX_BASE, pattern, read};
use crate::fake_guest::HIGH;
use vm_memory::{Bytes, GuestAddress};

/// Sends as the guest until its credit is used up; returns how much.
fn exhaust_credit(rig: &mut Rig, port: u32) -> usize {
    let own_buffer = 256 * 1024;
    let (mut sent, mut forwarded) = (0_usize, 0_usize);
    loop {
        let credit = own_buffer - (sent - forwarded);
        if credit == 0 {
            // Whatever the device may still have to say of its progress.
            rig.send(Rig::header(op::CREDIT_REQUEST, 5000, port), &[]);
        } else {
            let length = credit.min(MAX_PAYLOAD);
            rig.send(Rig::header(op::RW, 5000, port), &pattern(length));
            sent += length;
        }
        let before = forwarded;
        while let Some(packet) = rig.receive() {
            assert_eq!(packet.op(), op::CREDIT_UPDATE);
            forwarded = packet.header.fwd_cnt as usize;
        }
        if credit == 0 && before == forwarded {
            return sent;
        }
    }
}

#[test]
fn guest_may_send_what_it_was_promised_and_all_of_it_arrives() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let mut host = rig.connect(&service, 5000, 1);
    let sent = exhaust_credit(&mut rig, 1);
    assert!(sent >= 256 * 1024);

    let mut got = Vec::new();
    let mut block = vec![0; 100_000];
    while got.len() < sent {
        let length = host.read(&mut block).unwrap();
        got.extend_from_slice(&block[..length]);
        rig.guest.poll_host();
    }
    let update = std::iter::from_fn(|| rig.receive()).last().unwrap();
    assert_eq!(update.op(), op::CREDIT_UPDATE);
    assert!(update.header.fwd_cnt as usize > sent - 64 * 1024);
    // Packets began the pattern anew; their sizes are what the credit allowed.
    assert!(got.iter().zip(got.iter().skip(1)).all(|(&a, &b)| b == 0 || b == a.wrapping_add(1)));
}

#[test]
fn guest_that_exceeds_its_credit_is_reset() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let _host = rig.connect(&service, 5000, 1);
    exhaust_credit(&mut rig, 1);
    rig.send(Rig::header(op::RW, 5000, 1), b"x");

    rig.expect(op::RST);
}

#[test]
fn host_program_that_does_not_read_holds_up_no_other() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let _stuck = rig.connect(&service, 5000, 1);
    let mut fine = rig.connect(&service, 5000, 2);
    exhaust_credit(&mut rig, 1);
    assert!(rig.is_waiting());

    for round in 0..100_u8 {
        rig.send(Rig::header(op::RW, 5000, 2), &[round]);
        assert_eq!(read(&mut fine, 1), [round]);
        fine.write_all(&[round]).unwrap();
        assert_eq!(rig.expect_data(1), [round]);
    }
}

#[test]
fn guest_gets_no_more_than_it_has_room_for() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let mut host = rig.connect(&service, 5000, 1);
    rig.send(
        super::super::packet::Header { buf_alloc: 1000, ..Rig::header(op::CREDIT_UPDATE, 5000, 1) },
        &[],
    );
    host.write_all(&pattern(5000)).unwrap();

    let mut data = Vec::new();
    for round in 1..=5 {
        data.extend(rig.expect_data(1000));
        rig.expect(op::CREDIT_REQUEST);
        assert_eq!(rig.receive(), None, "round {round}");
        let update = Rig::header(op::CREDIT_UPDATE, 5000, 1);
        rig.send(super::super::packet::Header { buf_alloc: 1000, fwd_cnt: 1000 * round, ..update }, &[]);
    }
    assert_eq!(data, pattern(5000));
}

#[test]
fn guest_program_that_does_not_read_holds_up_no_other_nor_memory() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let mut stuck = rig.connect(&service, 5000, 1);
    let mut fine = rig.connect(&service, 5000, 2);
    rig.send(super::super::packet::Header { buf_alloc: 10, ..Rig::header(op::CREDIT_UPDATE, 5000, 1) }, &[]);
    stuck.set_nonblocking(true).unwrap();
    let mut accepted = 0;
    while let Ok(length) = stuck.write(&[0; 4096]) {
        accepted += length;
        rig.guest.poll_host();
    }
    assert_eq!(rig.expect_data(10).len(), 10);
    rig.expect(op::CREDIT_REQUEST);
    assert!(rig.is_waiting());

    // What the host's kernel keeps for a socket, and nothing of ours.
    assert!(accepted < 1 << 20, "{accepted}");
    fine.write_all(b"fine").unwrap();
    assert_eq!(rig.expect_data(4), b"fine");
}

#[test]
fn guest_without_buffers_gets_everything_once_it_has_some() {
    let mut rig = Rig::with_buffers(2, 0x1000);
    let service = rig.serve(5000);
    let mut host = rig.connect(&service, 5000, 1);
    host.write_all(&pattern(100_000)).unwrap();
    rig.guest.poll_host();
    let heads = rig.collect();
    assert_eq!(heads.len(), 2);
    assert!(rig.is_waiting());
    assert!(rig.collect().is_empty());
    for head in heads {
        rig.guest.queues[RX].offer(&rig.guest.ram, head);
    }
    rig.guest.kick(RX);

    assert_eq!(rig.expect_data(100_000), pattern(100_000));
}

#[test]
fn large_writes_fill_many_small_buffers_in_order() {
    for (count, size) in [(128, 0x1000), (128, 100), (5, 3776), (3, 45)] {
        let mut rig = Rig::with_buffers(count, size);
        let service = rig.serve(5000);
        let mut host = rig.connect(&service, 5000, 1);
        host.write_all(&pattern(20_000)).unwrap();

        assert_eq!(rig.expect_data(20_000), pattern(20_000), "{count} buffers of {size} bytes");
    }
}

/// Sends `payload` with header and payload cut at `cuts` into descriptors, alternating between two regions.
fn send_framed(rig: &mut Rig, payload: &[u8], cuts: &[usize]) {
    let mut header = Rig::header(op::RW, 5000, 1);
    header.len = u32::try_from(payload.len()).unwrap();
    let packet = [header.to_bytes().as_slice(), payload].concat();
    let mut buffers = Vec::new();
    let mut start = 0;
    for (index, &end) in cuts.iter().chain([&packet.len()]).enumerate() {
        let base = if index % 2 == 0 { TX_BASE } else { HIGH };
        let address = base + start as u64;
        rig.guest.ram.write_slice(&packet[start..end], GuestAddress(address)).unwrap();
        buffers.push((address, u32::try_from(end - start).unwrap(), 0));
        start = end;
    }
    rig.guest.queues[TX].add(&rig.guest.ram, &buffers);
    rig.kick_tx();
}

#[test]
fn packets_of_several_descriptors_arrive_whole() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let mut host = rig.connect(&service, 5000, 1);
    let many: Vec<_> = (1..200).map(|index| index * 300).collect();
    let framings: [&[usize]; 7] =
        [&[], &[44], &[10], &[1, 2, 44], &[44, 45, 46], &[44, 32 * 1024, 48 * 1024], &many];
    for cuts in framings {
        let payload = pattern(MAX_PAYLOAD - 44);
        send_framed(&mut rig, &payload, cuts);
        let mut got = vec![0; payload.len()];
        let mut filled = 0;
        while filled < got.len() {
            filled += host.read(&mut got[filled..]).unwrap();
            rig.guest.poll_host();
        }
        assert_eq!(got, payload, "cut at {cuts:?}");
    }
}

#[test]
fn credit_survives_the_wrap_of_its_counters() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let mut host = rig.connect(&service, 5000, 1);
    // More than 2^32 bytes to the guest would take minutes, so the counters are brought near the wrap by what the
    // guest claims: it has credit exactly while sent - fwd_cnt (mod 2^32) is below buf_alloc.
    let claim = |rig: &mut Rig, fwd_cnt: u32| {
        let header = Rig::header(op::CREDIT_UPDATE, 5000, 1);
        rig.send(super::super::packet::Header { buf_alloc: 100, fwd_cnt, ..header }, &[]);
    };
    claim(&mut rig, u32::MAX - 49);
    host.write_all(&pattern(200)).unwrap();

    assert_eq!(rig.expect_data(50), pattern(200)[..50]);
    rig.expect(op::CREDIT_REQUEST);
    claim(&mut rig, 50);
    assert_eq!(rig.expect_data(100), pattern(200)[50..150]);
}

#[test]
fn interrupts_are_fewer_than_packets() {
    let mut rig = Rig::new();
    let service = rig.serve(5000);
    let mut host: UnixStream = rig.connect(&service, 5000, 1);
    let before = rig.guest.signals;
    host.write_all(&pattern(60_000)).unwrap();
    rig.guest.poll_host();

    assert!(rig.collect().len() > 10);
    assert!(rig.guest.signals - before <= 1);
}
