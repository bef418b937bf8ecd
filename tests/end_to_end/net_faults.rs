//! Networks that lose, hold back and forget packets.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};
use e2e::network::{Namespace, ip};
use e2e::pattern::Pattern;
use e2e::{Runtime, Setup, alone};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::net::{answers, bundle_in, connected, said};

#[test]
fn connections_outlive_an_interruption_and_loss() -> Result<()> {
    let _order = alone();
    let size = Setup::get()?.size("bytes each way", 1 << 20, 1 << 17);
    let namespace = Namespace::new(15)?;
    let bundle = bundle_in(&namespace, "exec probe echo 80")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let mut stream = connected("10.77.15.2:80")?;
    answers(&mut stream, "before")?;

    // Nothing that is sent meanwhile arrives, and nobody is told.
    ip("link set peer15 down")?;
    stream.write_all(b"meanwhile")?;
    said(&runv, "echo alive")?;
    ip("link set peer15 up")?;
    let mut heard = [0; 9];
    stream.read_exact(&mut heard).context("no answer after the interruption")?;
    assert_eq!(&heard, b"meanwhile");

    let netem = "qdisc add dev peer15 root netem loss 5% delay 1ms reorder 25%";
    let netem = Command::new("tc").args(netem.split(' ')).output()?;
    if !netem.status.success() {
        eprintln!("without netem nothing is lost: {}", String::from_utf8_lossy(&netem.stderr));
    }
    let mut sending = stream.try_clone()?;
    let sender = thread::spawn(move || Pattern::new(4).write(size, &mut sending));
    assert_eq!(Pattern::new(4).verify(&mut (&mut stream).take(size))?, size);
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    answers(&mut stream, "after")
}

/// Somebody has begun connections and vanished; others are served.
#[test]
fn connections_that_are_begun_and_forgotten_harm_no_other() -> Result<()> {
    let _order = alone();
    let namespace = Namespace::new(16)?;
    let bundle = bundle_in(&namespace, "exec probe echo 80")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let mut kept = connected("10.77.16.2:80")?;
    ip("addr add 10.77.16.8/24 dev peer16")?;
    let mut forgotten = Vec::new();
    for _ in 0..64 {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&socket, &SocketAddrV4::new([10, 77, 16, 8].into(), 0))?;
        connect(&socket, &SocketAddrV4::new([10, 77, 16, 2].into(), 80))?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"half of a")?;
        forgotten.push(stream);
    }
    // With their address goes all that would tell the guest of their end.
    ip("addr del 10.77.16.8/24 dev peer16")?;
    drop(forgotten);
    answers(&mut kept, "still")?;
    answers(&mut connected("10.77.16.2:80")?, "new")
}
