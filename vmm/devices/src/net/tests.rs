//! The device with a socket in the place of its tap: packets are kept apart as frames are.

use std::os::unix::net::UnixDatagram;

use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vm_memory::{Bytes, GuestAddress};

use super::header::{HEADER_SIZE, MAX_PACKET};
use super::*;
use crate::fake_guest::{Buffer, Desc, FakeGuest, HIGH, INDIRECT, LOW_SIZE, NEXT, WRITE};

/// Behind the queues.
pub(super) const BUFFER: u64 = 0x10_0000;

pub(super) struct Rig {
    pub(super) guest: FakeGuest<NetPair>,
    pub(super) cable: UnixDatagram,
}

impl Rig {
    fn new() -> Self {
        Self::with_features(FEATURES)
    }

    fn with_features(features: u64) -> Self {
        let (tap, cable) = cable();
        let pair = NetPair::of(vec![tap]).unwrap().remove(0);
        Self::of(pair, cable, features)
    }

    pub(super) fn of(pair: NetPair, cable: UnixDatagram, features: u64) -> Self {
        let mut guest = FakeGuest::new(pair, 256);
        guest.device.reset();
        guest.device.set_features(features);
        Self { guest, cable }
    }

    /// What comes out of the guest's chain.
    pub(super) fn sent(&mut self, packet: &[u8], buffers: &[Buffer]) -> Option<Vec<u8>> {
        self.guest.ram.write_slice(packet, GuestAddress(BUFFER)).unwrap();
        self.guest.queues[TRANSMIT].add(&self.guest.ram, buffers);
        self.guest.kick(TRANSMIT);
        assert!(self.guest.queues[TRANSMIT].take_used(&self.guest.ram).is_some(), "the chain came back");
        self.taken()
    }

    pub(super) fn taken(&self) -> Option<Vec<u8>> {
        let mut packet = vec![0; 1 << 17];
        // No bytes are the end.
        let length = self.cable.recv(&mut packet).ok().filter(|length| *length > 0)?;
        packet.truncate(length);
        Some(packet)
    }

    /// Gives the guest buffers for frames, each of so many bytes.
    pub(super) fn offer(&mut self, sizes: &[u32]) {
        let mut address = BUFFER;
        for size in sizes {
            self.guest.queues[RECEIVE].add(&self.guest.ram, &[(address, *size, WRITE)]);
            address += u64::from(*size);
        }
    }

    /// The lengths of the buffers that came back.
    pub(super) fn filled(&mut self) -> Vec<u32> {
        let queue = &mut self.guest.queues[RECEIVE];
        std::iter::from_fn(|| queue.take_used(&self.guest.ram)).map(|(_, length)| length).collect()
    }

    fn read(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.guest.ram.read_slice(&mut bytes, GuestAddress(BUFFER)).unwrap();
        bytes
    }
}

/// The device's end and the test's. Unlike datagrams, packets in order are only limited by their size.
pub(super) fn cable() -> (OwnedFd, UnixDatagram) {
    let flags = SocketFlags::NONBLOCK;
    let (tap, cable) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    (tap, cable.into())
}

pub(super) fn frame(length: usize) -> Vec<u8> {
    let content = (0..length).map(|index| u8::try_from(index % 251).unwrap());
    [0; HEADER_SIZE].into_iter().chain(content).collect()
}

#[test]
fn a_frame_of_the_guest_reaches_the_tap_from_one_buffer_or_several() {
    let mut rig = Rig::new();
    let packet = frame(1514);
    assert_eq!(rig.sent(&packet, &[(BUFFER, 1526, 0)]), Some(packet.clone()));
    let parts = [(BUFFER, 12, 0), (BUFFER + 12, 14, 0), (BUFFER + 26, 1500, 0)];
    assert_eq!(rig.sent(&packet, &parts), Some(packet));
    let largest = frame(MAX_PACKET - HEADER_SIZE);
    assert_eq!(rig.sent(&largest, &[(BUFFER, u32::try_from(MAX_PACKET).unwrap(), 0)]), Some(largest));
}

#[test]
fn what_is_no_frame_is_dropped_and_the_next_one_passes() {
    let outside = LOW_SIZE as u64;
    let table: [(&str, &[Buffer]); 8] = [
        ("empty", &[(BUFFER, 0, 0)]),
        ("only a header", &[(BUFFER, 12, 0)]),
        ("half an Ethernet header", &[(BUFFER, 25, 0)]),
        ("for the device to write", &[(BUFFER, 100, WRITE)]),
        ("outside memory", &[(outside, 100, 0)]),
        ("address that wraps", &[(BUFFER, 12, 0), (u64::MAX - 8, 100, 0)]),
        ("longer than any frame", &[(BUFFER, 1 << 20, 0); 5]),
        ("longer than numbers go", &[(BUFFER, u32::MAX, 0); 5]),
    ];
    for (what, buffers) in table {
        let mut rig = Rig::new();
        assert_eq!(rig.sent(&[], buffers), None, "{what}");
        assert_eq!(rig.sent(&frame(60), &[(BUFFER, 72, 0)]), Some(frame(60)), "{what}");
    }
    let mut rig = Rig::new();
    let lie = [[1, 0, 0, 0, 0, 0, 200, 0, 0, 0, 0, 0].to_vec(), vec![0; 60]].concat();
    assert_eq!(rig.sent(&lie, &[(BUFFER, 72, 0)]), None, "checksum behind the frame");
}

#[test]
fn frames_of_the_tap_fill_the_guests_buffers() {
    let mut rig = Rig::new();
    rig.offer(&[2000, 2000]);
    rig.cable.send(&frame(1514)).unwrap();
    rig.cable.send(&frame(60)).unwrap();
    rig.guest.poll_host();
    assert_eq!(rig.filled(), [1526, 72]);
    assert_eq!(rig.guest.signals, 1, "one for both");
    let mut expected = frame(1514);
    expected[10] = 1;
    assert_eq!(rig.read(1526), expected);
}

