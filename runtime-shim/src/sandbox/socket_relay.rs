//! Connections of the guest to sockets of the host: bytes in both directions, and nothing of them is looked at.
//!
//! One thread for each socket waits for connections, and two carry each connection. They end with their connection,
//! or with this process.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Of all sockets together, as each takes two of this process's descriptors, and a process that has none left hears no
/// command any more.
static CONNECTIONS: Connections = Connections::at_most(192);

/// A thread that copies needs hardly any.
const STACK: usize = 64 << 10;

/// How long to wait for descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket of the host.
#[derive(Debug)]
pub(crate) enum Server {
    /// By its path.
    Unix(PathBuf),
    /// In the network namespace of the thread that starts the relay.
    Internet(SocketAddr),
}

impl Server {
    fn connect(&self) -> io::Result<UnixStream> {
        match self {
            Self::Unix(path) => UnixStream::connect(path),
            // Nothing is asked of it that not every stream has.
            Self::Internet(address) => Ok(OwnedFd::from(TcpStream::connect(address)?).into()),
        }
    }
}

/// How many connections there are. A guest that opens more than so many is turned away.
#[derive(Debug)]
struct Connections {
    open: AtomicUsize,
    most: usize,
}

impl Connections {
    const fn at_most(most: usize) -> Self {
        Self { open: AtomicUsize::new(0), most }
    }

    /// One more, if it may be.
    fn enter(&'static self) -> Option<Open> {
        let open = Open(self);
        (self.open.fetch_add(1, Ordering::Relaxed) < self.most).then_some(open)
    }
}

/// Says, as long as it is there, that a connection is.
#[derive(Debug)]
pub(crate) struct Open(&'static Connections);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connects everything that comes to `listener`, on which the vsock device puts the guest's connections, to a server.
pub(crate) fn start(listener: UnixListener, server: Server) -> io::Result<()> {
    start_with(listener, move |guest, open| relay(guest, &server, open))
}

/// Has `serve` deal with each connection, which it must not wait for.
pub(crate) fn start_with(
    listener: UnixListener,
    serve: impl Fn(UnixStream, Open) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    start_within(&CONNECTIONS, listener, serve)
}

fn start_within(
    connections: &'static Connections,
    listener: UnixListener,
    serve: impl Fn(UnixStream, Open) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    spawn("socket-relay", move || {
        for connection in listener.incoming() {
            let guest = match connection {
                Ok(guest) => guest,
                Err(error) => {
                    // Out of descriptors or memory: what holds them may go.
                    tracing::warn!(%error, "cannot accept the guest's connection to a socket of the host");
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            let Some(open) = connections.enter() else {
                tracing::warn!("the guest has too many connections to sockets of the host");
                continue;
            };
            // A guest that is not connected reads the end at once, as it does when the server has gone.
            if let Err(error) = serve(guest, open) {
                tracing::warn!(%error, "cannot connect the guest to a socket of the host");
            }
        }
    })
}

/// Both ends of a connection.
#[derive(Debug)]
struct Ends {
    guest: UnixStream,
    server: UnixStream,
    _open: Open,
}

fn relay(guest: UnixStream, server: &Server, open: Open) -> io::Result<()> {
    let ends = Arc::new(Ends { guest, server: server.connect()?, _open: open });
    let (inward, outward) = (Arc::clone(&ends), Arc::clone(&ends));
    spawn("socket-in", move || copy(&inward.guest, &inward.server))?;
    spawn("socket-out", move || copy(&outward.server, &outward.guest)).inspect_err(|_| {
        // Which ends the thread of the other direction.
        let _ = ends.guest.shutdown(Shutdown::Both);
    })
}

/// Until the end of one, which becomes the end of the other. An error is an end, too.
fn copy(mut from: &UnixStream, mut to: &UnixStream) {
    if io::copy(&mut from, &mut to).is_err() {
        let _ = from.shutdown(Shutdown::Both);
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// A thread that may have little stack.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(body).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn bytes_and_ends_go_both_ways() {
        let folder = tempfile::tempdir().unwrap();
        let (port, path) = (folder.path().join("port"), folder.path().join("server"));
        let server = UnixListener::bind(&path).unwrap();
        start(UnixListener::bind(&port).unwrap(), Server::Unix(path)).unwrap();
        let mut guest = UnixStream::connect(&port).unwrap();
        guest.write_all(b"question").unwrap();
        guest.shutdown(Shutdown::Write).unwrap();
        let (mut connection, _) = server.accept().unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        assert_eq!(text, "question");
        connection.write_all(b"answer").unwrap();
        drop(connection);
        text.clear();
        guest.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
    }

    #[test]
    fn without_a_server_the_guest_reads_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let port = folder.path().join("port");
        start(UnixListener::bind(&port).unwrap(), Server::Unix(folder.path().join("nobody"))).unwrap();
        let mut guest = UnixStream::connect(&port).unwrap();
        assert_eq!(guest.read(&mut [0]).unwrap(), 0);
    }
    /// Waits for the end of one that was turned away.
    fn is_turned_away(mut guest: &UnixStream) -> bool {
        guest.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        matches!(guest.read(&mut [0]), Ok(0))
    }

    /// Of a connection that stays nothing is heard.
    fn stays(mut guest: &UnixStream) -> bool {
        guest.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        guest.read(&mut [0]).is_err()
    }

    #[test]
    fn all_sockets_together_have_so_many_connections_and_no_more() {
        static TWO: Connections = Connections::at_most(2);
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let servers = ["a", "b"].map(|name| UnixListener::bind(place(name)).unwrap());
        for name in ["a", "b"] {
            let (port, server) = (place(&format!("port-{name}")), Server::Unix(place(name)));
            let listener = UnixListener::bind(port).unwrap();
            start_within(&TWO, listener, move |guest, open| relay(guest, &server, open)).unwrap();
        }
        let connect = |name: &str| UnixStream::connect(place(&format!("port-{name}"))).unwrap();
        let (first, second) = (connect("a"), connect("b"));
        let far = servers.each_ref().map(|server| server.accept().unwrap().0);
        for name in ["a", "b"] {
            assert!(is_turned_away(&connect(name)), "{name}");
        }
        assert!(stays(&second));
        // One that has ended on both sides makes room for another.
        drop((first, far));
        while TWO.open.load(Ordering::Relaxed) > 1 {
            thread::yield_now();
        }
        let third = connect("a");
        servers[0].accept().unwrap();
        drop(third);
    }
}
