//! A server of echo, for any number of peers at a time.

use std::io::{self, Write, stdout};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::thread;

use anyhow::{Context, Result};

/// On every address, by TCP and UDP, for ever.
pub(crate) fn serve(port: u16, group: Option<Ipv4Addr>) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).context("cannot listen")?;
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).context("cannot make a socket")?;
    if let Some(group) = group {
        socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED).context("cannot join the group")?;
    }
    thread::spawn(move || datagrams(&socket));
    println!("ready");
    stdout().flush().context("cannot write")?;
    for connection in listener.incoming() {
        let connection = connection.context("cannot accept")?;
        thread::spawn(move || io::copy(&mut &connection, &mut &connection));
    }
    Ok(())
}

fn datagrams(socket: &UdpSocket) -> io::Result<()> {
    let mut datagram = vec![0; 65_536];
    loop {
        let (length, peer) = socket.recv_from(&mut datagram)?;
        // A peer that has gone is no matter to the others.
        let _ = socket.send_to(datagram.get(..length).unwrap_or_default(), peer);
    }
}