#[test]
fn a_large_frame_is_put_into_several_buffers_which_come_back_together() {
    let mut rig = Rig::new();
    rig.offer(&[1536; 43]);
    let mut packet = frame(60_000);
    rig.cable.send(&packet).unwrap();
    rig.guest.poll_host();
    let filled = rig.filled();
    assert_eq!((filled.len(), filled.iter().sum::<u32>()), (40, 60_012));
    assert!(filled[..39].iter().all(|length| *length == 1536));
    packet[10] = 40;
    assert_eq!(rig.read(60_012), packet);
    assert_eq!(rig.guest.signals, 1);
}

#[test]
fn a_frame_without_room_waits_for_the_guests_next_buffers() {
    let mut rig = Rig::new();
    rig.offer(&[1000]);
    rig.cable.send(&frame(1514)).unwrap();
    rig.cable.send(&frame(60)).unwrap();
    rig.guest.poll_host();
    assert!(rig.filled().is_empty(), "nothing of it is given");
    rig.offer(&[1000, 1000]);
    rig.guest.kick(RECEIVE);
    assert_eq!(rig.filled(), [1000, 526, 72]);
}

#[test]
fn without_mergeable_buffers_a_frame_that_does_not_fit_is_lost() {
    let mut rig = Rig::with_features(0);
    rig.offer(&[100, 2000]);
    rig.cable.send(&frame(1514)).unwrap();
    rig.cable.send(&frame(600)).unwrap();
    rig.guest.poll_host();
    assert_eq!(rig.filled(), [0, 612]);
}

#[test]
fn more_frames_than_one_turn_takes_all_arrive_and_the_device_wakes_itself() {
    let mut rig = Rig::new();
    for _ in 0..200 {
        rig.guest.queues[TRANSMIT].add(&rig.guest.ram, &[(BUFFER, 72, 0)]);
    }
    rig.guest.kick(TRANSMIT);
    let mut count = std::iter::from_fn(|| rig.taken()).count();
    assert_eq!(count, BUDGET);
    let mut woken = [rustix::event::PollFd::new(&rig.guest.device.events, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut woken, Some(&rustix::event::Timespec::default())).unwrap(), 1);
    rig.guest.poll_host();
    count += std::iter::from_fn(|| rig.taken()).count();
    assert_eq!(count, 200);
}

#[test]
fn frames_of_an_earlier_driver_and_its_features_are_forgotten() {
    let mut rig = Rig::new();
    rig.cable.send(&frame(1514)).unwrap();
    rig.guest.poll_host();
    rig.guest.device.reset();
    rig.offer(&[2000]);
    rig.guest.kick(RECEIVE);
    assert!(rig.filled().is_empty());
    let checksum = [[1, 0, 0, 0, 0, 0, 14, 0, 0, 0, 0, 0].to_vec(), vec![0; 60]].concat();
    assert_eq!(rig.sent(&checksum, &[(BUFFER, 72, 0)]), None);
}

#[test]
fn a_peer_that_has_gone_is_a_cable_without_signal() {
    let mut rig = Rig::new();
    rig.cable = cable().1;
    rig.offer(&[2000]);
    assert_eq!(rig.sent(&frame(60), &[(BUFFER, 72, 0)]), None);
    rig.guest.poll_host();
    assert!(rig.filled().is_empty());
}

pub(super) fn any_desc() -> impl Strategy<Value = Desc> {
    let address = prop_oneof![BUFFER..BUFFER + 0x1000, HIGH..HIGH + 0x1000, any::<u64>()];
    let length = prop_oneof![0u32..3000, any::<u32>()];
    let flags = prop_oneof![0..=NEXT | WRITE, 0..=NEXT | WRITE | INDIRECT];
    (address, length, flags, 0..20u16).prop_map(|(address, length, flags, next)| Desc {
        address,
        length,
        flags,
        next,
    })
}

proptest! {
    /// Whatever lies in the rings and before the frames, both directions return, write no more than was offered, and
    /// serve a driver that begins anew.
    #[test]
    fn no_ring_and_no_frame_stops_the_device(
        descs in prop::collection::vec(any_desc(), 16),
        heads in prop::collection::vec(0..20u16, 1..12),
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..4000), 0..6),
        content in prop::collection::vec(any::<u8>(), 64),
        features in any::<u64>(),
    ) {
        let mut rig = Rig::with_features(features);
        rig.guest.ram.write_slice(&content, GuestAddress(BUFFER)).unwrap();
        for queue in [RECEIVE, TRANSMIT] {
            for (index, desc) in (0..).zip(&descs) {
                rig.guest.queues[queue].write_desc(&rig.guest.ram, index, *desc);
            }
            for head in &heads {
                rig.guest.queues[queue].offer(&rig.guest.ram, *head);
            }
        }
        for frame in &frames {
            rig.cable.send(frame).unwrap();
        }
        rig.guest.kick(TRANSMIT);
        rig.guest.poll_host();
        rig.guest.kick(RECEIVE);
        while let Some(packet) = rig.taken() {
            prop_assert!((MIN_PACKET..=MAX_PACKET).contains(&packet.len()));
        }
        let mut device = rig.guest.device;
        device.reset();
        device.set_features(FEATURES);
        let mut rig = Rig { guest: FakeGuest::new(device, 256), cable: rig.cable };
        prop_assert_eq!(rig.sent(&frame(60), &[(BUFFER, 72, 0)]), Some(frame(60)));
    }
}
