//! Sorts packets to connections and connections to packets.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::event::{EventfdFlags, eventfd};

use crate::queue::DeviceQueue;

use super::connection::{Connection, Fate, Key, Turn};
use super::host_socket::{Handshake, HostDirectory, HostListener, Request};
use super::packet::{HOST_CID, Header, TYPE_STREAM, TxPacket, op};
use super::rx_queue::RxQueue;
use super::table::{NO_PORT, Table, Token, Watch};

/// What of a connection's data we promise to buffer while its host program does not read. A buffer of Linux's
/// default size keeps the pipe full; beyond some connections a smaller one keeps the sum below 80 MiB.
const OWN_BUFFER: u32 = 256 * 1024;
const SMALL_OWN_BUFFER: u32 = 64 * 1024;
const FULL_SIZE_CONNECTIONS: usize = 64;

/// Host programs that have connected but not said to which port. The oldest goes when there are more.
const MAX_HANDSHAKES: usize = 64;

/// Resets that wait for a buffer of the guest's. A guest that provokes more without taking them loses some.
const MAX_RESETS: usize = 256;

/// Turns of data between two looks at everything else, so that neither direction waits for the other.
const MAX_TURNS: usize = 32;

/// Ports from here on are given to connections of the host's programs; services have lower ones.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// See the module.
#[derive(Debug)]
pub(super) struct Muxer {
    guest_cid: u64,
    watch: Watch,
    /// Readable when work was left undone.
    wake: OwnedFd,
    listener: HostListener,
    /// No descriptor was left for another connection: the listener is not watched until one is closed.
    listener_paused: bool,
    directory: HostDirectory,
    handshakes: VecDeque<(u32, Handshake)>,
    next_handshake: u32,
    table: Table,
    next_host_port: u32,
    resets: VecDeque<Header>,
    /// Packets and buffers of the guest's that were not as they should be.
    faults: u64,
}

impl Muxer {
    pub(super) fn new(guest_cid: u32, listener: OwnedFd, directory: OwnedFd) -> io::Result<Self> {
        let watch = Watch::new()?;
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        watch.add(&wake, Token::Wake, EventFlags::IN)?;
        let listener = HostListener::new(listener)?;
        watch.add(&listener, Token::Listener, EventFlags::IN)?;
        Ok(Self {
            guest_cid: guest_cid.into(),
            watch,
            wake,
            listener,
            listener_paused: false,
            directory: HostDirectory::new(directory),
            handshakes: VecDeque::new(),
            next_handshake: 0,
            table: Table::default(),
            next_host_port: FIRST_HOST_PORT,
            resets: VecDeque::new(),
            faults: 0,
        })
    }

    pub(super) fn event_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Ends everything; host programs see their connections closed.
    pub(super) fn reset(&mut self) {
        self.table.clear();
        self.handshakes.clear();
        self.resets.clear();
        self.resume_listener();
    }

    pub(super) fn count_fault(&mut self) {
        self.faults += 1;
    }

    /// A packet of the guest's.
    pub(super) fn receive(&mut self, packet: &TxPacket<'_>) {
        // What was lacking to accept may have come back, without the end of a connection: file descriptors, say.
        self.resume_listener();
        let header = &packet.header;
        if header.src_cid != self.guest_cid {
            // Nobody to answer to.
            self.faults += 1;
            return;
        }
        let key = Key { host_port: header.dst_port, guest_port: header.src_port };
        let well_addressed =
            header.dst_cid == HOST_CID && header.kind == TYPE_STREAM && key.host_port != NO_PORT;
        if !well_addressed {
            self.faults += 1;
            return self.answer_reset(header);
        }
        match header.op {
            op::RST => self.remove(key),
            op::REQUEST => self.accept_from_guest(key, header),
            _ => self.receive_for(key, packet),
        }
    }

    fn receive_for(&mut self, key: Key, packet: &TxPacket<'_>) {
        let Some(connection) = self.table.get_mut(key) else { return self.answer_reset(&packet.header) };
        let could_read = connection.can_read();
        let fate = connection.receive(packet);
        let news = connection.has_due() || (!could_read && connection.can_read());
        if news {
            self.table.enqueue(key);
        }
        self.settle(key, fate);
    }

    fn accept_from_guest(&mut self, key: Key, request: &Header) {
        if self.table.contains(key) {
            // One side has forgotten about the other: neither goes on.
            self.remove(key);
            return self.answer_reset(request);
        }
        if !self.make_room() {
            return self.answer_reset(request);
        }
        match self.directory.connect(key.host_port) {
            Ok(socket) => {
                let own_buffer = self.own_buffer();
                self.table.insert(key, Connection::accepted(key, request, socket, own_buffer));
                self.settle(key, Fate::Keep);
            }
            Err(_) => self.answer_reset(request),
        }
    }

    /// Whether one more connection has a place. One of which only the guest's confirmation is missing gives way.
    fn make_room(&mut self) -> bool {
        if self.table.is_full()
            && let Some(over) = self.table.find_over()
        {
            self.end(over);
        }
        !self.table.is_full()
    }

    fn own_buffer(&self) -> u32 {
        if self.table.len() < FULL_SIZE_CONNECTIONS { OWN_BUFFER } else { SMALL_OWN_BUFFER }
    }

    /// Something happened to the host's sockets. Without a guest that is up (`active`) nobody can be connected.
    pub(super) fn poll_host(&mut self, active: bool) {
        for (token, flags) in self.watch.poll() {
            match token {
                Token::Wake => {
                    let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                }
                Token::Listener => self.accept_from_host(active),
                Token::Handshake(id) => self.advance_handshake(id, active),
                Token::Connection(key) => self.advance_connection(key, flags),
            }
        }
    }

