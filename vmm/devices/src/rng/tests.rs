use super::*;
use crate::fake_guest::{Buffer, FakeGuest, HIGH, NEXT, WRITE};
use vm_memory::{Bytes, GuestAddress};

const BUFFER: u64 = 0x10_0000;

/// Offers one chain and returns how many bytes of it were filled.
fn request(buffers: &[Buffer]) -> (FakeGuest<RngDevice>, u32) {
    let mut guest = FakeGuest::new(RngDevice, 256);
    let head = guest.queues[0].add(&guest.ram, buffers);
    guest.kick(0);
    let (returned, length) = guest.queues[0].take_used(&guest.ram).unwrap();
    assert_eq!(returned, head);
    (guest, length)
}

#[test]
fn buffer_is_filled_and_nothing_behind_it() {
    let (guest, length) = request(&[(BUFFER, 300, WRITE), (HIGH, 10, WRITE)]);

    assert_eq!(length, 310);
    let mut bytes = [0; 310];
    guest.ram.read_slice(&mut bytes, GuestAddress(BUFFER)).unwrap();
    assert!(bytes[..300].chunks(30).all(|chunk| chunk.iter().any(|&byte| byte != 0)));
    assert!(bytes[300..].iter().all(|&byte| byte == 0));
    assert_eq!(guest.signals, 1);
}

#[test]
fn overlapping_descriptors_cannot_ask_for_more_than_a_request_gets() {
    let (_, length) = request(&[(BUFFER, 1 << 20, WRITE); 200]);

    assert_eq!(length as usize, MAX_REQUEST);
}

#[test]
fn what_cannot_be_filled_is_returned_empty() {
    for buffers in [
        [(BUFFER, 64, 0), (BUFFER, 0, 0)],
        [(BUFFER, 0, WRITE), (BUFFER, 0, WRITE)],
        [(1 << 40, 64, WRITE), (BUFFER, 64, WRITE)],
        [(u64::MAX - 8, 64, WRITE), (BUFFER, 64, WRITE)],
    ] {
        assert_eq!(request(&buffers).1, 0, "{buffers:?}");
    }
}

#[test]
fn chain_that_loops_ends() {
    let mut guest = FakeGuest::new(RngDevice, 16);
    let desc = crate::fake_guest::Desc { address: BUFFER, length: 1, flags: WRITE | NEXT, next: 0 };
    guest.queues[0].write_desc(&guest.ram, 0, desc);
    guest.queues[0].offer(&guest.ram, 0);
    guest.kick(0);

    assert!(guest.queues[0].take_used(&guest.ram).unwrap().1 <= 16);
}

#[test]
fn avail_index_that_jumps_is_ignored() {
    let mut guest = FakeGuest::new(RngDevice, 16);
    guest.queues[0].set_avail_index(&guest.ram, 17);
    guest.kick(0);

    assert_eq!(guest.queues[0].take_used(&guest.ram), None);
}
