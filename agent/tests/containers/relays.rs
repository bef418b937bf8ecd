//! The processes that relay streams and sockets, and how a workload can hold one.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, waitid};

/// Those of this process that have that name.
pub(crate) fn relays(name: &str) -> Vec<Pid> {
    let path = format!("/proc/self/task/{}/children", getpid().as_raw_nonzero());
    let children = std::fs::read_to_string(path).unwrap();
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    let named = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim_end() == name;
    children.filter(named).map(|pid| Pid::from_raw(pid).unwrap()).collect()
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