    fn accept_from_host(&mut self, active: bool) {
        match self.listener.accept() {
            // The client is told by the end of the stream, at once, and may try again.
            Ok(Some(_)) if !active => {}
            Ok(Some(socket)) => self.begin_handshake(Handshake::new(socket)),
            Ok(None) => {}
            Err(_) => {
                self.watch.remove(&self.listener);
                self.listener_paused = true;
            }
        }
    }

    fn resume_listener(&mut self) {
        if self.listener_paused {
            self.listener_paused = self.watch.add(&self.listener, Token::Listener, EventFlags::IN).is_err();
        }
    }

    fn begin_handshake(&mut self, handshake: Handshake) {
        if self.handshakes.len() >= MAX_HANDSHAKES {
            self.handshakes.pop_front();
        }
        let id = self.next_handshake;
        // 31 bits: a token has no room for the highest numbers.
        self.next_handshake = (id + 1) & (u32::MAX >> 1);
        // Edge-triggered, as what is no whole line yet stays in the socket.
        let flags = EventFlags::IN | EventFlags::ET;
        if self.watch.add(handshake.socket(), Token::Handshake(id), flags).is_ok() {
            self.handshakes.push_back((id, handshake));
        }
    }

    fn advance_handshake(&mut self, id: u32, active: bool) {
        let Some(index) = self.handshakes.iter().position(|(other, _)| *other == id) else { return };
        let request = self.handshakes.get(index).map(|(_, handshake)| handshake.read());
        if request == Some(Request::Incomplete) {
            return;
        }
        let Some((_, handshake)) = self.handshakes.remove(index) else { return };
        self.watch.remove(handshake.socket());
        if let Some(Request::Connect(port)) = request
            && active
            && port != NO_PORT
            && self.make_room()
        {
            let key = self.free_key(port);
            let own_buffer = self.own_buffer();
            let socket = handshake.into_socket();
            self.table.insert(key, Connection::requested(key, self.guest_cid, socket, own_buffer));
            return self.settle(key, Fate::Keep);
        }
        self.resume_listener();
    }

    /// A host port for a connection to `guest_port`. There are far more than connections.
    fn free_key(&mut self, guest_port: u32) -> Key {
        loop {
            let key = Key { host_port: self.next_host_port, guest_port };
            self.next_host_port = match self.next_host_port + 1 {
                NO_PORT => FIRST_HOST_PORT,
                next => next,
            };
            if !self.table.contains(key) {
                return key;
            }
        }
    }

    fn advance_connection(&mut self, key: Key, flags: EventFlags) {
        let Some(connection) = self.table.get_mut(key) else { return };
        let mut fate = Fate::Keep;
        if flags.contains(EventFlags::OUT) {
            fate = connection.flush();
        }
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            connection.hang_up();
            if connection.is_abandoned() {
                fate = Fate::Reset;
            }
        }
        if connection.has_due() || (flags.contains(EventFlags::IN) && connection.can_read()) {
            self.table.enqueue(key);
        }
        self.settle(key, fate);
    }

    /// Sends the guest as much as there is and as it has buffers for.
    pub(super) fn fill(&mut self, queue: &mut DeviceQueue<'_>) {
        if !queue.is_active() {
            return;
        }
        let mut rx = RxQueue::new(queue);
        rx.suppress_kicks();
        let mut turns = 0;
        while self.take_turn(&mut rx) {
            turns += 1;
            if turns >= MAX_TURNS {
                // Comes back through the event loop.
                let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
                break;
            }
        }
        self.faults += rx.faults;
    }

    /// One turn of one connection; false when there is nothing more to do.
    fn take_turn(&mut self, rx: &mut RxQueue<'_, '_>) -> bool {
        while let Some(&reset) = self.resets.front() {
            if !rx.send(reset) {
                return self.wait_for_buffers(rx);
            }
            self.resets.pop_front();
        }
        let Some((key, connection)) = self.table.dequeue() else { return false };
        match connection.take_turn(rx) {
            Turn::Idle => self.settle(key, Fate::Keep),
            Turn::More => self.table.enqueue(key),
            Turn::Starved => {
                self.table.requeue_first(key);
                return self.wait_for_buffers(rx);
            }
        }
        true
    }

    /// True when buffers have come meanwhile.
    fn wait_for_buffers(&mut self, rx: &mut RxQueue<'_, '_>) -> bool {
        if rx.request_kick() {
            return true;
        }
        // They are tried again in any case; that one is watched for too much costs time only.
        let _ = self.table.watch_ready(&self.watch);
        false
    }

    /// Applies what became of a connection.
    fn settle(&mut self, key: Key, fate: Fate) {
        if fate == Fate::Reset || self.table.watch(&self.watch, key).is_err() {
            self.end(key);
        }
    }

    /// Ends a connection and tells the guest.
    fn end(&mut self, key: Key) {
        self.remove(key);
        self.push_reset(Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: key.host_port,
            dst_port: key.guest_port,
            kind: TYPE_STREAM,
            op: op::RST,
            ..Header::default()
        });
    }

    fn remove(&mut self, key: Key) {
        if self.table.remove(key) {
            self.resume_listener();
        }
    }

    /// Says that what the guest sent belongs to no connection (virtio 1.2 section 5.10.6.4).
    fn answer_reset(&mut self, header: &Header) {
        if header.op == op::RST {
            return;
        }
        self.push_reset(Header {
            src_cid: header.dst_cid,
            dst_cid: header.src_cid,
            src_port: header.dst_port,
            dst_port: header.src_port,
            kind: header.kind,
            op: op::RST,
            ..Header::default()
        });
    }

    fn push_reset(&mut self, reset: Header) {
        if self.resets.len() < MAX_RESETS {
            self.resets.push_back(reset);
        } else {
            self.faults += 1;
        }
    }
}
