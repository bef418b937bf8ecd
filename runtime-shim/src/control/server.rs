//! The monitor's end of the control socket.
//!
//! One thread accepts, and each connection has a thread of its own: a command that does not read, or a guest
//! that does not answer, holds up nobody else. The start is the main thread's act: it is handed over by a
//! channel, and a pipe wakes the event loop.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};

use super::members::Members;
use super::message::{Answer, Request, cut, receive, send};
use crate::container::store::Folder;
use crate::exit_code;
use crate::io::poll::readable_within;
use crate::report;
use crate::sandbox::directory::SandboxDirectory;
use crate::sandbox::vsock::Connecting;

/// How long a command may take to ask, to read its answer, and the guest to accept a connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connections at a time.
const MOST: usize = 256;

/// The threads call little more than the system.
const STACK: usize = 128 << 10;

/// A command waits for the start.
#[derive(Debug)]
pub(crate) struct StartRequest {
    client: OwnedFd,
}

impl StartRequest {
    /// Tells the command how it went. It is told when this returns: the workload may end, and this process with it,
    /// before any other thread runs.
    pub(crate) fn answer(self, answer: &Answer) {
        // The command may have gone; the container has not.
        let _ = send(&self.client, answer, None);
    }
}

/// Requests for the main thread.
#[derive(Debug)]
pub(crate) struct Starts {
    requests: Receiver<StartRequest>,
    wake: PipeReader,
}

impl Starts {
    /// The request that made this poll readable.
    pub(crate) fn take(&mut self) -> Option<StartRequest> {
        let mut byte = [0];
        match self.wake.read(&mut byte) {
            Ok(1) => self.requests.try_recv().ok(),
            _ => None,
        }
    }
}

impl AsFd for Starts {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// What the socket is about.
#[derive(Debug)]
pub(crate) struct Guest {
    /// The sandbox directory of the machine that the container is in.
    pub(crate) directory: SandboxDirectory,
    /// The machine's other containers, if it is this process's.
    pub(crate) members: Option<Arc<Members>>,
}

#[derive(Debug)]
struct Server {
    guest: Guest,
    starts: Sender<StartRequest>,
    wake: PipeWriter,
    busy: AtomicUsize,
}

/// Binds the socket and serves it from threads, to this process's end.
pub(crate) fn serve(folder: &Folder, guest: Guest) -> io::Result<Starts> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(folder.control_socket())?)?;
    listen(&socket, 64)?;
    let (starts, requests) = channel();
    let (woken, wake) = io::pipe()?;
    let server = Arc::new(Server { guest, starts, wake, busy: AtomicUsize::new(0) });
    thread::Builder::new()
        .name("control".into())
        .stack_size(STACK)
        .spawn(move || accept(&socket, &server))?;
    Ok(Starts { requests, wake: woken })
}

fn accept(socket: &OwnedFd, server: &Arc<Server>) {
    loop {
        let client = match accept_with(socket, SocketFlags::CLOEXEC) {
            Ok(client) => client,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => continue,
            Err(error) => {
                // Out of descriptors or memory: what holds them may go.
                tracing::warn!(%error, "cannot accept a control connection");
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if server.busy.fetch_add(1, Ordering::Relaxed) >= MOST {
            server.busy.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (worker, counter) = (Arc::clone(server), Arc::clone(server));
        let thread = thread::Builder::new().name("control".into()).stack_size(STACK);
        let spawned = thread.spawn(move || {
            if let Err(error) = worker.serve(client) {
                tracing::warn!(%error, "a control connection failed");
            }
            worker.busy.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = spawned {
            counter.busy.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(%error, "cannot serve a control connection");
        }
    }
}

impl Server {
    fn serve(&self, client: OwnedFd) -> io::Result<()> {
        let peer = socket_peercred(&client)?.uid;
        if !peer.is_root() && peer != rustix::process::geteuid() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        set_socket_timeout(&client, Timeout::Recv, Some(PATIENCE))?;
        set_socket_timeout(&client, Timeout::Send, Some(PATIENCE))?;
        let Some((request, fd)) = receive::<Request>(&client)? else { return Ok(()) };
        let (answer, connection) = match request {
            Request::Connect { port } => match connect(&self.guest.directory, port) {
                Ok(connection) => (Answer::Done, Some(OwnedFd::from(connection))),
                Err(error) => (failed(&error), None),
            },
            Request::Start => return self.start(client),
            Request::Join => match (&self.guest.members, fd) {
                (Some(members), Some(share)) => return members.serve(&client, share),
                _ => (failed(&io::Error::other("this is no place to join")), None),
            },
            Request::EndMachine => match &self.guest.members {
                Some(members) => (members.end_machine(), None),
                None => (failed(&io::Error::other("container not running")), None),
            },
            Request::AwaitLeaving { number } => match &self.guest.members {
                Some(members) => (members.await_leaving(number), None),
                None => (Answer::Done, None),
            },
            Request::Leave => (failed(&io::Error::other("there is nothing to leave")), None),
        };
        send(&client, &answer, connection.as_ref().map(AsFd::as_fd))
    }

    fn start(&self, client: OwnedFd) -> io::Result<()> {
        self.starts.send(StartRequest { client }).map_err(|_gone| io::ErrorKind::BrokenPipe)?;
        (&self.wake).write_all(&[1])
    }
}

/// Connects to a port of a guest.
pub(super) fn connect(directory: &SandboxDirectory, port: u32) -> io::Result<UnixStream> {
    let connecting = Connecting::request(directory, port).map_err(io::Error::other)?;
    if !readable_within(connecting.socket.as_fd(), PATIENCE)? {
        return Err(io::Error::other(format!("port {port} of the guest does not answer")));
    }
    connecting.finish().map_err(io::Error::other)
}

fn failed(error: &dyn std::error::Error) -> Answer {
    Answer::Failed { message: cut(&report::chain(error)), exit_code: exit_code::OWN_ERROR }
}
