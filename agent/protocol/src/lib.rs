//! The agent's API: messages and the ttrpc service, with the facts about vsock that both sides must agree on.
//!
//! `proto/agent.proto` is the source. The shim uses the feature `client`, the agent `server`; neither side
//! knows anything else of the other.

/// The messages of `proto/agent.proto`.
#[allow(warnings, clippy::all, clippy::restriction, clippy::pedantic, clippy::nursery, reason = "generated code")]
#[rustfmt::skip]
pub mod agent {
    include!(concat!(env!("OUT_DIR"), "/sync/agent.rs"));
}

/// The shim's side: a blocking client.
#[cfg(feature = "client")]
#[allow(warnings, clippy::all, clippy::restriction, clippy::pedantic, clippy::nursery, reason = "generated code")]
#[rustfmt::skip]
pub mod client {
    include!(concat!(env!("OUT_DIR"), "/sync/agent_ttrpc.rs"));
}

/// The agent's side: the trait that it implements, served asynchronously.
#[cfg(feature = "server")]
#[allow(warnings, clippy::all, clippy::restriction, clippy::pedantic, clippy::nursery, reason = "generated code")]
#[rustfmt::skip]
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/async/agent_ttrpc.rs"));
}

/// Vsock port in the guest on which the agent serves ttrpc.
pub const AGENT_PORT: u32 = 1024;

/// Vsock port in the guest that takes stdio streams: the connecting side first sends its token, 8 bytes,
/// big endian; see `Streams` in the protocol.
pub const STREAM_PORT: u32 = 1025;

/// Vsock port on the host to which the agent connects, once, to say [`HELLO`].
pub const READY_PORT: u32 = 1024;

/// Vsock ports on the host that lead to a name server which the engine has put into the container's network namespace: one for
/// connections, one for datagrams; see `Resolver` in the protocol.
pub const RESOLVER_PORTS: [u32; 2] = [1025, 1026];

/// What the agent says when it serves: the name of this protocol and its version.
pub const HELLO: &[u8] = b"runv-agent 1\n";

/// Tag of the virtio-fs share that holds the root file systems and bind mounts.
pub const SHARE_TAG: &str = "runv";

/// I/O port of the debug-exit device: [`POWER_OFF_BYTE`] written there powers the guest off.
pub const POWER_OFF_PORT: u16 = 0x501;

/// What is written to [`POWER_OFF_PORT`]. QEMU exits with twice the byte plus 1, so that 0 would look like a
/// failure of QEMU's own.
pub const POWER_OFF_BYTE: u8 = 0x10;
