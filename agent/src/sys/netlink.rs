//! netlink(7) as far as the agent needs it: find a device by its address, move it, and pass on what the shim asks for.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// `NLM_F_*`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;

/// `NLMSG_ERROR` and `NLMSG_DONE`; `RTM_NEWLINK` and `RTM_GETLINK`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;

/// `IFLA_*`.
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const NAMESPACE: u16 = 28;
const NEW_INDEX: u16 = 49;

const HEADER_SIZE: usize = 16;

/// `struct ifinfomsg`.
const LINK_SIZE: usize = 16;

/// More than the kernel puts into one datagram.
const DATAGRAM: usize = 32 * 1024;

/// Where a device goes, and what it is there.
#[derive(Clone, Debug)]
pub struct Move<'a> {
    /// Its number here.
    pub index: u32,
    /// The network namespace.
    pub namespace: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a str,
    /// Its number there, if that matters.
    pub new_index: Option<u32>,
    /// Its address there, if that is another.
    pub address: Option<[u8; 6]>,
    /// Its MTU.
    pub mtu: u32,
}

/// A conversation with the kernel about the network namespace in which it began.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Begins one about interfaces, addresses and routes.
    ///
    /// # Errors
    ///
    /// Those of socket(2).
    pub fn open() -> io::Result<Self> {
        // NETLINK_ROUTE is number 0, which is no number to rustix.
        Self::of(None)
    }

    /// Begins one about nf_tables.
    ///
    /// # Errors
    ///
    /// Those of socket(2).
    pub fn netfilter() -> io::Result<Self> {
        Self::of(Some(netlink::NETFILTER))
    }

    fn of(protocol: Option<Protocol>) -> io::Result<Self> {
        let (raw, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
        Ok(Self(socket_with(AddressFamily::NETLINK, raw, flags, protocol)?))
    }

    /// The number of the device that has this address.
    ///
    /// # Errors
    ///
    /// Those of send(2), recv(2) and the kernel.
    pub fn find(&self, address: [u8; 6]) -> io::Result<Option<u32>> {
        self.send(&message(GET_LINK, REQUEST | DUMP, &[0; LINK_SIZE]))?;
        let mut found = None;
        loop {
            let datagram = self.receive()?;
            for (kind, body) in messages(&datagram) {
                match kind {
                    DONE => return Ok(found),
                    ERROR => result(body)?,
                    _ => found = found.or_else(|| index_of(body, address)),
                }
            }
        }
    }

    /// Moves a device to another namespace.
    ///
    /// # Errors
    ///
    /// As [`Netlink::find`].
    pub fn move_link(&self, to: &Move<'_>) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let mut body = [&[0; 4], &to.index.to_ne_bytes()[..], &[0; 8]].concat();
        attribute(&mut body, NAMESPACE, &to.namespace.as_raw_fd().to_ne_bytes());
        if let Some(index) = to.new_index {
            attribute(&mut body, NEW_INDEX, &index.to_ne_bytes());
        }
        if let Some(address) = to.address {
            attribute(&mut body, ADDRESS, &address);
        }
        attribute(&mut body, NAME, &[to.name.as_bytes(), &[0]].concat());
        attribute(&mut body, MTU, &to.mtu.to_ne_bytes());
        self.execute(&message(NEW_LINK, REQUEST | ACK, &body))
    }

    /// Has the kernel do what a complete message asks for, which asks for an acknowledgement too; or a batch of them.
    ///
    /// # Errors
    ///
    /// As [`Netlink::find`].
    pub fn execute(&self, request: &[u8]) -> io::Result<()> {
        self.send(request)?;
        loop {
            let datagram = self.receive()?;
            if let Some((_, body)) = messages(&datagram).find(|(kind, _)| *kind == ERROR) {
                return result(body);
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        send(&self.0, bytes, SendFlags::empty())?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; DATAGRAM];
        let (length, _) = recv(&self.0, &mut bytes[..], RecvFlags::empty())?;
        bytes.truncate(length);
        Ok(bytes)
    }
}

/// Whether `bytes` are one message that asks for an acknowledgement: without one, the answer would be waited for in vain.
#[must_use]
pub fn is_request(bytes: &[u8]) -> bool {
    let is_whole = length_of(bytes).is_some_and(|length| length.next_multiple_of(4) == bytes.len());
    is_whole && half(bytes, 6).is_some_and(|flags| flags & (REQUEST | ACK | DUMP) & !0x100 == REQUEST | ACK)
}

/// Whether `bytes` are whole messages of which just one asks for an acknowledgement.
#[must_use]
pub fn is_batch(bytes: &[u8]) -> bool {
    let (mut rest, mut asking) = (bytes, 0);
    while let Some(length) = length_of(rest) {
        asking += usize::from(half(rest, 6).is_some_and(|flags| flags & ACK != 0));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    rest.is_empty() && asking == 1
}

/// Of the message with which `bytes` begin.
fn length_of(bytes: &[u8]) -> Option<usize> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    (HEADER_SIZE..=bytes.len()).contains(&length).then_some(length)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|half| u16::from_ne_bytes(*half))
}

