use std::fs::File;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{Bytes, FileOffset, GuestAddress};

use super::*;
use crate::fake_guest::{Buffer, FakeGuest, HIGH, HIGH_SIZE, LOW, LOW_SIZE, WRITE};

/// Above the queues.
const BUFFER: u64 = 0x10_0000;

/// A guest whose memory, all of it written to, is a file; and the file.
fn guest() -> (FakeGuest<BalloonDevice>, File) {
    let file = File::from(memfd_create("guest-memory", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, (LOW_SIZE + HIGH_SIZE) as u64).unwrap();
    let mut guest = FakeGuest::new(BalloonDevice, 256);
    let place = |offset| Some(FileOffset::new(file.try_clone().unwrap(), offset));
    guest.ram = GuestRam::from_ranges_with_files([
        (GuestAddress(LOW), LOW_SIZE, place(0)),
        (GuestAddress(HIGH), HIGH_SIZE, place(LOW_SIZE as u64)),
    ])
    .unwrap();
    for (start, size) in [(LOW, LOW_SIZE), (HIGH, HIGH_SIZE)] {
        guest.ram.write_slice(&vec![1; size], GuestAddress(start)).unwrap();
    }
    // The rings begin empty.
    guest.ram.write_slice(&[0; 0x4_0000], GuestAddress(LOW)).unwrap();
    (guest, file)
}

fn pages(file: &File) -> u64 {
    file.metadata().unwrap().blocks() / 8
}

/// How many pages a report of `buffers` on queue `index` gives back.
fn given_back(index: usize, buffers: &[Buffer]) -> (u64, FakeGuest<BalloonDevice>) {
    let (mut guest, file) = guest();
    let before = pages(&file);
    let head = guest.queues[index].add(&guest.ram, buffers);
    guest.kick(index);
    assert_eq!(guest.queues[index].take_used(&guest.ram), Some((head, 0)));
    (before - pages(&file), guest)
}

#[test]
fn reported_blocks_go_back_and_read_as_zero() {
    let (count, guest) =
        given_back(REPORTING_QUEUE, &[(BUFFER, 0x2_0000, WRITE), (HIGH + 0x1000, 0x1000, WRITE)]);
    assert_eq!(count, 33);
    let byte = |address| guest.ram.read_obj::<u8>(GuestAddress(address)).unwrap();
    assert_eq!([BUFFER, BUFFER + 0x1_ffff, HIGH + 0x1000].map(byte), [0; 3]);
    assert_eq!([BUFFER - 1, BUFFER + 0x2_0000, HIGH, HIGH + 0x2000].map(byte), [1; 4]);
    assert_eq!(guest.signals, 1);
}

#[test]
fn only_whole_pages_of_guest_memory_go_back() {
    for (buffer, expected) in [
        ((BUFFER + 1, 0x2000, WRITE), 1),
        ((BUFFER + 1, 0x1ffe, WRITE), 0),
        ((BUFFER, 0, WRITE), 0),
        // To the end of the region, not into what follows in the file.
        ((LOW_SIZE as u64 - 0x2000, 0x10_0000, WRITE), 2),
        ((HIGH + HIGH_SIZE as u64 - 0x1000, u32::MAX, WRITE), 1),
        ((LOW_SIZE as u64, 0x1000, WRITE), 0),
        ((u64::MAX, u32::MAX, WRITE), 0),
        ((u64::MAX - 0xfff, 0x1000, WRITE), 0),
        // No report is of what the device may only read.
        ((BUFFER, 0x2000, 0), 0),
    ] {
        assert_eq!(given_back(REPORTING_QUEUE, &[buffer]).0, expected, "{buffer:x?}");
    }
}

#[test]
fn nothing_is_taken_that_was_not_reported() {
    for queue in [0, 1] {
        assert_eq!(given_back(queue, &[(BUFFER, 0x2000, WRITE)]).0, 0);
    }
}
