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
use std::thread;

/// Connections of one socket at a time; a guest that opens more is turned away.
const MOST: usize = 128;

/// A thread that copies needs hardly any.
const STACK: usize = 64 << 10;

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

/// Says, as long as it is there, that a connection is.
pub(crate) type Open = Arc<()>;

/// Connects everything that comes to `listener`, on which the vsock device puts the guest's connections, to a server.
pub(crate) fn start(listener: UnixListener, server: Server) -> io::Result<()> {
    start_with(listener, move |guest, open| relay(guest, &server, open))
}

/// Has `serve` deal with each connection, which it must not wait for.
pub(crate) fn start_with(
    listener: UnixListener,
    serve: impl Fn(UnixStream, Open) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let open = Open::default();
    spawn("socket-relay", move || {
        for connection in listener.incoming() {
            let Ok(guest) = connection else { return };
            if Arc::strong_count(&open) > MOST {
                tracing::warn!("the guest has too many connections to a socket of the host");
                continue;
            }
            // A guest that is not connected reads the end at once, as it does when the server has gone.
            if let Err(error) = serve(guest, Arc::clone(&open)) {
                tracing::warn!(%error, "cannot connect the guest to a socket of the host");
            }
        }
    })
}

fn relay(guest: UnixStream, server: &Server, open: Open) -> io::Result<()> {
    let server = server.connect()?;
    let (guest_too, server_too) = (guest.try_clone()?, server.try_clone()?);
    spawn("socket-in", move || {
        copy(&guest_too, &server_too);
        drop(open);
    })?;
    spawn("socket-out", move || copy(&server, &guest))
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
}
