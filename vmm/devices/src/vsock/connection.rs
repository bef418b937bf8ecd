//! One connection: a stream socket of the host on one side, packets on the other.
//!
//! ```text
//!   guest ── RW ──> pending (at most own_buffer bytes, and only while the socket is full) ──> socket
//!   guest <── RW ── straight from the socket, as far as the guest's credit and buffers go <── socket
//! ```
//!
//! Nothing is read from the socket that the guest has no credit for, so a slow guest makes the host's writer
//! wait; nothing is taken from the guest beyond what it was promised, so a slow host makes the guest wait.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::credit::Credit;
use super::guest_io;
use super::packet::{
    HOST_CID, Header, MAX_PAYLOAD, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, Slice, TYPE_STREAM, TxPacket, op,
};
use super::rx_queue::{Gathered, RxQueue};

/// The least that is asked of the socket at once: a page, which is what Linux's receive buffers have.
const MIN_BATCH: usize = 4096;

/// The two ports, which together name a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Fate {
    /// It lives on.
    Keep,
    /// It ends, and the guest is told.
    Reset,
}

/// How far a turn of sending to the guest got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is nothing to send, or no credit to send it.
    Idle,
    /// There may be more to send.
    More,
    /// The guest has provided no buffer.
    Starved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The host asked for the connection, the guest has not answered.
    Requested,
    Established,
}

/// Packets without payload that are due.
#[derive(Debug, Default)]
struct Due {
    request: bool,
    response: bool,
    credit_update: bool,
    credit_request: bool,
    shutdown: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    key: Key,
    guest_cid: u64,
    socket: UnixStream,
    state: State,
    credit: Credit,
    /// Bytes of the guest's that the socket did not take yet.
    pending: VecDeque<u8>,
    due: Due,
    /// What we have told the guest that the host's side will not do any more, `SHUTDOWN_*`.
    host_done: u32,
    /// What the guest said that it will not do any more.
    guest_done: u32,
    /// Nothing of the socket's events matters any more: the other end is gone, what it left is still to be read.
    hung_up: bool,
    /// How much to ask of the socket next time, so that a byte does not cost as much as a megabyte.
    batch: usize,
}

impl Connection {
    /// The guest asked for it with `request`, and the host's program has been reached.
    pub(super) fn accepted(key: Key, request: &Header, socket: UnixStream, own_buffer: u32) -> Self {
        let mut connection = Self::new(key, request.src_cid, socket, State::Established, own_buffer);
        connection.credit.update_peer(request.buf_alloc, request.fwd_cnt);
        connection.due.response = true;
        connection
    }

    /// A program of the host asked for it.
    pub(super) fn requested(key: Key, guest_cid: u64, socket: UnixStream, own_buffer: u32) -> Self {
        let mut connection = Self::new(key, guest_cid, socket, State::Requested, own_buffer);
        connection.due.request = true;
        connection
    }

    fn new(key: Key, guest_cid: u64, socket: UnixStream, state: State, own_buffer: u32) -> Self {
        Self {
            key,
            guest_cid,
            socket,
            state,
            credit: Credit::new(own_buffer),
            pending: VecDeque::new(),
            due: Due::default(),
            host_done: 0,
            guest_done: 0,
            hung_up: false,
            batch: MIN_BATCH,
        }
    }

    /// The host's socket.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether bytes wait for the socket to take them.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether there is a use for bytes from the socket now.
    pub(super) fn can_read(&self) -> bool {
        self.state == State::Established
            && self.host_done & SHUTDOWN_SEND == 0
            && self.guest_done & SHUTDOWN_RECEIVE == 0
            && self.credit.sendable() > 0
    }

    /// Whether a turn of sending to the guest could achieve something, as far as is known without asking the
    /// socket.
    pub(super) fn has_due(&self) -> bool {
        let due = &self.due;
        due.request
            || due.response
            || due.credit_update
            || due.credit_request
            || due.shutdown
            || (self.hung_up && self.can_read())
    }

    /// Whether the other end of the socket is gone.
    pub(super) fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    /// Whether all that is missing is that the guest confirms.
    pub(super) fn is_over(&self) -> bool {
        self.host_done == SHUTDOWN_SEND | SHUTDOWN_RECEIVE && !self.due.shutdown
    }

