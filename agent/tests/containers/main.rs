//! Containers built for real on this host: namespaces, mounts, cgroup, stdio; all but the VM.
//!
//! Needs root, a cgroup v2 mount and busybox (Debian: busybox-static). The harness has one thread, because
//! the agent has: its children are forks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test without the standard harness is still a test"
)]

mod guest;

mod descriptors;
mod errors;
mod exec;
mod filesystem;
mod hostile;
mod life;
mod lives;
mod neighbours;
mod process;
mod relays;
mod resources;
mod rights;
mod rpc;
mod sockets;
mod stdio;
mod terminal;
mod upper;

use libtest_mimic::{Arguments, Trial};

/// A test gets a fresh guest and panics to fail.
type Test = (&'static str, fn());

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    guest::enter();
    let groups: [(&str, &[Test]); 16] = [
        ("descriptors", descriptors::TESTS),
        ("errors", errors::TESTS),
        ("exec", exec::TESTS),
        ("filesystem", filesystem::TESTS),
        ("hostile", hostile::TESTS),
        ("life", life::TESTS),
        ("lives", lives::TESTS),
        ("neighbours", neighbours::TESTS),
        ("process", process::TESTS),
        ("resources", resources::TESTS),
        ("rights", rights::TESTS),
        ("rpc", rpc::TESTS),
        ("sockets", sockets::TESTS),
        ("stdio", stdio::TESTS),
        ("terminal", terminal::TESTS),
        ("upper", upper::TESTS),
    ];
    let trials = groups.into_iter().flat_map(|(group, tests)| {
        tests.iter().map(move |&(name, test)| {
            Trial::test(format!("{group}::{name}"), move || {
                test();
                Ok(())
            })
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
