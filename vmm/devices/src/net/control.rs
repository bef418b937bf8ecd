//! The control queue (virtio 1.2 section 5.1.6.5), of which one command is known: how many pairs of queues the driver makes use
//! of. All else, and whatever is not quite that command, is answered with an error and has no effect.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};

use crate::queue::{Chain, GuestRam};

/// Class, command, and a number.
const COMMAND_SIZE: usize = 4;

/// Carries out the command in `chain` with `set`, which says whether it could; returns how many bytes the answer takes.
pub(super) fn execute(memory: &GuestRam, chain: Chain<'_>, set: impl FnOnce(u16) -> bool) -> u32 {
    // Who has no room for an answer is not obeyed.
    let Ok(mut answer) = chain.clone().writer(memory) else { return 0 };
    if answer.available_bytes() == 0 {
        return 0;
    }
    let verdict = if pairs(memory, chain).is_some_and(set) { VIRTIO_NET_OK } else { VIRTIO_NET_ERR };
    let written = u8::try_from(verdict).is_ok_and(|verdict| answer.write_all(&[verdict]).is_ok());
    u32::from(written)
}

fn pairs(memory: &GuestRam, chain: Chain<'_>) -> Option<u16> {
    let mut reader = chain.reader(memory).ok()?;
    if reader.available_bytes() != COMMAND_SIZE {
        return None;
    }
    let mut bytes = [0; COMMAND_SIZE];
    reader.read_exact(&mut bytes).ok()?;
    let [class, command, low, high] = bytes;
    let is_known =
        (u32::from(class), u32::from(command)) == (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET);
    is_known.then_some(u16::from_le_bytes([low, high]))
}

/// How often something may be done that takes a lock of the whole host for a moment: some times at once, then once a second.
#[derive(Debug)]
pub(super) struct Patience {
    left: u32,
    since: Instant,
}

/// At once.
const BURST: u32 = 8;

impl Patience {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    /// Whether it may be done now, once.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        self.since += Duration::from_secs(seconds);
        self.left = self.left.saturating_add(u32::try_from(seconds).unwrap_or(u32::MAX)).min(BURST);
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_times_at_once_and_then_once_a_second() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        let taken = |patience: &mut Patience, at| (0..100).filter(|_| patience.take(start + at)).count();
        assert_eq!(taken(&mut patience, Duration::ZERO), 8);
        assert_eq!(taken(&mut patience, Duration::from_millis(999)), 0);
        assert_eq!(taken(&mut patience, Duration::from_millis(1500)), 1);
        assert_eq!(taken(&mut patience, Duration::from_millis(2100)), 1);
        assert_eq!(taken(&mut patience, Duration::from_secs(1_000_000)), 8);
    }
}
