//! virtio-vsock (virtio 1.2 section 5.10) whose host side is unix sockets, as Firecracker's "hybrid vsock".
//!
//! ```text
//!   host program ── vsock.sock: "CONNECT 1024\n", "OK 1073741824\n" ──┐
//!                                                                     ├── muxer ── queues ── guest
//!   host program <── vsock.sock_1025 <── guest connects to 2:1025 ────┘
//! ```
//!
//! While no guest is up, a host program's connection is closed at once: it tries again. Where nobody listens, on
//! either side, the other is told at once: the guest by a reset, the host's program by the end of the stream (or by
//! a reset of its own, ECONNRESET or EPIPE, where the device closed before it had read what the program said).
//! A service of the host whose backlog is full counts as one that does not listen.
//!
//! Only stream sockets. One thread does everything, and nothing that it does waits for anyone.
//!
//! | module | knows |
//! |---|---|
//! | `device` | which queue is which |
//! | `muxer` | which connection a packet is for, who may connect |
//! | `table` | the connections, what is watched of their sockets, whose turn it is |
//! | `connection`, `credit` | one connection: its life, its flow control |
//! | `rx_queue`, `packet`, `guest_io` | guest memory |
//! | `host_socket` | unix sockets |

use std::io;

mod connection;
mod credit;
mod device;
mod guest_io;
mod host_socket;
mod muxer;
mod packet;
mod rx_queue;
mod table;

pub use device::VsockDevice;

/// Why the device cannot be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message is the documentation")]
pub enum VsockError {
    #[error("{0} cannot be a guest's context id; take one above 2")]
    Cid(u32),
    #[error("cannot watch the host's side of the vsock device")]
    Watch(#[source] io::Error),
}

#[cfg(test)]
mod tests;
