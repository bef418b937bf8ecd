//! virtio-fs (virtio 1.2 section 5.11): virtiofsd as a library serves what [`share`] shows of the host.
//!
//! FUSE, path resolution and credentials are virtiofsd's. Here is the queue work: virtiofsd's own vhost-user
//! backend ends the process at the first chain that it cannot read, and would bring a thread pool along.
//! One thread serves all requests, in order: a pool of threads costs two wake-ups per request and gains only
//! where the host's disk, not the guest, is what one waits for.

use std::io;
use std::time::Duration;

use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{InHeader, Opcode, OutHeader};
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::server::Server;

use crate::device::Device;
use crate::queue::{Chain, DeviceQueue, GuestRam};

pub mod options;
mod reply;
pub mod share;

/// One queue for urgent requests, one for all others (virtio 1.2 section 5.11.2).
const QUEUE_COUNT: usize = 2;

/// The device. Its configuration space, which holds the tag, is the frontend's: QEMU insists, and warns of a
/// backend that offers one.
pub struct FsDevice {
    server: Server<PassthroughFs>,
    absence: Duration,
}

/// Why the share cannot be served.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message is the documentation")]
pub enum FsError {
    #[error("cannot open /proc/self/fd for the share")]
    ProcSelfFd(#[source] io::Error),
    #[error("cannot open the share")]
    Open(#[source] io::Error),
}

impl FsDevice {
    /// Serves `file_system`. `absence` is for how long the guest may remember that there is no such file.
    #[must_use]
    pub fn new(file_system: PassthroughFs, absence: Duration) -> Self {
        Self { server: Server::new(file_system), absence }
    }

    /// Serves one request; returns how many bytes the reply has.
    fn serve(&self, memory: &GuestRam, chain: Chain<'_>) -> u32 {
        let Ok(mut peek) = Reader::new(memory, chain.clone()) else { return 0 };
        let Ok(header) = peek.read_obj::<InHeader>() else { return 0 };
        let (Ok(reader), Ok(writer)) =
            (Reader::new(memory, chain.clone()), Writer::new(memory, chain.clone()))
        else {
            return 0;
        };
        // virtiofsd panics where a reply does not even have room for its header. (A driver that changes the
        // opcode after this look still ends this process, which is its own sandbox's alone.)
        if writer.available_bytes() < size_of::<OutHeader>() && expects_reply(header.opcode) {
            return 0;
        }
        let Ok(length) = self.server.handle_message(reader, writer, None::<&mut ()>) else { return 0 };
        u32::try_from(reply::amend(memory, chain, &header, length, self.absence)).unwrap_or(0)
    }
}

/// Whether a FUSE request is answered (`fuse_force_forget` and its kin in Linux's fs/fuse/dev.c send without).
fn expects_reply(opcode: u32) -> bool {
    const NO_REPLY: [Opcode; 4] = [Opcode::Forget, Opcode::BatchForget, Opcode::Interrupt, Opcode::Destroy];
    !NO_REPLY.iter().any(|&silent| silent as u32 == opcode)
}

impl Device for FsDevice {
    fn queue_count(&self) -> usize {
        QUEUE_COUNT
    }

    fn process_queue(&mut self, index: usize, queues: &mut [DeviceQueue<'_>]) {
        if let Some(queue) = queues.get_mut(index) {
            queue.drain(|memory, chain| self.serve(memory, chain));
        }
    }
}

#[cfg(test)]
mod tests;
