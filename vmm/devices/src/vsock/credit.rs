//! Credit of one connection (virtio 1.2 section 5.10.6.3): how much each side may send before the other must
//! have consumed it. All counters wrap at 2^32, as the specification's do.

use std::num::Wrapping;

/// Both directions' counters.
#[derive(Debug)]
pub(super) struct Credit {
    /// What of the guest's data we promise to buffer.
    own_buffer: u32,
    /// Bytes received from the guest.
    received: Wrapping<u32>,
    /// Of these, bytes handed on to the host's socket: our `fwd_cnt`.
    forwarded: Wrapping<u32>,
    /// The `fwd_cnt` that the guest was last told.
    announced: Wrapping<u32>,
    /// The guest's `buf_alloc`.
    peer_buffer: u32,
    /// The guest's `fwd_cnt`.
    peer_forwarded: Wrapping<u32>,
    /// Bytes sent to the guest.
    sent: Wrapping<u32>,
}

/// The guest sent more than it was allowed to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CreditExceeded;

impl Credit {
    /// Nothing sent yet, nothing known of the guest.
    pub(super) fn new(own_buffer: u32) -> Self {
        Self {
            own_buffer,
            received: Wrapping(0),
            forwarded: Wrapping(0),
            announced: Wrapping(0),
            peer_buffer: 0,
            peer_forwarded: Wrapping(0),
            sent: Wrapping(0),
        }
    }

    /// What of the guest's data we promise to buffer.
    pub(super) fn own_buffer(&self) -> u32 {
        self.own_buffer
    }

    /// Takes over what the guest's packet says of its buffer.
    pub(super) fn update_peer(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.peer_buffer = buf_alloc;
        self.peer_forwarded = Wrapping(fwd_cnt);
    }

    /// How many bytes may be sent to the guest now. A guest that claims to have consumed more than it was sent
    /// gets nothing.
    pub(super) fn sendable(&self) -> u32 {
        self.peer_buffer.saturating_sub((self.sent - self.peer_forwarded).0)
    }

    /// `length` bytes went to the guest.
    pub(super) fn count_sent(&mut self, length: u32) {
        self.sent += length;
    }

    /// `length` bytes came from the guest.
    pub(super) fn count_received(&mut self, length: u32) -> Result<(), CreditExceeded> {
        let outstanding = (self.received - self.forwarded).0;
        if length > self.own_buffer.saturating_sub(outstanding) {
            return Err(CreditExceeded);
        }
        self.received += length;
        Ok(())
    }

    /// `length` bytes of the guest's went on to the host's socket.
    pub(super) fn count_forwarded(&mut self, length: u32) {
        self.forwarded += length;
    }

    /// Whether the guest should be told of room that it does not know of. Not at each byte: a packet costs more
    /// than it. At a quarter of the buffer a guest that never pauses never runs dry.
    pub(super) fn update_is_due(&self) -> bool {
        (self.forwarded - self.announced).0 >= self.own_buffer / 4
    }

    /// `buf_alloc` and `fwd_cnt` for a packet that is about to go to the guest.
    pub(super) fn announce(&mut self) -> (u32, u32) {
        self.announced = self.forwarded;
        (self.own_buffer, self.forwarded.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_wrap_in_both_directions() {
        let mut credit = Credit::new(1_000_000);
        credit.update_peer(1_000_000, 0);
        // 2^33 bytes each way, in steps that do not divide 2^32.
        for _ in 0..(1_u64 << 33) / 999_999 {
            assert_eq!(credit.sendable(), 1_000_000);
            credit.count_sent(999_999);
            assert_eq!(credit.sendable(), 1);
            let sent = credit.sent.0;
            credit.update_peer(1_000_000, sent);
            credit.count_received(999_999).unwrap();
            assert_eq!(credit.count_received(2), Err(CreditExceeded));
            credit.count_forwarded(999_999);
        }
    }

    #[test]
    fn guest_that_claims_too_much_gets_nothing() {
        let mut credit = Credit::new(1000);
        credit.update_peer(1000, 5);
        assert_eq!(credit.sendable(), 0);
    }

    #[test]
    fn shrinking_buffer_leaves_no_credit() {
        let mut credit = Credit::new(1000);
        credit.update_peer(1000, 0);
        credit.count_sent(800);
        credit.update_peer(500, 0);
        assert_eq!(credit.sendable(), 0);
    }

    #[test]
    fn update_is_due_at_a_quarter_and_not_after_it_was_announced() {
        let mut credit = Credit::new(1000);
        credit.count_received(1000).unwrap();
        credit.count_forwarded(249);
        assert!(!credit.update_is_due());
        credit.count_forwarded(1);
        assert!(credit.update_is_due());
        assert_eq!(credit.announce(), (1000, 250));
        assert!(!credit.update_is_due());
    }
}
