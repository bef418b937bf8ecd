//! The agent's vsock listeners and its ready signal.
//!
//! Only the host (CID 2) is served: a workload can open vsock connections too, to its own guest, and must
//! not command the agent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use agent_protocol::{AGENT_PORT, HELLO, READY_PORT, STREAM_PORT};
use futures_core::Stream;
use tokio::io::AsyncWriteExt;
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

use crate::service::{Power, Watched};
use crate::streams::Streams;

/// Connections of the host to one port.
pub struct HostConnections(VsockListener);

impl HostConnections {
    /// Listens for ttrpc connections.
    ///
    /// # Errors
    ///
    /// Those of bind(2) and listen(2), e.g. `ENODEV` in a guest without a vsock device.
    pub fn for_rpc() -> io::Result<Self> {
        VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, AGENT_PORT)).map(Self)
    }

    /// Listens for stdio streams.
    ///
    /// # Errors
    ///
    /// As [`HostConnections::for_rpc`].
    pub fn for_streams() -> io::Result<Self> {
        VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, STREAM_PORT)).map(Self)
    }

    /// The same connections, each telling the power switch when the host closes it.
    pub fn watched_by(self, power: &Arc<Power>) -> WatchedConnections {
        WatchedConnections { connections: self, power: Arc::clone(power) }
    }

    /// Hands every connection to `streams`, for ever.
    pub async fn feed(mut self, streams: Arc<Streams>) {
        while let Some(connection) =
            std::future::poll_fn(|context| Pin::new(&mut self).poll_next(context)).await
        {
            if let Ok(connection) = connection {
                streams.accept(Box::new(connection));
            }
        }
    }
}

impl Stream for HostConnections {
    type Item = io::Result<VsockStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(self.0.poll_accept(context)) {
                Ok((connection, peer)) if peer.cid() == VMADDR_CID_HOST => {
                    return Poll::Ready(Some(Ok(connection)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

/// See [`HostConnections::watched_by`].
pub struct WatchedConnections {
    connections: HostConnections,
    power: Arc<Power>,
}

impl Stream for WatchedConnections {
    type Item = io::Result<Watched<VsockStream>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(Pin::new(&mut self.connections).poll_next(context));
        Poll::Ready(next.map(|accepted| accepted.map(|one| Watched::new(one, Arc::clone(&self.power)))))
    }
}

/// Tells the host that the agent serves.
///
/// # Errors
///
/// Those of connect(2) and write(2), e.g. `ECONNRESET` when nobody waits for it.
pub async fn say_ready() -> io::Result<()> {
    let mut connection = VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, READY_PORT)).await?;
    connection.write_all(HELLO).await?;
    connection.shutdown(std::net::Shutdown::Write)
}
