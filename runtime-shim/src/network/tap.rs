//! A tap: an interface of the host whose other end is a descriptor, or several: queues, among which it shares its frames out
//! by what they belong to. It goes when its last descriptor does.

#![allow(unsafe_code, reason = "the ioctls of a tap have no safe wrappers")]

use std::io;
use std::num::NonZeroU8;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::netlink::{ACK, CREATE, REPLACE, REQUEST, Socket, attribute, message, nested, text};

/// linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUNSETQUEUE: libc::c_ulong = 0x4004_54d9;
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// `struct virtio_net_hdr_v1`.
static HEADER_SIZE: libc::c_int = 12;

/// `RTM_NEWLINK`, its attributes, and `IN6_ADDR_GEN_MODE_NONE`.
const NEW_LINK: u16 = 16;
const IFLA_MTU: u16 = 4;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const NO_ADDRESSES: u8 = 1;

/// `RTM_NEWQDISC`, `TC_H_ROOT`, `TCA_KIND`.
const NEW_QDISC: u16 = 36;
const ROOT: u32 = u32::MAX;
const TCA_KIND: u16 = 1;

/// Names of taps begin with it.
pub(super) const PREFIX: &[u8] = b"runv";

/// The kernel puts a number in its place.
const NUMBER: &[u8] = b"%d";

/// A tap in the calling thread's network namespace.
#[derive(Debug)]
pub(super) struct Tap {
    /// All but the first are detached until the device makes use of them.
    pub(super) queues: Vec<OwnedFd>,
    pub(super) name: String,
    pub(super) index: u32,
}

impl Tap {
    /// Makes one with so many queues, not yet up.
    pub(super) fn new(queues: NonZeroU8) -> io::Result<Self> {
        let several = if queues.get() > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        let mut request = request(FLAGS | several)?;
        for (to, from) in request.ifr_name.iter_mut().zip([PREFIX, NUMBER].concat()) {
            *to = from.cast_signed();
        }
        let first = queue(&mut request)?;
        // SAFETY: TUNSETVNETHDRSZ reads one int, which is live.
        done(unsafe { libc::ioctl(first.as_raw_fd(), TUNSETVNETHDRSZ, &raw const HEADER_SIZE) })?;
        let name = request.ifr_name.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0);
        let name = String::from_utf8(name.collect()).map_err(io::Error::other)?;
        let any = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let index = name_to_index(any, &name)?;
        let mut all = vec![first];
        for _ in 1..queues.get() {
            // It has got the name of the first.
            let more = queue(&mut request)?;
            let detach = self::request(libc::IFF_DETACH_QUEUE)?;
            // SAFETY: TUNSETQUEUE reads one `ifreq`, which is live.
            done(unsafe { libc::ioctl(more.as_raw_fd(), TUNSETQUEUE, &raw const detach) })?;
            all.push(more);
        }
        Ok(Self { queues: all, name, index })
    }
}

fn request(flags: libc::c_int) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is a plain structure of integers and arrays, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    Ok(request)
}

/// A queue of the tap that `request` names, which is made if it is not there.
fn queue(request: &mut libc::ifreq) -> io::Result<OwnedFd> {
    let fd = openat(CWD, "/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which is live and whose name is NUL-terminated.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut *request) })?;
    Ok(fd)
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
    // A tap drops what it has no room for, and never asks who sends to wait. So what would wait in front of it, for which the
    // kernel may take some megabytes if there are several queues, is never needed; where it stays, that is all.
    let _ = route.execute(&message(NEW_QDISC, REQUEST | ACK | CREATE | REPLACE, &no_queueing(index)), 1);
    let body = [header, attribute(IFLA_MTU, mtu.to_ne_bytes())].concat();
    route.execute(&message(NEW_LINK, REQUEST | ACK, &body), 1)
}

/// The queueing discipline `noqueue` at the root: a `tcmsg` and its kind.
fn no_queueing(index: u32) -> Vec<u8> {
    let header = [0, index, 0, ROOT, 0].map(u32::to_ne_bytes).concat();
    [header, text(TCA_KIND, "noqueue")].concat()
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
