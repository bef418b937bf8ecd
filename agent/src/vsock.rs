//! The agent's vsock listeners and its ready signal.
//!
//! Only the host (CID 2) is served: a workload can open vsock connections too, to its own guest, and must
//! not command the agent.

use std::io;
use std::sync::Arc;

use agent_protocol::{AGENT_PORT, HELLO, READY_PORT, STREAM_PORT};
use tokio::io::AsyncWriteExt;
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

use crate::container::Containers;
use crate::kernel::{Lacking, missing_for_vsock};
use crate::kmsg;
use crate::service::{Power, Service};
use crate::streams::Streams;

/// Connections of the host to one port.
pub struct HostConnections(VsockListener);

impl HostConnections {
    /// Listens for ttrpc connections.
    ///
    /// # Errors
    ///
    /// Those of bind(2) and listen(2), or what the kernel lacks.
    pub fn for_rpc() -> io::Result<Self> {
        VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, AGENT_PORT)).map(Self).map_err(explain)
    }

    /// Listens for stdio streams.
    ///
    /// # Errors
    ///
    /// As [`HostConnections::for_rpc`].
    pub fn for_streams() -> io::Result<Self> {
        VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, STREAM_PORT)).map(Self).map_err(explain)
    }

    /// The next connection; an error is that of accept(2).
    pub async fn next(&mut self) -> io::Result<VsockStream> {
        loop {
            let (connection, peer) = self.0.accept().await?;
            if peer.cid() == VMADDR_CID_HOST {
                return Ok(connection);
            }
        }
    }

    /// Hands every connection to `streams`, for ever.
    pub async fn feed(mut self, streams: Arc<Streams>) {
        loop {
            if let Ok(connection) = self.next().await {
                streams.accept(Box::new(connection));
            }
        }
    }

    /// Serves every connection, for ever.
    pub async fn serve(mut self, containers: Arc<Containers>, power: Arc<Power>) {
        loop {
            let Ok(connection) = self.next().await else { continue };
            let (containers, power) = (Arc::clone(&containers), Arc::clone(&power));
            tokio::spawn(async move {
                if let Err(error) = Service::serve(connection, containers, power).await {
                    kmsg::error(&error);
                }
            });
        }
    }
}

fn explain(error: io::Error) -> io::Error {
    match missing_for_vsock(&error) {
        Some(feature) => io::Error::other(Lacking::new(feature, error)),
        None => error,
    }
}

/// Tells the host that the agent serves.
///
/// # Errors
///
/// Those of connect(2) and write(2), e.g. `ECONNRESET` when nobody waits for it.
pub async fn say_ready() -> io::Result<()> {
    let host = VsockAddr::new(VMADDR_CID_HOST, READY_PORT);
    let mut connection = VsockStream::connect(host).await.map_err(explain)?;
    connection.write_all(HELLO).await?;
    connection.shutdown(std::net::Shutdown::Write)
}
