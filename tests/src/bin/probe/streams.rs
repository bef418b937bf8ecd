//! Standard streams and signals.

use std::io::{self, Read, Write, stderr, stdin, stdout};
use std::net::{Shutdown, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::pattern::Pattern;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGWINCH};
use signal_hook::iterator::Signals;
use vsock::{VMADDR_CID_ANY, VsockListener};

pub(crate) fn write(length: u64, seed: u64) -> Result<()> {
    Pattern::new(seed).write(length, &mut stdout().lock()).context("cannot write")
}

/// In pieces of odd sizes, so that the two never come in lockstep.
pub(crate) fn both(length: u64) -> Result<()> {
    let (mut first, mut second) = (Pattern::new(1), Pattern::new(2));
    let mut left = length;
    while left > 0 {
        let part = left.min(123_457);
        first.write(part, &mut stdout().lock()).context("cannot write to stdout")?;
        second.write(part, &mut stderr().lock()).context("cannot write to stderr")?;
        left -= part;
    }
    Ok(())
}

pub(crate) fn verify(seed: u64) -> Result<()> {
    let length = Pattern::new(seed).verify(&mut stdin().lock()).context("stdin is not the pattern")?;
    println!("verified {length}");
    Ok(())
}

/// One connection, from the host.
pub(crate) fn vsock_serve(port: u32) -> Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port).context("cannot listen")?;
    say("ready")?;
    let (mut stream, _) = listener.accept().context("cannot accept")?;
    e2e::exchange::serve(&mut stream)
}

/// The answer is one datagram too.
pub(crate) fn udp(address: &str) -> Result<()> {
    let mut datagram = Vec::new();
    stdin().lock().read_to_end(&mut datagram).context("cannot read stdin")?;
    let address = address.to_socket_addrs().context("no such name")?.next().context("no address")?;
    let any = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).context("cannot make a socket")?;
    socket.set_read_timeout(Some(Duration::from_secs(20))).context("cannot set a time-out")?;
    socket.send_to(&datagram, address).context("cannot send")?;
    let mut answer = vec![0; 65_536];
    let (length, _) = socket.recv_from(&mut answer).context("no answer")?;
    stdout().write_all(answer.get(..length).unwrap_or_default()).context("cannot write")
}

/// Nobody answers; who does not even listen is no matter.
pub(crate) fn datagrams(address: &str, count: u64, length: u64) -> Result<()> {
    let address = address.to_socket_addrs().context("no such name")?.next().context("no address")?;
    let any = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).context("cannot make a socket")?;
    let datagram = vec![0; usize::try_from(length)?];
    for _ in 0..count {
        // What does not go is lost, as what is dropped on its way.
        let _ = socket.send_to(&datagram, address);
    }
    Ok(())
}

/// Makes the file once it listens; says how many datagrams came until none came for half a second, and in how many microseconds.
pub(crate) fn count(port: u16, file: &str) -> Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", port)).context("cannot make a socket")?;
    std::fs::write(file, "").context("cannot make the file")?;
    let mut datagram = [0; 2048];
    socket.recv(&mut datagram).context("cannot receive")?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).context("cannot set a time-out")?;
    let (begin, mut last, mut count) = (Instant::now(), Instant::now(), 1_u64);
    while socket.recv(&mut datagram).is_ok() {
        (last, count) = (Instant::now(), count + 1);
    }
    say(&format!("{count} {}", last.duration_since(begin).as_micros()))
}

pub(crate) fn signals() -> Result<()> {
    let mut signals =
        Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGWINCH]).context("cannot take signals")?;
    say("ready")?;
    for signal in &mut signals {
        let name = signal_hook::low_level::signal_name(signal).unwrap_or("another");
        let size = rustix::termios::tcgetwinsize(stdin());
        match size {
            Ok(size) if signal == SIGWINCH => say(&format!("{name} {} {}", size.ws_row, size.ws_col))?,
            _ => say(name)?,
        }
        if signal == SIGTERM {
            break;
        }
    }
    Ok(())
}

/// Sends stdin to its end first, then takes the answer to its end.
pub(crate) fn connect(socket: &str) -> Result<()> {
    let mut connection =
        UnixStream::connect(socket).with_context(|| format!("cannot connect to {socket}"))?;
    io::copy(&mut stdin().lock(), &mut connection).context("cannot send")?;
    connection.shutdown(Shutdown::Write).context("cannot end")?;
    io::copy(&mut connection, &mut stdout().lock()).context("cannot receive")?;
    Ok(())
}

/// How much is written to a stdout that is held: so many pieces that its reader is most likely late for the last.
const HELD: usize = 64;

/// Splices from a socket into stdout, which the kernel locks while the socket is idle, and says so on stderr. Then stdin
/// to stderr, to its end, which ends the rest too.
pub(crate) fn hold() -> Result<()> {
    let (mut near, mut far) = UnixStream::pair().context("cannot make sockets")?;
    let received = far.try_clone().context("cannot duplicate a socket")?;
    let (tell, told) = std::sync::mpsc::channel();
    let splicer = std::thread::spawn(move || {
        let _ = tell.send(rustix::thread::gettid());
        // Of a socket into a pipe, the standard library splices.
        io::copy(&mut far, &mut stdout().lock())
    });
    let thread = told.recv().context("no thread")?.as_raw_nonzero();
    for _ in 0..HELD {
        // What comes at once is spliced at once.
        std::thread::sleep(Duration::from_micros(500));
        near.write_all(b".").context("cannot send")?;
    }
    let asleep = || -> Result<bool> {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).context("no thread")?;
        Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S')))
    };
    while rustix::io::ioctl_fionread(&received).is_ok_and(|unread| unread > 0) || !asleep()? {
        std::thread::yield_now();
    }
    writeln!(stderr(), "held").context("cannot write")?;
    io::copy(&mut stdin().lock(), &mut stderr().lock()).context("cannot copy")?;
    drop(near);
    let copied = splicer.join().ok().context("the thread panicked")?.context("cannot splice")?;
    anyhow::ensure!(copied == HELD as u64, "{copied} bytes copied");
    Ok(())
}

fn say(line: &str) -> Result<()> {
    let mut output = stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).context("cannot write")
}
