//! A vsock device between a fake guest and real unix sockets.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use vm_memory::{Bytes, GuestAddress};

use super::super::VsockDevice;
use super::super::packet::{HEADER_SIZE, HOST_CID, Header, TYPE_STREAM, op};
use crate::device::Device;
use crate::fake_guest::{FakeGuest, WRITE};

pub(super) const CID: u32 = 3;
pub(super) const RX: usize = 0;
pub(super) const TX: usize = 1;

/// Where the guest's buffers are: a stretch per receive buffer, then room to send from.
const RX_BASE: u64 = 0x10_0000;
const RX_STRIDE: u64 = 0x1000;
pub(super) const TX_BASE: u64 = 0x40_0000;

/// What of its buffer the fake guest promises.
pub(super) const GUEST_BUFFER: u32 = 1 << 20;

/// A packet that the guest got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
}

impl Packet {
    pub(super) fn op(&self) -> u16 {
        self.header.op
    }
}

pub(super) struct Rig {
    pub(super) guest: FakeGuest<VsockDevice>,
    pub(super) directory: tempfile::TempDir,
    received: VecDeque<Packet>,
    /// Sizes of the receive buffers by head.
    buffers: Vec<u32>,
}

impl Rig {
    /// With `count` receive buffers of `size` bytes.
    pub(super) fn with_buffers(count: u16, size: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("vsock.sock")).unwrap();
        let opened = std::fs::File::open(directory.path()).unwrap();
        let device = VsockDevice::new(CID, listener.into(), opened.into()).unwrap();
        let mut guest = FakeGuest::new(device, 256);
        for index in 0..count {
            let address = RX_BASE + RX_STRIDE * u64::from(index);
            guest.queues[RX].add(&guest.ram, &[(address, size, WRITE)]);
        }
        Self { guest, directory, received: VecDeque::new(), buffers: vec![size; count.into()] }
    }

    pub(super) fn new() -> Self {
        Self::with_buffers(128, 0x1000)
    }

    /// A program of the host that serves `port`.
    pub(super) fn serve(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.directory.path().join(format!("vsock.sock_{port}"))).unwrap()
    }

    pub(super) fn header(op: u16, host_port: u32, guest_port: u32) -> Header {
        Header {
            src_cid: CID.into(),
            dst_cid: HOST_CID,
            src_port: guest_port,
            dst_port: host_port,
            len: 0,
            kind: TYPE_STREAM,
            op,
            flags: 0,
            buf_alloc: GUEST_BUFFER,
            fwd_cnt: 0,
        }
    }

    /// The guest sends a packet framed as Linux does, header and payload in one descriptor each.
    pub(super) fn send(&mut self, mut header: Header, payload: &[u8]) {
        header.len = u32::try_from(payload.len()).unwrap();
        self.write_tx(&header, payload);
        let header_buffer = (TX_BASE, 44, 0);
        let payload_buffer = (TX_BASE + 44, header.len, 0);
        let ram = &self.guest.ram;
        if payload.is_empty() {
            self.guest.queues[TX].add(ram, &[header_buffer]);
        } else {
            self.guest.queues[TX].add(ram, &[header_buffer, payload_buffer]);
        }
        self.kick_tx();
    }

    /// Puts a packet where the guest sends from.
    pub(super) fn write_tx(&mut self, header: &Header, payload: &[u8]) {
        self.guest.ram.write_slice(&header.to_bytes(), GuestAddress(TX_BASE)).unwrap();
        self.guest.ram.write_slice(payload, GuestAddress(TX_BASE + 44)).unwrap();
    }

    /// Every chain that is sent comes back at once.
    pub(super) fn kick_tx(&mut self) {
        self.guest.kick(TX);
        assert!(self.guest.queues[TX].take_used(&self.guest.ram).is_some());
    }

    /// Whether the device waits, rather than being told of the same thing again and again.
    pub(super) fn is_waiting(&mut self) -> bool {
        self.guest.poll_host();
        let event_fd = self.guest.device.event_fd().unwrap();
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [rustix::event::PollFd::new(&event_fd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&now)).unwrap() == 0
    }

    /// Takes what the guest got into `received`, without giving the buffers back.
    pub(super) fn collect(&mut self) -> Vec<u16> {
        let mut heads = Vec::new();
        while let Some((head, length)) = self.guest.queues[RX].take_used(&self.guest.ram) {
            heads.push(head);
            assert!(length <= self.buffers[usize::from(head)]);
            if length == 0 {
                continue;
            }
            let mut bytes = vec![0; length as usize];
            let address = RX_BASE + RX_STRIDE * u64::from(head);
            self.guest.ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
            let header = Header::from_bytes(bytes[..HEADER_SIZE].try_into().unwrap());
            assert_eq!(header.len as usize, bytes.len() - HEADER_SIZE);
            self.received.push_back(Packet { header, payload: bytes.split_off(HEADER_SIZE) });
        }
        heads
    }

    /// The next packet that the guest gets, after giving back all buffers.
    pub(super) fn receive(&mut self) -> Option<Packet> {
        for _ in 0..8 {
            let heads = self.collect();
            let any = !heads.is_empty();
            for head in heads {
                self.guest.queues[RX].offer(&self.guest.ram, head);
            }
            if any {
                self.guest.kick(RX);
            } else if self.received.is_empty() {
                self.guest.poll_host();
            }
            if let Some(packet) = self.received.pop_front() {
                return Some(packet);
            }
        }
        None
    }

    pub(super) fn expect(&mut self, op: u16) -> Packet {
        let packet = self.receive().unwrap_or_else(|| panic!("no packet, but op {op} is due"));
        assert_eq!(packet.op(), op, "{packet:?}");
        packet
    }

    /// Data until `length` bytes are there.
    pub(super) fn expect_data(&mut self, length: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < length {
            data.extend(self.expect(op::RW).payload);
        }
        assert_eq!(data.len(), length);
        data
    }

    /// A connection of the guest's from `guest_port` to a service.
    pub(super) fn connect(&mut self, service: &UnixListener, host_port: u32, guest_port: u32) -> UnixStream {
        self.send(Self::header(op::REQUEST, host_port, guest_port), &[]);
        let response = self.expect(op::RESPONSE);
        assert_eq!((response.header.src_port, response.header.dst_port), (host_port, guest_port));
        service.accept().unwrap().0
    }

    /// A program of the host that asks for `port`; not answered yet.
    pub(super) fn ask(&mut self, port: u32) -> UnixStream {
        let mut client = UnixStream::connect(self.directory.path().join("vsock.sock")).unwrap();
        writeln!(client, "CONNECT {port}").unwrap();
        client
    }

    /// The same, answered by the guest; returns the host's port too.
    pub(super) fn connect_from_host(&mut self, port: u32) -> (UnixStream, u32) {
        let mut client = self.ask(port);
        let request = self.expect(op::REQUEST);
        assert_eq!(request.header.dst_port, port);
        let host_port = request.header.src_port;
        self.send(Self::header(op::RESPONSE, host_port, port), &[]);
        assert_eq!(read_line(&mut client), format!("OK {host_port}\n"));
        (client, host_port)
    }
}

pub(super) fn read_line(stream: &mut UnixStream) -> String {
    let mut line = String::new();
    let mut byte = [0];
    while !line.ends_with('\n') && stream.read(&mut byte).unwrap() == 1 {
        line.push(byte[0].into());
    }
    line
}

/// Reads exactly `length` bytes.
pub(super) fn read(stream: &mut UnixStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Whether the stream has ended; not so if there is data or nothing yet.
pub(super) fn is_at_end(stream: &mut UnixStream) -> bool {
    matches!(read_now(stream), Ok(0))
}

/// Whether the other end is closed, be it that it has left something unread, which counts as a reset.
pub(super) fn is_closed(stream: &mut UnixStream) -> bool {
    match read_now(stream) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn read_now(stream: &mut UnixStream) -> std::io::Result<usize> {
    stream.set_nonblocking(true).unwrap();
    let result = stream.read(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    result
}

/// Bytes that are not the same anywhere near.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251).to_le_bytes()[0]).collect()
}
