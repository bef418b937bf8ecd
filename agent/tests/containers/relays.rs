//! The processes that relay streams and sockets, and how a workload can hold one.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::guest::children;

/// The only one of that name. It has been forked by then, and names itself when it gets to run.
pub(crate) async fn relay(name: &str) -> Pid {
    loop {
        match relays(name)[..] {
            [] => tokio::task::yield_now().await,
            [relay] => return relay,
            ref several => panic!("several relays: {several:?}"),
        }
    }
}

/// Those of this process that have that name by now.
pub(crate) fn relays(name: &str) -> Vec<Pid> {
    let named = |pid: &Pid| {
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
        comm.unwrap().trim_end() == name
    };
    children().into_iter().filter(named).collect()
}

/// Sends `relay`, which reads what is sent through `socket`, a TCP socket whose close takes its time, as its peer does not
/// read: as long as this has the peer, and no longer than `time`.
pub(crate) fn hold(relay: Pid, socket: impl AsFd, time: Duration) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut slow = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    set_socket_linger(&slow, Some(time)).unwrap();
    slow.set_nonblocking(true).unwrap();
    while slow.write(&[0; 1 << 16]).is_ok() {}
    slow.set_nonblocking(false).unwrap();
    // Whoever closes last is held: not before it is closed here may the relay have it.
    kill_process(relay, Signal::STOP).unwrap();
    waitid(WaitId::Pid(relay), WaitIdOptions::STOPPED).unwrap();
    agent::sys::pass::send(socket, slow.as_fd()).unwrap();
    drop(slow);
    kill_process(relay, Signal::CONT).unwrap();
    peer
}
