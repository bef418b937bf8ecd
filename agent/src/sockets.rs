//! Unix sockets of the host, in a container: each connection to one goes on by vsock.
//!
//! A process listens, one for each container that has such sockets: whoever reads a workload's socket, or closes one that is
//! not accepted, may have to close descriptors that were sent through it, and that of a TCP socket can take as long as the
//! workload likes. What is held then are the sockets of that container, and not the agent. One thread of it has an event loop;
//! the other, which touches no socket of the workload's, hears the agent and ends the process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncWriteExt, copy, split};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio_vsock::{VMADDR_CID_HOST, VsockAddr, VsockStream};

use crate::kmsg;
use crate::process::relay::Relay;
use crate::process::workload::close_all_but;
use crate::streams::Connection;

/// Connections to all sockets of a container that there may be at a time; the host has no more of a machine.
const MOST: usize = 192;

/// How long the host may take for what a container that has ended has left.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it may then go on: it may be busy with what it has been sent, which would be lost if the connection closed.
const FAREWELL: Duration = Duration::from_secs(60);

/// Of the thread that has the event loop.
const STACK: usize = 256 << 10;

/// A socket of the host, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSocket {
    /// The vsock port by which the host connects to it.
    pub port: u32,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl HostSocket {
    /// Where the agent listens in its stead, in the folder of the container's sockets.
    pub fn path(&self, folder: &Path) -> PathBuf {
        folder.join(self.port.to_string())
    }
}

/// Serves the sockets of one container until it is dropped.
#[derive(Debug)]
pub struct Relays {
    /// If there are any.
    folder: Option<PathBuf>,
    process: Option<Relay>,
}

impl Relays {
    /// Listens for `sockets` in `folder`, which is made if there are any.
    ///
    /// # Errors
    ///
    /// Those of bind(2), of making the folder and of clone3(2).
    pub fn start(folder: &Path, sockets: impl IntoIterator<Item = HostSocket>) -> io::Result<Self> {
        let mut relays = Self { folder: None, process: None };
        let mut listeners = Vec::new();
        for socket in sockets {
            fs::create_dir_all(folder)?;
            let path = socket.path(relays.folder.get_or_insert_with(|| folder.to_owned()));
            let listener = StdUnixListener::bind(&path)?;
            listener.set_nonblocking(true)?;
            chown(&path, Some(socket.uid), Some(socket.gid))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(socket.mode))?;
            listeners.push((listener, socket.port));
        }
        if !listeners.is_empty() {
            relays.process = Some(Relay::of(c"sockets", |agent| live(listeners, &agent))?);
        }
        Ok(relays)
    }

    /// Waits until the host has what the container has left in its connections, when it has ended, unless that takes too long.
    pub async fn finish(mut self) {
        if let Some(process) = self.process.take() {
            process.finish().await;
        }
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            // It is the guest's memory; what is left goes with that.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// How far the process has come, for the thread that hears the agent.
#[derive(Default)]
struct Progress {
    done: Mutex<Done>,
    changed: Condvar,
}

/// What there is no more of.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Done {
    #[default]
    Nothing,
    /// Of what the container's processes have sent.
    Left,
    /// Of connections.
    All,
}

impl Progress {
    fn tell(&self, done: Done) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = done;
        self.changed.notify_all();
    }

    fn wait_for(&self, wanted: Done, time: Duration) {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        // Whether it was in time is all the same: whoever is held is not waited for.
        drop(self.changed.wait_timeout_while(done, time, |done| *done < wanted));
    }
}

