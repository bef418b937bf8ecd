//! A network namespace for a container, joined by a veth to the namespace in which the tests run, which is their own.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Deadline;

/// A namespace under `/run/netns` with an interface `net7` (10.77.N.2, fd77:N::2); its peer here has the
/// addresses that end with 1. Dropped, both are gone.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    number: u8,
}

/// Of the interface in the namespace.
pub const MTU: u32 = 1420;

impl Namespace {
    /// With numbers that no other test uses at the same time.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(number: u8) -> Result<Self> {
        let namespace = Self { name: format!("net{number}"), number };
        let (name, peer, n) = (&namespace.name, namespace.peer(), number);
        for line in [
            format!("netns add {name}"),
            format!("link add {peer} mtu {MTU} type veth peer name net7 mtu {MTU} netns {name}"),
            format!("addr add 10.77.{n}.1/24 dev {peer}"),
            format!("-6 addr add fd77:{n}::1/64 dev {peer} nodad"),
            format!("link set {peer} up"),
            format!("-n {name} link set net7 address {} up", namespace.mac()),
            format!("-n {name} addr add 10.77.{n}.2/24 broadcast 10.77.{n}.255 dev net7"),
            format!("-n {name} -6 addr add fd77:{n}::2/64 dev net7 nodad"),
            format!("-n {name} route add default via 10.77.{n}.1"),
            format!("-n {name} route add 192.0.2.0/24 via 10.77.{n}.1 metric 7"),
            format!("-n {name} route add unreachable 198.51.100.0/24"),
            format!("-n {name} -6 route add default via fd77:{n}::1"),
            format!("-n {name} neigh add 10.77.{n}.9 lladdr 02:00:00:00:00:09 dev net7"),
            format!("-n {name} rule add from 10.77.{n}.2 lookup 100 priority 1000"),
        ] {
            ip(&line)?;
        }
        namespace.wait_for_carrier()?;
        Ok(namespace)
    }

    /// The kernel notes a moment later that both ends are connected.
    fn wait_for_carrier(&self) -> Result<()> {
        for end in [format!("-n {} -o link show net7", self.name), format!("-o link show {}", self.peer())] {
            Deadline::generous()?
                .wait_for("the carrier", || Ok(ip(&end)?.contains("state UP").then_some(())))?;
        }
        Ok(())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Address of the interface in it.
    #[must_use]
    pub fn mac(&self) -> String {
        format!("02:77:00:00:00:{:02x}", self.number)
    }

    /// The veth's other end.
    #[must_use]
    pub fn peer(&self) -> String {
        format!("peer{}", self.number)
    }

    /// A server in it.
    ///
    /// # Errors
    /// When it cannot listen at `address`.
    pub fn listen(&self, address: &str) -> Result<TcpListener> {
        let namespace = File::open(self.path()).context("cannot open the namespace")?;
        let listen = || {
            // A thread of its own, which nobody else's work comes to.
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            TcpListener::bind(address)
        };
        let listener = thread::scope(|scope| scope.spawn(listen).join());
        listener
            .map_err(|_| anyhow!("the thread panicked"))?
            .with_context(|| format!("cannot listen at {address}"))
    }

    /// Runs tc(8) for both ends of the veth, one after the other; the device is put between the words.
    ///
    /// # Errors
    /// When it fails, with what it says.
    pub fn tc(&self, before: &str, after: &str) -> Result<String> {
        let tc = |line: String| run(Command::new("tc").args(line.split_whitespace()));
        Ok(tc(format!("{before} dev {} {after}", self.peer()))?
            + &tc(format!("-n {} {before} dev net7 {after}", self.name))?)
    }

    /// The interfaces in it, and their queueing.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn inside(&self) -> Result<String> {
        Ok(ip(&format!("-n {} -o link show", self.name))?
            + &run(Command::new("tc").args(["-n", &self.name, "qdisc", "show"]))?)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The test's own error is the one to tell.
        let _ = ip(&format!("netns del {}", self.name));
        let _ = ip(&format!("link del {}", self.peer()));
    }
}

/// Runs ip(8) with the words of a line.
///
/// # Errors
/// When it fails, with what it says.
pub fn ip(line: &str) -> Result<String> {
    run(Command::new("ip").args(line.split_whitespace()))
}

/// Runs a command, and gives what it says.
///
/// # Errors
/// When it fails, with what it says.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
