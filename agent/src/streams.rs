//! Stdio connections that the shim has opened, waiting to be claimed by a container, and the reverse.
//!
//! A connection begins with its token: 8 bytes, big endian, never 0. The number of connections that wait is
//! bounded, and so is the time that either side waits for the other.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::kmsg;
use crate::sys::pass;

/// A byte stream to the shim: a vsock connection; a unix socket in tests.
pub trait Connection: AsyncRead + AsyncWrite + AsFd + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + AsFd + Send + Unpin> Connection for T {}

/// How long a connection or a container waits for its counterpart. A host that is short of processors may take seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections that may wait at one time.
const MOST_WAITING: usize = 64;

/// Why a stream could not be had.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The shim did not open it.
    #[error("no connection with the stream token {token:#018x} arrived within {} s", PATIENCE.as_secs())]
    Absent {
        /// The token that was asked for.
        token: u64,
    },
    /// The way of a listener's connections to its process.
    #[error("cannot make a socket for a listener's connections")]
    Pass(#[source] io::Error),
    /// Two processes, or two streams of one, asked for the same connection.
    #[error("the stream token {token:#018x} is asked for twice")]
    AskedTwice {
        /// The token that was asked for.
        token: u64,
    },
}

enum Slot {
    Arrived(Box<dyn Connection>),
    Wanted(oneshot::Sender<Box<dyn Connection>>),
}

/// The meeting place.
#[derive(Default)]
pub struct Streams {
    slots: Mutex<HashMap<u64, Slot>>,
    /// To the relays of processes that listen.
    listeners: Mutex<HashMap<u64, OwnedFd>>,
    unread: std::sync::atomic::AtomicUsize,
}

impl Streams {
    /// Takes a new connection: reads its token and keeps it until it is claimed, for a while.
    pub fn accept(self: &Arc<Self>, connection: Box<dyn Connection>) {
        use std::sync::atomic::Ordering::Relaxed;
        if self.unread.load(Relaxed) + self.slots().len() >= MOST_WAITING {
            return;
        }
        self.unread.fetch_add(1, Relaxed);
        let streams = Arc::clone(self);
        tokio::spawn(async move {
            let mut connection = connection;
            let token = timeout(PATIENCE, connection.read_u64()).await;
            streams.unread.fetch_sub(1, Relaxed);
            let Ok(Ok(token)) = token else { return };
            if token != 0 && streams.offer(token, connection) {
                tokio::time::sleep(PATIENCE).await;
                streams.forget(token);
            }
        });
    }

    /// Waits for the connection with that token.
    ///
    /// # Errors
    ///
    /// [`StreamError`] when it does not come in time or is claimed by another.
    pub async fn claim(&self, token: u64) -> Result<Box<dyn Connection>, StreamError> {
        let arrival = {
            let mut slots = self.slots();
            match slots.remove(&token) {
                Some(Slot::Arrived(connection)) => return Ok(connection),
                Some(wanted @ Slot::Wanted(_)) => {
                    slots.insert(token, wanted);
                    return Err(StreamError::AskedTwice { token });
                }
                None => {
                    let (sender, receiver) = oneshot::channel();
                    slots.insert(token, Slot::Wanted(sender));
                    receiver
                }
            }
        };
        if let Ok(Ok(connection)) = timeout(PATIENCE, arrival).await {
            return Ok(connection);
        }
        self.slots().remove(&token);
        Err(StreamError::Absent { token })
    }

