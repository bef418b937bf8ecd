//! The name server that docker puts into a container's network namespace, on networks of one's own: it listens at 127.0.0.11,
//! in the half of the namespace that is the host's, and asks others from there.
//!
//! ```text
//!   guest                                 monitor, in the namespace        dockerd, in the namespace
//!   127.0.0.11:53 -> agent == vsock ==> relay ------> 127.0.0.11:53 -----> resolver -----> name servers of the host
//! ```
//!
//! The relay connects there and nowhere else. dockerd asks others by the interface that is the guest's; for their answers to
//! come back to it, its ports are in a range of their own, and [`super::redirect`] lets those pass.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use agent_protocol::RESOLVER_PORTS;
use agent_protocol::agent as proto;

use super::NetworkError;
use super::nf_tables::{
    Batch, FIRST, Hook, IPV4, Order, SECOND, destination, if_meta, if_payload, immediate,
};
use crate::sandbox::directory::SandboxDirectory;
use crate::sandbox::socket_relay::{self, Server};

/// Where docker has it.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Of name servers.
pub(super) const PORT: u16 = 53;

/// From here on, ports of the namespace are those of the host's half of it. The guest's kernel takes lower ones by itself.
pub(super) const FIRST_OWN_PORT: u16 = 61_000;

/// Where the agent listens in the guest: nobody gets it by chance either.
const LISTEN_PORT: u16 = 61_053;

/// Of the calling thread's network namespace.
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const SOCKETS: [&str; 2] = ["/proc/thread-self/net/udp", "/proc/thread-self/net/tcp"];

/// Longer than dockerd waits for three servers in turn.
const PATIENCE: Duration = Duration::from_secs(15);

/// What an IPv4 datagram can hold.
const DATAGRAM: u64 = 65_535;

/// `NF_INET_LOCAL_OUT`, and `NF_IP_PRI_NAT_DST`.
const OUTPUT: u32 = 3;
const BEFORE_ROUTING: i32 = -100;

/// Whether there is one in the calling thread's network namespace.
pub(super) fn is_there() -> io::Result<bool> {
    for list in SOCKETS {
        if has_socket_at(ADDRESS, &std::fs::read_to_string(list)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Of a list in /proc/net, whose second column is the socket's own address: a number as it is in memory, then the port.
fn has_socket_at(address: Ipv4Addr, list: &str) -> bool {
    let wanted = format!("{:08X}:", u32::from_ne_bytes(address.octets()));
    list.lines().any(|line| line.split_whitespace().nth(1).is_some_and(|own| own.starts_with(&wanted)))
}

/// Has sockets of the calling thread's network namespace take ports that the guest does not take.
pub(super) fn set_ports_apart() -> io::Result<()> {
    std::fs::write(PORT_RANGE, format!("{FIRST_OWN_PORT} {}", u16::MAX))
}

/// For the agent.
pub(super) fn configuration() -> proto::Resolver {
    let [stream_port, datagram_port] = RESOLVER_PORTS;
    proto::Resolver {
        address: ADDRESS.octets().to_vec(),
        port: PORT.into(),
        listen_port: LISTEN_PORT.into(),
        rules: rules().to_bytes(),
        stream_port,
        datagram_port,
        ..Default::default()
    }
}

/// What programs send to the server goes to where the agent listens.
fn rules() -> Batch<'static> {
    let mut batch = Batch::new(IPV4, "runv", 0);
    batch.chain("resolver", &Hook { kind: "nat", number: OUTPUT, priority: BEFORE_ROUTING, device: None });
    for transport in [17, 6] {
        let mut rule = [
            // The destination's address, then its port.
            if_payload(1, 16, Order::Equal, &ADDRESS.octets()),
            if_meta(16, &[transport]),
            if_payload(2, 2, Order::Equal, &PORT.to_be_bytes()),
        ]
        .concat();
        rule.push(immediate(FIRST, &ADDRESS.octets()));
        rule.push(immediate(SECOND, &LISTEN_PORT.to_be_bytes()));
        rule.push(destination());
        batch.rule("resolver", &rule);
    }
    batch
}

/// Connects guests of a sandbox to the server in the calling thread's network namespace, for as long as this process lives.
pub(crate) fn serve(directory: &SandboxDirectory) -> Result<(), NetworkError> {
    let failed =
        |error: Box<dyn std::error::Error + Send + Sync>| NetworkError::Resolver(io::Error::other(error));
    let server = SocketAddr::from((ADDRESS, PORT));
    let [streams, datagrams] = RESOLVER_PORTS;
    let listener = directory.listen_for_guest(streams).map_err(|error| failed(error.into()))?;
    socket_relay::start(listener, Server::Internet(server)).map_err(NetworkError::Resolver)?;
    let listener = directory.listen_for_guest(datagrams).map_err(|error| failed(error.into()))?;
    socket_relay::start_with(listener, move |guest, open| {
        socket_relay::spawn("resolver", move || {
            // Without an answer the guest asks again, or another one.
            if let Err(error) = answer(guest, server) {
                tracing::debug!(%error, "no answer of the resolver");
            }
            drop(open);
        })
    })
    .map_err(NetworkError::Resolver)
}

/// One question.
fn answer(mut guest: UnixStream, server: SocketAddr) -> io::Result<()> {
    guest.set_read_timeout(Some(PATIENCE))?;
    let mut datagram = Vec::new();
    Read::by_ref(&mut guest).take(DATAGRAM).read_to_end(&mut datagram)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(&datagram)?;
    datagram.resize(usize::try_from(DATAGRAM).unwrap_or_default(), 0);
    let length = socket.recv(&mut datagram)?;
    guest.write_all(datagram.get(..length).unwrap_or_default())?;
    guest.shutdown(Shutdown::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 1103: 0B00007F:9C4F 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 88811 2 0000000000000000 0
";

    #[test]
    fn a_socket_at_the_address_is_a_resolver() {
        assert!(has_socket_at(ADDRESS, UDP));
        assert!(!has_socket_at(Ipv4Addr::new(127, 0, 0, 1), UDP));
        // A connection to it is none.
        let other = UDP.replace("0B00007F:9C4F 00000000:0000", "0100007F:9C4F 0B00007F:0035");
        assert!(!has_socket_at(ADDRESS, &other));
        assert!(!has_socket_at(ADDRESS, ""));
    }

    #[test]
    fn a_question_is_one_datagram_and_its_answer_too() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let (mut guest, far) = UnixStream::pair().unwrap();
        let relay = std::thread::spawn(move || answer(far, address));
        guest.write_all(b"ques").unwrap();
        guest.write_all(b"tion").unwrap();
        guest.shutdown(Shutdown::Write).unwrap();
        let mut datagram = [0; 64];
        let (length, peer) = server.recv_from(&mut datagram).unwrap();
        assert_eq!(&datagram[..length], b"question");
        server.send_to(b"answer", peer).unwrap();
        let mut text = String::new();
        guest.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
        relay.join().unwrap().unwrap();
    }
}
