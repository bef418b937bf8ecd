//! A server that is activated by its sockets (sd_listen_fds(3)), for any number of clients at a time.

use std::env;
use std::io::{Read, Write, stdout};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::socket_acceptconn;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// For ever. Each client says something to its end, and is answered with it behind the number of its socket.
pub(crate) fn serve() -> Result<()> {
    let number = |name: &str| -> Result<i32> {
        let text = env::var(name).with_context(|| name.to_owned())?;
        text.parse().with_context(|| format!("{name}={text}"))
    };
    let (sockets, pid) = (number("LISTEN_FDS")?, number("LISTEN_PID")?);
    ensure!(pid == getpid().as_raw_nonzero().get(), "the sockets are those of process {pid}");
    let this = pidfd_open(getpid(), PidfdFlags::empty()).context("cannot open this process")?;
    let mut servers = Vec::new();
    for fd in 3..3 + sockets {
        // What a process may do with any other, and then with itself.
        let socket = pidfd_getfd(&this, fd, PidfdGetfdFlags::empty()).context("a socket is not there")?;
        ensure!(socket_acceptconn(&socket).is_ok_and(|listens| listens), "{fd} does not listen");
        let listener = UnixListener::from(socket);
        servers.push(thread::spawn(move || -> Result<()> {
            for client in listener.incoming() {
                let client = client.context("cannot accept")?;
                thread::spawn(move || answer(&client, fd));
            }
            Ok(())
        }));
    }
    println!("ready with {sockets}");
    stdout().flush().context("cannot write")?;
    for server in servers {
        server.join().ok().context("a server panicked")??;
    }
    Ok(())
}

fn answer(mut client: &UnixStream, fd: i32) -> Result<()> {
    let mut text = String::new();
    client.read_to_string(&mut text).context("cannot read")?;
    write!(client, "{fd}: {text}").context("cannot write")
}
