//! The host's end of the cable: a tap that somebody else has made, with a header of 12 bytes before each frame.

#![allow(unsafe_code, reason = "the ioctls of a tap have no safe wrappers")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
};

/// What a guest may be ready to receive, and the tap's flag for it (linux/if_tun.h, `TUN_F_*`).
const OFFLOADS: [(u32, libc::c_ulong); 4] = [
    (VIRTIO_NET_F_GUEST_CSUM, 1),
    (VIRTIO_NET_F_GUEST_TSO4, 2),
    (VIRTIO_NET_F_GUEST_TSO6, 4),
    (VIRTIO_NET_F_GUEST_ECN, 8),
];

/// `_IOW('T', 208, unsigned int)`.
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;

/// `_IOW('T', 217, int)`, with an `ifreq` of which it reads the flags.
const TUNSETQUEUE: libc::c_ulong = 0x4004_54d9;

/// A queue of a tap, or anything else that keeps frames apart, such as a socket of datagrams.
#[derive(Debug)]
pub(super) struct Tap(OwnedFd);

impl Tap {
    /// Takes it over. Errors are those of ioctl(2).
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(fd))
    }

    /// The features of a guest that it can serve: frames without a checksum, or larger than the MTU.
    pub(super) fn features(&self) -> u64 {
        let all = OFFLOADS.iter().fold(0, |all, (feature, _)| all | 1 << feature);
        if self.set_features(all) { all } else { 0 }
    }

    /// From now on frames come only as a guest takes them that has acknowledged `features`. Whether it can do that.
    pub(super) fn set_features(&self, features: u64) -> bool {
        let flags = OFFLOADS
            .iter()
            .filter(|(feature, _)| features & (1 << feature) != 0)
            .fold(0, |flags, (_, flag)| flags | flag);
        // SAFETY: TUNSETOFFLOAD takes its argument as a number and touches no memory; any other file refuses it.
        unsafe { libc::ioctl(self.0.as_raw_fd(), TUNSETOFFLOAD, flags) == 0 }
    }

    /// Whether the host may choose this queue for frames. False if it cannot do so; what is no tap has one queue, which it may.
    pub(super) fn attach(&self, attached: bool) -> bool {
        // SAFETY: `ifreq` is a plain structure of integers and arrays, for which zero is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let flag = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flag).unwrap_or(0);
        // SAFETY: TUNSETQUEUE reads one `ifreq`, which is live.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), TUNSETQUEUE, &raw const request) };
        done == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::ENOTTY)
    }

    /// The length of the next frame with its header, if one is there.
    pub(super) fn receive(&self, packet: &mut [u8]) -> Option<usize> {
        // An error is that there is none, or that the interface is down or gone, which is to the guest like a cable
        // without signal.
        rustix::io::read(&self.0, packet).ok().filter(|length| *length > 0)
    }

    /// Sends a frame with its header. A network may lose frames, and what the host does not take is lost.
    pub(super) fn send(&self, packet: &[u8]) {
        let _ = rustix::io::write(&self.0, packet);
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
