use std::io::Read;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::fake_guest::{Buffer, FakeGuest, HIGH, WRITE};

const BUFFER: u64 = 0x10_0000;

/// Offers a chain to `queue` and returns what came out of the console.
fn output_of(queue: usize, buffers: &[Buffer]) -> Vec<u8> {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut guest = FakeGuest::new(ConsoleDevice::new(writer.into()), 256);
    guest.ram.write_slice(b"hello ", GuestAddress(BUFFER)).unwrap();
    guest.ram.write_slice(b"world\n", GuestAddress(HIGH)).unwrap();
    guest.queues[queue].add(&guest.ram, buffers);
    guest.kick(queue);
    // The receive queue's buffers wait for input that never comes.
    assert_eq!(guest.queues[queue].take_used(&guest.ram).is_some(), queue == TRANSMIT_QUEUE);
    drop(guest);
    let mut output = Vec::new();
    reader.read_to_end(&mut output).unwrap();
    output
}

#[test]
fn what_the_guest_writes_comes_out() {
    assert_eq!(output_of(TRANSMIT_QUEUE, &[(BUFFER, 6, 0), (HIGH, 6, 0)]), b"hello world\n");
}

#[test]
fn overlapping_descriptors_write_no_more_than_a_request_may() {
    let output = output_of(TRANSMIT_QUEUE, &[(BUFFER, 1000, 0); 200]);
    assert_eq!(output.len(), MAX_REQUEST);
}

#[test]
fn nothing_comes_out_for_what_is_no_output() {
    assert_eq!(output_of(TRANSMIT_QUEUE, &[(BUFFER, 6, WRITE)]), b"");
    assert_eq!(output_of(TRANSMIT_QUEUE, &[(1 << 40, 6, 0)]), b"");
    assert_eq!(output_of(0, &[(BUFFER, 6, WRITE)]), b"");
}

#[test]
fn output_that_nobody_reads_is_lost_and_the_device_lives() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut guest = FakeGuest::new(ConsoleDevice::new(writer.into()), 16);
    for _ in 0..3 {
        guest.queues[TRANSMIT_QUEUE].add(&guest.ram, &[(BUFFER, 6, 0)]);
        guest.kick(TRANSMIT_QUEUE);
        assert!(guest.queues[TRANSMIT_QUEUE].take_used(&guest.ram).is_some());
    }
}
