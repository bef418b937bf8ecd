//! The connections, what the host's kernel is asked to report of their sockets, and which of them have something
//! for the guest.
//!
//! Their sockets are watched level-triggered, and only for what there is a use for: a socket whose bytes the guest has
//! no credit or buffers for is not asked about, or else the thread would spin.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::connection::{Connection, Key};

/// The most connections at a time: enough for a sandbox's exec sessions, few enough that their buffers and
/// descriptors are bounded. The guest opens them, the host's process pays for them.
pub(super) const MAX_CONNECTIONS: usize = 1023;

/// What an event of the epoll instance is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Listener,
    Wake,
    Handshake(u32),
    Connection(Key),
}

/// No connection has this port (`VMADDR_PORT_ANY`), so it marks the other tokens.
pub(super) const NO_PORT: u32 = u32::MAX;
const LISTENER: u32 = 0;
const WAKE: u32 = 1;
const FIRST_HANDSHAKE: u32 = 2;

impl Token {
    fn encode(self) -> EventData {
        let (high, low) = match self {
            Self::Listener => (NO_PORT, LISTENER),
            Self::Wake => (NO_PORT, WAKE),
            Self::Handshake(id) => (NO_PORT, id.saturating_add(FIRST_HANDSHAKE)),
            Self::Connection(key) => (key.host_port, key.guest_port),
        };
        EventData::new_u64(u64::from(high) << 32 | u64::from(low))
    }

    fn decode(data: EventData) -> Self {
        let [a, b, c, d, e, f, g, h] = data.u64().to_be_bytes();
        let (high, low) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        match (high, low) {
            (NO_PORT, LISTENER) => Self::Listener,
            (NO_PORT, WAKE) => Self::Wake,
            (NO_PORT, handshake) => Self::Handshake(handshake - FIRST_HANDSHAKE),
            (host_port, guest_port) => Self::Connection(Key { host_port, guest_port }),
        }
    }
}

/// The epoll instance.
#[derive(Debug)]
pub(super) struct Watch(OwnedFd);

/// Events that are taken at a time.
const EVENTS: usize = 64;

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    pub(super) fn add(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, token.encode(), flags)?)
    }

    pub(super) fn remove(&self, fd: impl AsFd) {
        // Fails only for what is not watched.
        let _ = epoll::delete(&self.0, fd);
    }

    /// What has happened, without waiting.
    pub(super) fn poll(&self) -> Vec<(Token, EventFlags)> {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&self.0, &mut events, Some(&now)).unwrap_or(0);
        events.iter().take(count).map(|event| (Token::decode(event.data), event.flags)).collect()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[derive(Debug)]
struct Entry {
    connection: Connection,
    /// In `ready`.
    queued: bool,
    /// What the socket is watched for.
    interest: Option<EventFlags>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<Key, Entry>,
    ready: VecDeque<Key>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_CONNECTIONS
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.entries.contains_key(&key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Connection> {
        self.entries.get_mut(&key).map(|entry| &mut entry.connection)
    }

    /// Adds a connection that has something for the guest.
    pub(super) fn insert(&mut self, key: Key, connection: Connection) {
        self.entries.insert(key, Entry { connection, queued: true, interest: None });
        self.ready.push_back(key);
    }

    /// Ends a connection: its socket is closed. Its place in the queue goes too, or else a guest that opens and
    /// resets connections, but takes no packets, would make the queue grow for ever.
    pub(super) fn remove(&mut self, key: Key) -> bool {
        let Some(entry) = self.entries.remove(&key) else { return false };
        if entry.queued {
            self.ready.retain(|other| *other != key);
        }
        true
    }

    /// Some connection that only waits for the guest to confirm its end.
    pub(super) fn find_over(&self) -> Option<Key> {
        self.entries.iter().find(|(_, entry)| entry.connection.is_over()).map(|(&key, _)| key)
    }

    /// Ends all connections.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.ready.clear();
    }

    /// Notes that a connection may have something for the guest.
    pub(super) fn enqueue(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key)
            && !std::mem::replace(&mut entry.queued, true)
        {
            self.ready.push_back(key);
        }
    }

    /// The connection whose turn it is.
    pub(super) fn dequeue(&mut self) -> Option<(Key, &mut Connection)> {
        let key = self.ready.pop_front()?;
        let entry = self.entries.get_mut(&key)?;
        entry.queued = false;
        Some((key, &mut entry.connection))
    }

    /// Puts a connection back to where it was taken from.
    pub(super) fn requeue_first(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.queued = true;
            self.ready.push_front(key);
        }
    }

    /// Watches a connection's socket for what there is a use for now. One whose turn comes is left as it is: what
    /// there is a use for is known after the turn, and most turns change nothing.
    ///
    /// # Errors
    /// The kernel watches no more sockets for this user.
    pub(super) fn watch(&mut self, watch: &Watch, key: Key) -> io::Result<()> {
        if self.entries.get(&key).is_some_and(|entry| entry.queued) {
            return Ok(());
        }
        self.watch_now(watch, key)
    }

    fn watch_now(&mut self, watch: &Watch, key: Key) -> io::Result<()> {
        let Some(entry) = self.entries.get_mut(&key) else { return Ok(()) };
        let wanted = entry.wanted();
        if entry.interest == wanted {
            return Ok(());
        }
        let (socket, data) = (entry.connection.socket(), Token::Connection(key).encode());
        match (entry.interest, wanted) {
            (None, Some(flags)) => epoll::add(&watch.0, socket, data, flags)?,
            (Some(_), Some(flags)) => epoll::modify(&watch.0, socket, data, flags)?,
            (_, None) => epoll::delete(&watch.0, socket)?,
        }
        entry.interest = wanted;
        Ok(())
    }

    /// Watches all sockets that wait for their turn: not for reading, that is.
    ///
    /// # Errors
    /// As [`Table::watch`].
    pub(super) fn watch_ready(&mut self, watch: &Watch) -> io::Result<()> {
        for key in self.ready.clone() {
            self.watch_now(watch, key)?;
        }
        Ok(())
    }
}

impl Entry {
    fn wanted(&self) -> Option<EventFlags> {
        let connection = &self.connection;
        if connection.is_hung_up() {
            // A hang-up is reported for ever, wanted or not.
            return None;
        }
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, !self.queued && connection.can_read());
        flags.set(EventFlags::OUT, connection.has_pending());
        Some(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_come_and_go_leave_nothing_queued() {
        let mut table = Table::default();
        let other = Key { host_port: 1, guest_port: 1 };
        for guest_port in [1, 2, 3, 2, 2] {
            let key = Key { host_port: 1, guest_port };
            let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
            table.insert(key, Connection::requested(key, 3, socket, 1));
            assert!(key == other || table.remove(key));
        }

        assert_eq!(table.ready, [other]);
        assert_eq!(table.dequeue().map(|(key, _)| key), Some(other));
        assert!(table.dequeue().is_none());
    }

    #[test]
    fn tokens_survive_the_kernel() {
        let key = Key { host_port: 1 << 30, guest_port: NO_PORT };
        for token in
            [Token::Listener, Token::Wake, Token::Handshake(0), Token::Handshake(7), Token::Connection(key)]
        {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }
}