/// Kinds and bodies of messages that follow each other.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = length_of(bytes)?;
        let message = (half(bytes, 4)?, bytes.get(HEADER_SIZE..length)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The number of the device that a body tells of, if it has this address.
fn index_of(body: &[u8], address: [u8; 6]) -> Option<u32> {
    let index = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
    let mut rest = body.get(LINK_SIZE..)?;
    loop {
        let length = usize::from(half(rest, 0)?).max(4);
        if half(rest, 2)? == ADDRESS {
            return (rest.get(4..length)? == address).then_some(index);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_SIZE + body.len()).unwrap_or(u32::MAX);
    let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]];
    [&header.concat(), body].concat()
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// What `NLMSG_ERROR` says.
fn result(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, address: &[u8]) -> Vec<u8> {
        let mut body = [&[0; 4], &index.to_ne_bytes()[..], &[0; 8]].concat();
        attribute(&mut body, NAME, b"eth0\0");
        attribute(&mut body, ADDRESS, address);
        body
    }

    #[test]
    fn a_device_is_found_by_its_address_alone() {
        let mac = [2, 0, 0, 0, 0, 1];
        assert_eq!(index_of(&link(7, &mac), mac), Some(7));
        assert_eq!(index_of(&link(7, &[2, 0, 0, 0, 0, 2]), mac), None);
        assert_eq!(index_of(&link(7, &[2, 0]), mac), None);
        let whole = link(7, &mac);
        // The last two bytes only fill the attribute up.
        for length in 0..whole.len() - 2 {
            assert_eq!(index_of(&whole[..length], mac), None);
        }
    }

    #[test]
    fn a_request_is_one_whole_message_that_asks_for_an_answer() {
        let request = message(NEW_LINK, REQUEST | ACK | 0x500, &[0; 16]);
        assert!(is_request(&request));
        assert!(!is_request(&request[..31]));
        assert!(!is_request(&[&request[..], &request].concat()));
        assert!(!is_request(&message(NEW_LINK, REQUEST, &[0; 16])));
        assert!(!is_request(&[]));
    }

    #[test]
    fn a_batch_is_whole_messages_of_which_one_asks_for_an_answer() {
        let (quiet, asking) = (message(1, REQUEST, &[0; 8]), message(1, REQUEST | ACK, &[]));
        assert!(is_batch(&[&quiet[..], &asking, &quiet].concat()));
        for bytes in [&[][..], &quiet, &[&asking[..], &asking].concat(), &[&asking[..], &quiet[..9]].concat()]
        {
            assert!(!is_batch(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_an_error() {
        let error = Netlink::open().unwrap().execute(&message(GET_LINK, REQUEST | ACK, &[0; 3])).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
