//! A driver that leaves nothing of its rings and headers as they should be harms itself alone.

use std::os::unix::net::UnixDatagram;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_UDP};
use vm_memory::{Bytes, GuestAddress};

use super::header::{HEADER_SIZE, MAX_PACKET};
use super::*;
use crate::fake_guest::FakeGuest;
use crate::wild::{BUFFER, Random, rounds};

/// In `make unit`: about a second.
const ROUNDS: u64 = 2000;

/// A header of which any field may be the lie, and what follows it.
fn write_frames(ram: &GuestRam, random: &mut Random) {
    let header: [u8; HEADER_SIZE] = std::array::from_fn(|_| match random.below(3) {
        0 => 0,
        1 => u8::try_from(random.below(5)).unwrap(),
        _ => u8::try_from(random.below(256)).unwrap(),
    });
    for place in 0..4 {
        ram.write_slice(&header, GuestAddress(BUFFER + place * 0x800)).unwrap();
    }
}

/// What comes out of the tap's other end, where nothing that cannot be may come.
fn drain(cable: &UnixDatagram) -> usize {
    let mut packet = vec![0; MAX_PACKET + 1];
    let mut count = 0;
    while let Ok(length @ 1..) = cable.recv(&mut packet) {
        assert!((MIN_PACKET..=MAX_PACKET).contains(&length), "{length} bytes");
        let [flags, gso, _, _, s0, s1, c0, c1, o0, o1, b0, b1] = packet[..HEADER_SIZE].try_into().unwrap();
        let word = |low, high| usize::from(u16::from_le_bytes([low, high]));
        assert!(flags <= 1 && word(b0, b1) == 0, "{packet:02x?}");
        let kind = u32::from(gso) & !VIRTIO_NET_HDR_GSO_ECN;
        assert!([0, 1, 4].contains(&kind) && kind != VIRTIO_NET_HDR_GSO_UDP, "{gso}");
        assert!(gso == 0 || flags == 1 && word(s0, s1) > 0, "segments without a size or a checksum");
        assert!(flags == 0 || word(c0, c1) + word(o0, o1) + 2 <= length - HEADER_SIZE, "checksum outside");
        count += 1;
    }
    count
}

fn cable() -> (OwnedFd, UnixDatagram) {
    let (tap, cable) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).unwrap();
    (tap, cable.into())
}

#[test]
fn whatever_lies_in_the_rings_the_next_driver_is_served() {
    let (tap, cable) = cable();
    let mut guest = FakeGuest::new(NetPair::of(vec![tap]).unwrap().remove(0), 256);
    let mut out = 0;
    rounds(ROUNDS, |random| {
        guest.device.set_features(random.next() | 1 << VIRTIO_NET_F_HOST_UFO);
        guest.scramble(random);
        write_frames(&guest.ram, random);
        for _ in 0..random.below(4) {
            let most = if random.once_in(8) { 60_000 } else { 3000 };
            let length = 1 + random.below(most);
            cable.send(&vec![0xaa; usize::try_from(length).unwrap()]).unwrap();
        }
        for _ in 0..1 + random.below(4) {
            match random.below(3) {
                0 => guest.poll_host(),
                _ => guest.kick(usize::try_from(random.below(guest.queues.len() as u64)).unwrap()),
            }
            let sent = drain(&cable);
            assert!(sent <= 2 * BUDGET, "{sent} frames in one turn");
            out += sent;
        }

        guest.renew(256);
        guest.device.set_features(FEATURES);
        guest.queues[RECEIVE].add(&guest.ram, &[(BUFFER, 2000, 2), (BUFFER + 2000, 70_000, 2)]);
        let plain = [[0; HEADER_SIZE].to_vec(), vec![0xee; 60]].concat();
        guest.ram.write_slice(&plain, GuestAddress(BUFFER + 0x8_0000)).unwrap();
        guest.queues[TRANSMIT].add(&guest.ram, &[(BUFFER + 0x8_0000, 72, 0)]);
        guest.kick(TRANSMIT);
        let mut packet = [0; 100];
        assert_eq!(cable.recv(&mut packet).unwrap(), 72);
        assert_eq!(packet[..72], plain);
        // What the last driver has left unread comes before.
        while guest.device.common.taps[0].receive(&mut guest.device.received).is_some() {}
        cable.send(&plain).unwrap();
        guest.poll_host();
        assert_eq!(guest.queues[RECEIVE].take_used(&guest.ram), Some((0, 72)));
    });
    // Else rounds would be too wild to get far.
    assert!(out > 100, "{out} frames");
}
