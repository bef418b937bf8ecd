//! The end of the guest.
//!
//! The answer to `Shutdown` must reach the shim before the power goes, and with it all that is still on its way
//! in the vsock device's queues. Only the shim knows when it has read that: it closes its connections, and
//! then the power goes. A shim that does not is given a moment.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::container::Containers;
use crate::kmsg;
use crate::process::lifeline::Holder;

/// How long the shim may take to close its connections after the answer, which is still to be sent when it begins: on a
/// busy host, the guest's processor may not run for a while.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long killed containers may take to end.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// The power switch: turned by `Shutdown`, it acts when the shim has closed its connections.
#[derive(Debug, Default)]
pub struct Power {
    turned: Notify,
    /// Connections that the shim has not closed.
    open: AtomicUsize,
    closed: Notify,
}

impl Power {
    /// Waits until the guest is to be powered off, and may be.
    pub async fn may_go_off(&self) {
        self.turned.notified().await;
        let all_closed = async {
            while self.open.load(Ordering::Relaxed) > 0 {
                self.closed.notified().await;
            }
        };
        // Whichever comes first.
        let _ = timeout(FAREWELL, all_closed).await;
    }
}

/// Kills every container and waits for their end, then turns the power switch.
pub(super) async fn shut_down(containers: &Containers, power: &Power) {
    let all = containers.all();
    for container in all.iter().filter(|container| container.status().can_signal()) {
        if let Err(error) = container.signal_all(libc::SIGKILL.unsigned_abs()) {
            kmsg::debug(|| format!("shutdown: {error}"));
        }
    }
    let ends = async {
        for container in &all {
            container.exited().await;
        }
    };
    // What does not die now dies with the guest.
    let _ = timeout(LAST_BREATH, ends).await;
    rustix::fs::sync();
    power.turned.notify_one();
}

/// A connection that tells the power switch, and the processes that were made on it, when its client has closed it.
#[derive(Debug)]
pub struct Watched<C> {
    connection: C,
    power: Arc<Power>,
    /// Until it is closed.
    open: Option<Holder>,
}

impl<C> Watched<C> {
    /// Watches a connection on which processes hang by the other end of `holder`.
    pub fn new(connection: C, power: Arc<Power>, holder: Holder) -> Self {
        power.open.fetch_add(1, Ordering::Relaxed);
        Self { connection, power, open: Some(holder) }
    }

    fn note_closed(&mut self) {
        if self.open.take().is_some() {
            self.power.open.fetch_sub(1, Ordering::Relaxed);
            self.power.closed.notify_one();
        }
    }
}

impl<C> Drop for Watched<C> {
    fn drop(&mut self) {
        self.note_closed();
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Watched<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.connection).poll_read(context, buffer));
        if result.is_err() || (buffer.filled().len() == before && buffer.remaining() > 0) {
            self.note_closed();
        }
        Poll::Ready(result)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Watched<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}