    /// All connections with that token, from now on, go to who has the other end of a socket.
    ///
    /// # Errors
    ///
    /// [`StreamError`] when another has asked for them, or there is no socket.
    pub fn listen(self: &Arc<Self>, token: u64) -> Result<(Listening, OwnedFd), StreamError> {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| StreamError::Pass(errno.into()))?;
        // Who does not take them in time gets none.
        rustix::io::ioctl_fionbio(&near, true).map_err(|errno| StreamError::Pass(errno.into()))?;
        let mut listeners = self.listeners();
        if listeners.contains_key(&token) {
            return Err(StreamError::AskedTwice { token });
        }
        listeners.insert(token, near);
        Ok((Listening { streams: Arc::clone(self), token }, far))
    }

    /// Hands a connection to who waits for it, or keeps it; true if it is kept. A second connection with
    /// the token of a kept one is dropped.
    fn offer(&self, token: u64, connection: Box<dyn Connection>) -> bool {
        let mut slots = self.slots();
        match slots.remove(&token) {
            Some(Slot::Wanted(sender)) => {
                // If the claimant has just given up, the connection is dropped with the error.
                let _ = sender.send(connection);
                false
            }
            Some(arrived) => {
                slots.insert(token, arrived);
                false
            }
            None => {
                if let Some(listener) = self.listeners().get(&token) {
                    if let Err(error) = pass::send(listener, connection.as_fd()) {
                        kmsg::debug(|| format!("a connection to a listener is lost: {error}"));
                    }
                    return false;
                }
                slots.insert(token, Slot::Arrived(connection));
                true
            }
        }
    }

    fn forget(&self, token: u64) {
        let mut slots = self.slots();
        if let Some(wanted @ Slot::Wanted(_)) = slots.remove(&token) {
            slots.insert(token, wanted);
        }
    }

    fn listeners(&self) -> MutexGuard<'_, HashMap<u64, OwnedFd>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<u64, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As long as it is there, a listener has the connections with its token.
pub struct Listening {
    streams: Arc<Streams>,
    token: u64,
}

impl std::fmt::Debug for Listening {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Listening").finish_non_exhaustive()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.streams.listeners().remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    async fn open(streams: &Arc<Streams>, token: &[u8]) -> UnixStream {
        let (mut shim, agent) = UnixStream::pair().unwrap();
        shim.write_all(token).await.unwrap();
        streams.accept(Box::new(agent));
        shim
    }

    /// Whether the agent closes the connection: an end, or a reset if it has not read what was sent.
    async fn is_closed(mut shim: UnixStream) -> bool {
        matches!(shim.read(&mut [0; 1]).await, Ok(0) | Err(_))
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_may_come_before_or_after_its_claim() {
        let streams = Arc::new(Streams::default());
        let _early = open(&streams, &7_u64.to_be_bytes()).await;
        tokio::task::yield_now().await;
        streams.claim(7).await.unwrap();
        let token = 8_u64.to_be_bytes();
        let (claimed, _late) = tokio::join!(streams.claim(8), open(&streams, &token));
        claimed.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_is_told_and_leaves_nothing() {
        let streams = Arc::new(Streams::default());
        assert!(matches!(streams.claim(7).await, Err(StreamError::Absent { token: 7 })));
        let unclaimed = open(&streams, &7_u64.to_be_bytes()).await;
        assert!(is_closed(unclaimed).await);
        assert!(streams.slots().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_whole_token_or_with_none_is_closed() {
        let streams = Arc::new(Streams::default());
        for token in [&[0, 0, 0, 1][..], &[0; 8][..]] {
            assert!(is_closed(open(&streams, token).await).await);
        }
        assert_eq!(streams.unread.load(std::sync::atomic::Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_of_two_with_one_token_loses() {
        let streams = Arc::new(Streams::default());
        let first = open(&streams, &7_u64.to_be_bytes()).await;
        let second = open(&streams, &7_u64.to_be_bytes()).await;
        assert!(is_closed(second).await);
        let mut claimed = streams.claim(7).await.unwrap();
        claimed.write_all(b"x").await.unwrap();
        assert!(!is_closed(first).await);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_connections_wait() {
        let streams = Arc::new(Streams::default());
        let mut kept = Vec::new();
        for token in 1..=u64::try_from(MOST_WAITING).unwrap() {
            kept.push(open(&streams, &token.to_be_bytes()).await);
        }
        assert!(is_closed(open(&streams, &1000_u64.to_be_bytes()).await).await);
        streams.claim(1).await.unwrap();
    }
}
