//! A tap: an interface of the host whose other end is a descriptor. It goes when its last descriptor does.

#![allow(unsafe_code, reason = "the ioctls of a tap have no safe wrappers")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::netlink::{ACK, REQUEST, Socket, attribute, message, nested};

/// linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// `struct virtio_net_hdr_v1`.
static HEADER_SIZE: libc::c_int = 12;

/// `RTM_NEWLINK`, its attributes, and `IN6_ADDR_GEN_MODE_NONE`.
const NEW_LINK: u16 = 16;
const IFLA_MTU: u16 = 4;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const NO_ADDRESSES: u8 = 1;

/// Names of taps begin with it.
pub(super) const PREFIX: &[u8] = b"runv";

/// The kernel puts a number in its place.
const NUMBER: &[u8] = b"%d";

/// A tap in the calling thread's network namespace.
#[derive(Debug)]
pub(super) struct Tap {
    pub(super) fd: OwnedFd,
    pub(super) name: String,
    pub(super) index: u32,
}

impl Tap {
    /// Makes one, not yet up.
    pub(super) fn new() -> io::Result<Self> {
        let fd = openat(CWD, "/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // SAFETY: `ifreq` is a plain structure of integers and arrays, for which zero is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip([PREFIX, NUMBER].concat()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(FLAGS).map_err(io::Error::other)?;
        // SAFETY: TUNSETIFF reads and writes one `ifreq`, which is live and whose name is NUL-terminated.
        done(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
        // SAFETY: TUNSETVNETHDRSZ reads one int, which is live.
        done(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &raw const HEADER_SIZE) })?;
        let name = request.ifr_name.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0);
        let name = String::from_utf8(name.collect()).map_err(io::Error::other)?;
        let any = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let index = name_to_index(any, &name)?;
        Ok(Self { fd, name, index })
    }
}

/// Brings the tap of that number up. The host's own stack says nothing on it: it gets no address.
pub(super) fn bring_up(index: u32, mtu: u32) -> io::Result<()> {
    let up = libc::IFF_UP.cast_unsigned().to_ne_bytes();
    let header = [[0; 4], index.to_ne_bytes(), up, up].concat();
    let silence = attribute(IFLA_INET6_ADDR_GEN_MODE, [NO_ADDRESSES]);
    let inet6 = u16::try_from(libc::AF_INET6).map_err(io::Error::other)?;
    let route = Socket::route()?;
    // A host without IPv6 has nothing to silence.
    let silenced = [header.clone(), nested(IFLA_AF_SPEC, &[nested(inet6, &[silence])])].concat();
    let _ = route.execute(&message(NEW_LINK, REQUEST | ACK, &silenced), 1);
    let body = [header, attribute(IFLA_MTU, mtu.to_ne_bytes())].concat();
    route.execute(&message(NEW_LINK, REQUEST | ACK, &body), 1)
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
