//! Netlink (netlink(7)) as far as it is needed here: requests in, their answers out. What a message says is the
//! business of who sends it; attributes stay numbers and bytes, because most of them are only passed on.

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{DefaultNla, Emitable, NetlinkBuffer, NlasIterator};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send,
    socket_with,
};

/// `NLM_F_*` (linux/netlink.h).
pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
const DUMP: u16 = 0x300;
pub(super) const REPLACE: u16 = 0x100;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

const HEADER_SIZE: usize = 16;

/// `RTMGRP_*`: links, and addresses, routes and rules of both families.
const CHANGES: u32 = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400;

/// More than the kernel puts into one datagram.
const DATAGRAM: usize = 64 * 1024;

/// A conversation with the kernel, about the network namespace in which it began.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

/// A message without its header.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) body: Vec<u8>,
}

impl Socket {
    /// About interfaces, addresses and routes.
    pub(super) fn route() -> io::Result<Self> {
        // It is number 0, which is no number to rustix.
        Self::open(None)
    }

    /// To be told when interfaces, addresses and routes change.
    pub(super) fn of_changes() -> io::Result<Self> {
        let socket = Self::open(None)?;
        bind(&socket.0, &netlink::SocketAddrNetlink::new(0, CHANGES))?;
        Ok(socket)
    }

    /// Waits for a change, then until there was none for `quiet`, as changes come in groups; but not much longer
    /// than `most` such times.
    pub(super) fn wait_for_changes(&self, quiet: Timespec, most: u32) -> io::Result<()> {
        let mut bytes = vec![0; DATAGRAM];
        let mut take = |flags| match recv(&self.0, &mut bytes[..], flags) {
            // Some were lost, which is a change too; or there is none.
            Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            other => other.map(drop),
        };
        take(RecvFlags::empty())?;
        for _ in 0..most {
            if poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&quiet))? == 0 {
                break;
            }
            take(RecvFlags::DONTWAIT)?;
        }
        Ok(())
    }

    /// About nf_tables.
    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?))
    }

    /// All that the kernel has of a kind.
    pub(super) fn dump(&self, kind: u16, body: &[u8]) -> io::Result<Vec<Message>> {
        send(&self.0, &message(kind, REQUEST | DUMP, body), SendFlags::empty())?;
        let mut found = Vec::new();
        loop {
            for message in self.receive()? {
                match message.kind {
                    DONE => return Ok(found),
                    ERROR => result(&message.body)?,
                    _ => found.push(message),
                }
            }
        }
    }

    /// Sends requests, `answers` of which ask for an acknowledgement, in one datagram, and waits for these.
    pub(super) fn execute(&self, requests: &[u8], answers: usize) -> io::Result<()> {
        // What is left of a batch that failed.
        let mut rest = vec![0; DATAGRAM];
        while recv(&self.0, &mut rest[..], RecvFlags::DONTWAIT).is_ok() {}
        send(&self.0, requests, SendFlags::empty())?;
        let mut left = answers;
        while left > 0 {
            for message in self.receive()?.iter().filter(|message| message.kind == ERROR) {
                result(&message.body)?;
                left = left.saturating_sub(1);
            }
        }
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<Message>> {
        let mut bytes = vec![0; DATAGRAM];
        let (length, _) = recv(&self.0, &mut bytes[..], RecvFlags::empty())?;
        bytes.truncate(length);
        Ok(parse(&bytes))
    }
}

/// Messages one after the other; what follows one that is cut off is not read.
pub(super) fn parse(mut bytes: &[u8]) -> Vec<Message> {
    let mut found = Vec::new();
    while let Ok(buffer) = NetlinkBuffer::new_checked(bytes) {
        found.push(Message { kind: buffer.message_type(), body: buffer.payload().to_vec() });
        let length = (buffer.length() as usize).next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    found
}

/// What `NLMSG_ERROR` says.
fn result(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// A message with its header.
pub(super) fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_SIZE + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence and port: each socket asks one thing at a time.
    message.extend([0; 8]);
    message.extend(body);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

/// An attribute.
pub(super) fn attribute(kind: u16, value: impl Into<Vec<u8>>) -> Vec<u8> {
    let attribute = DefaultNla::new(kind, value.into());
    let mut bytes = vec![0; attribute.buffer_len()];
    attribute.emit(&mut bytes);
    bytes
}

/// An attribute whose value is attributes.
pub(super) fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, attributes.concat())
}

/// An attribute whose value is text, with its end.
pub(super) fn text(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, [text.as_bytes(), &[0]].concat())
}

/// The attributes in `bytes`, by number.
pub(super) fn attributes(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|nla| (nla.kind(), nla.value().to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_read_as_they_were_written() {
        let body = [text(3, "eth0"), nested(4, &[attribute(1, [7; 5])])].concat();
        let two = [message(20, REQUEST, &body), message(DONE, 0, &[])].concat();
        let parsed = parse(&two);
        assert_eq!(parsed.iter().map(|message| message.kind).collect::<Vec<_>>(), [20, DONE]);
        let read = attributes(&parsed[0].body);
        assert_eq!(read[0], (3, b"eth0\0".to_vec()));
        assert_eq!((read[1].0, attributes(&read[1].1)), (4, vec![(1, vec![7; 5])]));
        assert_eq!(parse(&two[..two.len() - 1]).len(), 1);
    }

    #[test]
    fn errors_are_those_of_the_kernel() {
        assert!(result(&[0; 4]).is_ok());
        let refused = result(&(-libc::EEXIST).to_ne_bytes()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(result(&[1]).is_err());
    }
}
