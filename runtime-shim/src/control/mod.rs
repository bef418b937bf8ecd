//! The monitor's control socket, `<root>/<id>/control.sock`: how commands reach a container that runs.
//!
//! One packet asks, one answers (`SOCK_SEQPACKET`, JSON). There are two requests of commands: a connection to a port of
//! the guest, which is passed back as a descriptor, and the start of the workload. Whatever else a command wants it
//! asks the agent itself, so that a command that gets stuck is in nobody's way. The monitors of containers that go into
//! the same machine ask for a place in it ([`members`]).
//!
//! [`server`] runs in the monitor, a thread for each connection; [`client`] in commands.

pub(crate) mod agent;
pub(crate) mod client;
pub(crate) mod members;
pub(crate) mod message;
pub(crate) mod server;