/// The process's whole life.
fn live(listeners: Vec<(StdUnixListener, u32)>, agent: &OwnedFd) -> io::Result<()> {
    close_all_but(listeners.iter().map(|(listener, _)| listener.as_fd()).chain([agent.as_fd()]));
    let (over, is_over) = watch::channel(false);
    let progress = Arc::new(Progress::default());
    let telling = Arc::clone(&progress);
    // A thread that knows of no event loop: this one had the agent's.
    thread::Builder::new().stack_size(STACK).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        // Without one, whoever connects is told so by the end, as all listeners are closed.
        let _ = runtime.and_then(|runtime| runtime.block_on(serve(listeners, is_over, &telling)));
        telling.tell(Done::All);
    })?;
    retry_on_intr(|| poll(&mut [PollFd::new(agent, PollFlags::IN)], None))?;
    over.send_replace(true);
    progress.wait_for(Done::Left, PATIENCE);
    // It fails if the agent has gone, and everything with it.
    let _ = shutdown(agent, Shutdown::Write);
    progress.wait_for(Done::All, FAREWELL);
    Ok(())
}

/// What a connection holds, and whoever may make one: once nobody does, there is no more.
#[derive(Clone)]
struct Open {
    /// As long as the client may have sent something that the host has not taken.
    leaving: watch::Receiver<bool>,
    /// As long as it lives.
    living: watch::Receiver<bool>,
}

/// Until all connections have ended when the container is over.
async fn serve(
    listeners: Vec<(StdUnixListener, u32)>,
    is_over: watch::Receiver<bool>,
    progress: &Progress,
) -> io::Result<()> {
    let ((left, leaving), (lived, living)) = (watch::channel(false), watch::channel(false));
    let open = Open { leaving, living };
    let permits = Arc::new(Semaphore::new(MOST));
    for (listener, port) in listeners {
        let listener = UnixListener::from_std(listener)?;
        tokio::spawn(listen(listener, port, Arc::clone(&permits), is_over.clone(), open.clone()));
    }
    drop(open);
    left.closed().await;
    progress.tell(Done::Left);
    lived.closed().await;
    Ok(())
}

/// Takes connections until the container is over, and then those that it has left.
async fn listen(
    listener: UnixListener,
    port: u32,
    permits: Arc<Semaphore>,
    mut is_over: watch::Receiver<bool>,
    open: Open,
) {
    let begin = |connection: UnixStream| {
        // Who is turned away is told so by the end of the connection.
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { return };
        let Open { leaving, living } = open.clone();
        drop(tokio::spawn(async move {
            relay(Box::new(connection), port, Some(leaving)).await;
            drop((permit, living));
        }));
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = is_over.wait_for(|is_over| *is_over) => break,
        };
        match accepted {
            Ok((connection, _)) => begin(connection),
            // Out of descriptors or memory: whoever connected is turned away when it is over.
            Err(error) => {
                kmsg::debug(|| format!("cannot accept a connection for port {port}: {error}"));
                tokio::task::yield_now().await;
            }
        }
    }
    let Ok(listener) = listener.into_std() else { return };
    // Others than the container's might go on connecting.
    for (connection, _) in std::iter::from_fn(|| listener.accept().ok()).take(MOST) {
        if connection.set_nonblocking(true).is_ok() {
            let _ = UnixStream::from_std(connection).map(&begin);
        }
    }
}

/// Between a connection of a client and the host. An error on the way is its end, which is what the client can see. `leaving` is
/// dropped when the host has all that the client sends.
pub(crate) async fn relay(
    connection: Box<dyn Connection>,
    port: u32,
    leaving: Option<watch::Receiver<bool>>,
) {
    let carried = async {
        let host: Box<dyn Connection> =
            Box::new(VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, port)).await?);
        let (mut from_client, mut to_client) = split(connection);
        let (mut from_host, mut to_host) = split(host);
        let outward = async {
            copy(&mut from_client, &mut to_host).await?;
            to_host.shutdown().await?;
            drop(leaving);
            io::Result::Ok(())
        };
        let inward = async {
            // A client that has gone may have sent something before.
            if copy(&mut from_host, &mut to_client).await.is_ok() {
                to_client.shutdown().await?;
            }
            Ok(())
        };
        tokio::try_join!(outward, inward)
    };
    if let Err(error) = carried.await {
        kmsg::debug(|| format!("connection to port {port}: {error}"));
    }
}
