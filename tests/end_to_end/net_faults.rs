//! Networks that lose, hold back and forget packets.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use e2e::network::{Namespace, ip, run};
use e2e::pattern::Pattern;
use e2e::{Runtime, Setup, alone};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::net::{answers, bundle_in, connected, said};

#[test]
fn connections_outlive_an_interruption_and_loss() -> Result<()> {
    let _order = alone();
    let size = Setup::get()?.size("bytes each way", 3 << 20, 1 << 20);
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

    let loss = Loss::between(&namespace)?;
    // 400 packets, of which one in twenty is lost.
    let pings = said(&runv, "ping -q -c 200 -i 0.01 -W 1 10.77.15.1 || true")?;
    let heard: u32 = count_before(&pings, " packets received")?;
    ensure!((100..200).contains(&heard), "{pings}");
    let before = loss.lost()?;
    // Again, should none have been lost of packets that were few and large.
    for _ in 0..10 {
        let mut sending = stream.try_clone()?;
        let sender = thread::spawn(move || Pattern::new(4).write(size, &mut sending));
        assert_eq!(Pattern::new(4).verify(&mut (&mut stream).take(size))?, size);
        sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        answers(&mut stream, "after")?;
        if loss.lost()? > before {
            return Ok(());
        }
    }
    bail!("{before} packets were lost by ping, and none since")
}

/// One packet in twenty is lost on each way between the tests and a container, until this is dropped.
struct Loss<'namespace> {
    namespace: &'namespace Namespace,
    netem: bool,
}

impl<'namespace> Loss<'namespace> {
    /// By netem, which disorders them too, or by the host's netfilter where the kernel has no netem. The nested host has.
    fn between(namespace: &'namespace Namespace) -> Result<Self> {
        let tried = namespace.tc("qdisc add", "root netem loss 5% delay 1ms reorder 25%");
        let loss = Self { namespace, netem: tried.is_ok() };
        if let Err(error) = tried {
            if Setup::get()?.nested() {
                return Err(error);
            }
            for way in loss.ways() {
                iptables(&format!("-A {way}"))?;
            }
        }
        let what = if loss.netem { "tc netem" } else { "iptables, as this kernel has no netem" };
        // Whoever runs the tests sees it.
        writeln!(std::io::stderr(), "packets are lost by {what}")?;
        Ok(loss)
    }

    fn ways(&self) -> [String; 2] {
        ["INPUT -i", "OUTPUT -o"].map(|way| {
            format!("{way} {} -m statistic --mode random --probability 0.05 -j DROP", self.namespace.peer())
        })
    }

    /// Packets that have been lost.
    fn lost(&self) -> Result<u32> {
        if self.netem {
            let shown = self.namespace.tc("-s qdisc show", "")?;
            shown.split("dropped ").skip(1).map(|text| count_before(text, ",")).sum()
        } else {
            ["INPUT", "OUTPUT"]
                .map(|way| {
                    let shown = iptables(&format!("-n -v -x -L {way}"))?;
                    let rule = shown.lines().find(|line| line.contains(&self.namespace.peer()));
                    let count = rule.and_then(|line| line.split_whitespace().next()).context("no rule")?;
                    count.parse::<u32>().context("no count")
                })
                .into_iter()
                .sum()
        }
    }
}

impl Drop for Loss<'_> {
    fn drop(&mut self) {
        // netem goes with the interfaces.
        if !self.netem {
            for way in self.ways() {
                // The test's own error is the one to tell.
                let _ = iptables(&format!("-D {way}"));
            }
        }
    }
}

/// The number that stands before a text.
fn count_before(shown: &str, text: &str) -> Result<u32> {
    let before = shown.split(text).next().and_then(|before| before.split_whitespace().last());
    before.context("nothing")?.parse().with_context(|| format!("no number before {text:?} in {shown}"))
}

fn iptables(line: &str) -> Result<String> {
    run(Command::new("iptables").arg("--wait").args(line.split_whitespace()))
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