    /// Takes a packet of the guest's.
    pub(super) fn receive(&mut self, packet: &TxPacket<'_>) -> Fate {
        let header = &packet.header;
        let had_credit = self.credit.sendable() > 0;
        self.credit.update_peer(header.buf_alloc, header.fwd_cnt);
        if !had_credit && self.credit.sendable() > 0 {
            self.due.credit_request = false;
        }
        match (header.op, self.state) {
            (op::RESPONSE, State::Requested) => self.confirm_to_host(),
            (op::RW, State::Established) => self.forward(&packet.payload),
            (op::SHUTDOWN, State::Established) => self.guest_shuts_down(header.flags),
            (op::CREDIT_UPDATE, _) => Fate::Keep,
            (op::CREDIT_REQUEST, State::Established) => {
                self.due.credit_update = true;
                Fate::Keep
            }
            _ => Fate::Reset,
        }
    }

    /// The line that the program of the host waits for.
    fn confirm_to_host(&mut self) -> Fate {
        self.state = State::Established;
        let line = format!("OK {}\n", self.key.host_port);
        // A fresh socket has room for it, or else nobody is at its other end.
        match self.socket.write(line.as_bytes()) {
            Ok(length) if length == line.len() => Fate::Keep,
            _ => Fate::Reset,
        }
    }

