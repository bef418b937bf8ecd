//! A name server of the host, in a container: the agent listens at its address, and questions go on by vsock.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_vsock::{VMADDR_CID_HOST, VsockAddr, VsockStream};

use crate::kmsg;
use crate::sockets::relay;
use crate::sys::namespaces::within_network;
use crate::sys::netlink::Netlink;
use crate::sys::network::bring_loopback_up;

/// What an IPv4 datagram can hold.
const DATAGRAM: usize = 65_535;

/// Questions and connections at a time; whoever asks more gets no answer, as of a server that is busy.
const MOST: usize = 64;

/// What a container has, checked.
#[derive(Clone, Debug)]
pub struct Resolver {
    /// On the loopback.
    pub address: Ipv4Addr,
    /// Where programs look for it.
    pub port: u16,
    /// Where the agent listens.
    pub listen_port: u16,
    /// A batch of nf_tables that leads from there to here.
    pub rules: Vec<u8>,
    /// The vsock port of the host that takes connections.
    pub stream_port: u32,
    /// The one that takes datagrams.
    pub datagram_port: u32,
}

/// Serves a container until it is dropped.
#[derive(Debug)]
pub struct Serving([JoinHandle<()>; 2]);

impl Resolver {
    /// Listens in a network namespace.
    ///
    /// # Errors
    ///
    /// Those of setns(2), socket(2) and bind(2).
    pub fn serve(&self, namespace: BorrowedFd<'_>) -> io::Result<Serving> {
        let (stream, datagram) = within_network(namespace, || self.listen())??;
        let (stream, datagram) = (TcpListener::from_std(stream)?, Arc::new(UdpSocket::from_std(datagram)?));
        let permits = Arc::new(Semaphore::new(MOST));
        Ok(Serving([
            tokio::spawn(connections(stream, self.stream_port, Arc::clone(&permits))),
            tokio::spawn(datagrams(datagram, self.datagram_port, permits)),
        ]))
    }

    fn listen(&self) -> io::Result<(StdTcpListener, StdUdpSocket)> {
        bring_loopback_up()?;
        let port = match Netlink::netfilter().and_then(|netfilter| netfilter.execute(&self.rules)) {
            Ok(()) => self.listen_port,
            // Then no program of the container can have the port on all addresses.
            Err(error) => {
                kmsg::debug(|| {
                    format!("no rules for the resolver, so that it takes port {}: {error}", self.port)
                });
                self.port
            }
        };
        let at = SocketAddr::from((self.address, port));
        let (stream, datagram) = (StdTcpListener::bind(at)?, StdUdpSocket::bind(at)?);
        stream.set_nonblocking(true)?;
        datagram.set_nonblocking(true)?;
        Ok((stream, datagram))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn connections(listener: TcpListener, port: u32, permits: Arc<Semaphore>) {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
                tokio::spawn(async move {
                    relay(Box::new(connection), port, None).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tell(Err(error));
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn datagrams(socket: Arc<UdpSocket>, port: u32, permits: Arc<Semaphore>) {
    let mut datagram = vec![0; DATAGRAM];
    loop {
        match socket.recv_from(&mut datagram).await {
            Ok((length, peer)) => {
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
                let question = datagram.get(..length).unwrap_or_default().to_vec();
                let socket = Arc::clone(&socket);
                tokio::spawn(async move {
                    tell(ask(&socket, &question, peer, port).await);
                    drop(permit);
                });
            }
            // Such as that a peer has gone.
            Err(error) => {
                tell(Err(error));
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn ask(socket: &UdpSocket, question: &[u8], peer: SocketAddr, port: u32) -> io::Result<()> {
    let mut host = VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, port)).await?;
    host.write_all(question).await?;
    AsyncWriteExt::shutdown(&mut host).await?;
    let mut answer = Vec::new();
    host.take(DATAGRAM as u64).read_to_end(&mut answer).await?;
    if !answer.is_empty() {
        socket.send_to(&answer, peer).await?;
    }
    Ok(())
}

/// Whoever has asked can see no more than that there is no answer.
fn tell(result: io::Result<()>) {
    if let Err(error) = result {
        kmsg::debug(|| format!("the resolver: {error}"));
    }
}
