//! What a driver can do to the rings of a device that no driver does: seeded, so that a round can be played again.
//!
//! `RUNV_TEST_SEED` is the seed, which is printed, and `RUNV_TEST_MUTATIONS` the number of rounds.

use vm_memory::{Bytes, GuestAddress};

use crate::device::Device;
use crate::fake_guest::{Desc, FakeGuest, FakeQueue, HIGH, HIGH_SIZE, LOW_SIZE, write_desc_at};
use crate::queue::GuestRam;

/// Behind the queues: buffers, and tables of descriptors.
pub(crate) const BUFFER: u64 = 0x10_0000;
const TABLE: u64 = 0x20_0000;

/// Steele, Lea, Flood: Fast splittable pseudorandom number generators (2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, round: u64) -> Self {
        Self(seed.wrapping_add(round.rotate_left(40)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// One time in `many`.
    pub(crate) fn once_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::try_from(self.below(1 << 16)).unwrap()
    }

    fn address(&mut self) -> u64 {
        let near = self.below(64);
        let edge = self.pick(&[
            0,
            LOW_SIZE as u64 - 32,
            LOW_SIZE as u64,
            HIGH - 32,
            HIGH,
            HIGH + HIGH_SIZE as u64 - 32,
            u64::MAX - 63,
        ]);
        match self.below(8) {
            0 => edge + near,
            1 => self.next(),
            // The rings themselves, which then change while they are read.
            2 => self.below(0x2_0000),
            _ => BUFFER + self.below(0x8000),
        }
    }

    fn length(&mut self) -> u32 {
        match self.below(6) {
            0 => self.pick(&[0, 1, 11, 12, 25, 26, 0xffff, 0x1_0000, 0x1_0022, u32::MAX]),
            1 => u32::try_from(self.next() >> 32).unwrap(),
            _ => u32::try_from(self.below(3000)).unwrap(),
        }
    }

    fn desc(&mut self, size: u16) -> Desc {
        let next =
            if self.once_in(8) { self.word() } else { u16::try_from(self.below(size.into())).unwrap() };
        let flags = if self.once_in(16) { self.word() } else { u16::try_from(self.below(4)).unwrap() };
        if self.once_in(8) {
            // INDIRECT, with a table in its place or anywhere, of a length that is whole or not.
            let address = if self.once_in(4) { self.address() } else { TABLE + 16 * self.below(512) };
            let length = if self.once_in(4) { self.length() } else { 16 * u32::from(size) };
            return Desc { address, length, flags: flags | 4, next };
        }
        Desc { address: self.address(), length: self.length(), flags, next }
    }
}

/// Runs `round` for each, with what its numbers come from; says which one it was that failed.
pub(crate) fn rounds(usual: u64, mut round: impl FnMut(&mut Random)) {
    let number = |name: &str, usual| std::env::var(name).map_or(usual, |text| text.parse().expect(name));
    let seed = number("RUNV_TEST_SEED", u64::from(std::process::id()));
    println!("RUNV_TEST_SEED={seed}");
    for index in 0..number("RUNV_TEST_MUTATIONS", usual) {
        // Printed if the test fails.
        struct Told(u64);
        impl Drop for Told {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    println!("in round {}", self.0);
                }
            }
        }
        let _told = Told(index);
        round(&mut Random::new(seed, index));
    }
}

impl<D: Device> FakeGuest<D> {
    /// Leaves nothing of the rings as it should be.
    pub(crate) fn scramble(&mut self, random: &mut Random) {
        let size = random.pick(&[1, 2, 4, 8, 16, 16, 32, 256]);
        for index in 0..u64::from(size) * 2 {
            write_desc_at(&self.ram, TABLE + 16 * index, random.desc(size));
        }
        for queue in &mut self.queues {
            scramble(queue, &self.ram, size, random);
        }
    }
}

fn scramble(queue: &mut FakeQueue, ram: &GuestRam, size: u16, random: &mut Random) {
    queue.set_size(size);
    for index in 0..size {
        queue.write_desc(ram, index, random.desc(size));
    }
    for _ in 0..random.below(2 * u64::from(size) + 2) {
        let head = if random.once_in(16) { random.word() } else { random.word() % size };
        queue.offer(ram, head);
    }
    if random.once_in(4) {
        queue.set_avail_index(ram, random.word());
    }
    if random.once_in(4) {
        queue.set_next(random.word(), random.word());
    }
    // The index at which the driver wants to hear of it.
    let event = queue.base() + 0x8000 + 4 + 2 * u64::from(size);
    ram.write_obj(random.word(), GuestAddress(event)).unwrap();
    if random.once_in(6) {
        let anywhere = [random.address() & !15, random.address() & !1, random.address() & !3];
        let usual = [queue.base(), queue.base() + 0x8000, queue.base() + 0xc000];
        let rings = std::array::from_fn(|ring| if random.once_in(2) { anywhere[ring] } else { usual[ring] });
        queue.set_rings(rings);
    }
}