    fn forward(&mut self, payload: &[Slice<'_>]) -> Fate {
        let length: usize = payload.iter().map(Slice::len).sum();
        let Ok(counted) = u32::try_from(length) else { return Fate::Reset };
        if self.guest_done & SHUTDOWN_SEND != 0 || self.credit.count_received(counted).is_err() {
            return Fate::Reset;
        }
        if self.host_done & SHUTDOWN_RECEIVE != 0 {
            // On its way before the guest knew. It is lost, as it would be in a pipe.
            self.count_forwarded(length);
            return Fate::Keep;
        }
        let mut taken = 0;
        if self.pending.is_empty() && length > 0 {
            match guest_io::send(&self.socket, payload) {
                Ok(sent) => taken = sent,
                Err(error) if is_temporary(&error) => {}
                Err(_) => {
                    self.host_is_deaf();
                    taken = length;
                }
            }
        }
        self.count_forwarded(taken);
        self.keep(payload, taken);
        Fate::Keep
    }

    /// Copies what follows the first `skip` bytes.
    fn keep(&mut self, payload: &[Slice<'_>], mut skip: usize) {
        if self.pending.capacity() == 0 && skip < payload.iter().map(Slice::len).sum() {
            // All that the guest may send, of which only what it does send takes memory. Growing in steps, each
            // twice the last, could take twice as much.
            self.pending.reserve_exact(self.credit.own_buffer() as usize);
        }
        for slice in payload {
            let skipped = skip.min(slice.len());
            skip -= skipped;
            let Ok(rest) = slice.offset(skipped) else { continue };
            let mut bytes = vec![0; rest.len()];
            rest.copy_to(&mut bytes);
            self.pending.extend(bytes);
        }
    }

    fn count_forwarded(&mut self, length: usize) {
        // Never more than was received, which was counted in 32 bits.
        self.credit.count_forwarded(u32::try_from(length).unwrap_or(u32::MAX));
        if self.credit.update_is_due() {
            self.due.credit_update = true;
        }
    }

    /// The host's program reads no more.
    fn host_is_deaf(&mut self) {
        let lost = self.pending.len();
        self.pending = VecDeque::new();
        self.count_forwarded(lost);
        self.tell_shutdown(SHUTDOWN_RECEIVE);
    }

    fn tell_shutdown(&mut self, flags: u32) {
        if self.host_done | flags != self.host_done {
            self.host_done |= flags;
            self.due.shutdown = true;
        }
    }

    fn guest_shuts_down(&mut self, flags: u32) -> Fate {
        self.guest_done |= flags & (SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
        if self.guest_done & SHUTDOWN_RECEIVE != 0 {
            self.refuse_input();
        }
        self.finish_sending()
    }

    /// The host's program can send no more. What it had sent is thrown away: left unread, it would turn the end of
    /// the stream, once the guest's last data is read, into a reset.
    fn refuse_input(&mut self) {
        // Fails only where the other end is gone, which it would be told by this.
        let _ = self.socket.shutdown(Shutdown::Read);
        let mut unread = [0; 4096];
        while matches!(self.socket.read(&mut unread), Ok(1..)) {}
    }

    /// Passes the guest's end of data on once all of it is. When nothing can come either, the connection is over
    /// and a reset confirms it (virtio 1.2 section 5.10.6.6).
    fn finish_sending(&mut self) -> Fate {
        if self.guest_done & SHUTDOWN_SEND == 0 || self.has_pending() {
            return Fate::Keep;
        }
        if self.guest_done & SHUTDOWN_RECEIVE != 0 {
            return Fate::Reset;
        }
        let _ = self.socket.shutdown(Shutdown::Write);
        Fate::Keep
    }

    /// The socket takes bytes again.
    pub(super) fn flush(&mut self) -> Fate {
        while self.has_pending() {
            let (front, _) = self.pending.as_slices();
            match self.socket.write(front) {
                Ok(sent) => {
                    self.pending.drain(..sent);
                    self.count_forwarded(sent);
                }
                Err(error) if is_temporary(&error) => break,
                Err(_) => self.host_is_deaf(),
            }
        }
        if !self.has_pending() {
            // What a slow reader once made us keep is not held for good.
            self.pending = VecDeque::new();
        }
        self.finish_sending()
    }

    /// The other end of the socket is closed, or both directions are.
    pub(super) fn hang_up(&mut self) {
        self.hung_up = true;
        if self.state == State::Requested {
            return;
        }
        self.host_is_deaf();
    }

    /// Whether the host gave up before the guest answered.
    pub(super) fn is_abandoned(&self) -> bool {
        self.hung_up && self.state == State::Requested
    }

    /// Sends to the guest: what is due, else a batch of the socket's bytes.
    pub(super) fn take_turn(&mut self, rx: &mut RxQueue<'_, '_>) -> Turn {
        while let Some((operation, flags)) = self.next_due() {
            let header = self.header(operation, flags);
            if !rx.send(header) {
                return Turn::Starved;
            }
            self.clear_due(operation);
        }
        if !self.can_read() {
            return Turn::Idle;
        }
        let limit = self.batch.min(self.credit.sendable() as usize);
        let Some(gathered) = rx.gather(limit) else { return Turn::Starved };
        match guest_io::receive(&self.socket, gathered.slices()) {
            Ok(0) => {
                rx.give_back(gathered);
                self.host_ended();
                Turn::More
            }
            Ok(length) => self.send_gathered(rx, gathered, length),
            Err(error) => {
                rx.give_back(gathered);
                if is_temporary(&error) {
                    return Turn::Idle;
                }
                // The program closed with something unread. A reset would make the guest's kernel throw away what
                // the program had sent before; an end does not.
                self.hang_up();
                self.host_ended();
                Turn::More
            }
        }
    }

    fn send_gathered<'m>(&mut self, rx: &mut RxQueue<'_, 'm>, gathered: Gathered<'m>, length: usize) -> Turn {
        let asked = gathered.length();
        // A payload is at most what the credit allowed, which has 32 bits.
        self.credit.count_sent(u32::try_from(length).unwrap_or(u32::MAX));
        let header = self.header(op::RW, 0);
        rx.send_gathered(gathered, length, header);
        if length == asked {
            self.batch = (self.batch * 2).min(MAX_PAYLOAD);
            if self.credit.sendable() == 0 {
                self.due.credit_request = true;
            }
            return Turn::More;
        }
        self.batch = length.next_power_of_two().max(MIN_BATCH);
        if self.hung_up { Turn::More } else { Turn::Idle }
    }

    /// The host's program sends no more.
    fn host_ended(&mut self) {
        let both = SHUTDOWN_SEND | SHUTDOWN_RECEIVE;
        self.tell_shutdown(if self.hung_up { both } else { SHUTDOWN_SEND });
    }

    fn next_due(&self) -> Option<(u16, u32)> {
        let due = &self.due;
        if due.request {
            return Some((op::REQUEST, 0));
        }
        if due.response {
            return Some((op::RESPONSE, 0));
        }
        if due.credit_update {
            return Some((op::CREDIT_UPDATE, 0));
        }
        if due.shutdown {
            return Some((op::SHUTDOWN, self.host_done));
        }
        due.credit_request.then_some((op::CREDIT_REQUEST, 0))
    }

    fn clear_due(&mut self, operation: u16) {
        // Every packet carries what a credit update does.
        self.due.credit_update = false;
        match operation {
            op::REQUEST => self.due.request = false,
            op::RESPONSE => self.due.response = false,
            op::SHUTDOWN => self.due.shutdown = false,
            _ => self.due.credit_request = false,
        }
    }

    /// A header for this connection; the guest learns of its credit with it.
    fn header(&mut self, operation: u16, flags: u32) -> Header {
        let (buf_alloc, fwd_cnt) = self.credit.announce();
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: self.key.host_port,
            dst_port: self.key.guest_port,
            len: 0,
            kind: TYPE_STREAM,
            op: operation,
            flags,
            buf_alloc,
            fwd_cnt,
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
