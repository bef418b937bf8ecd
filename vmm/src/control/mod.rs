//! The wire between driver `builtin` and the VMM process: the configuration that the process reads once,
//! and the messages of the control socket.
//!
//! Both ends come from the same build and are one package, so there is no version to negotiate. The socket
//! is `SOCK_SEQPACKET`: a message is one packet, and end of file means that the peer is gone. The process
//! reads from it on its main thread only; the driver on its caller's.

mod inherited;
mod message;
mod process_config;

pub use inherited::{InheritError, inherit};
pub use message::{Channel, ChannelError, FromProcess, ToProcess};
pub use process_config::{BootFile, DeviceSocket, FdNumber, ProcessConfig};
