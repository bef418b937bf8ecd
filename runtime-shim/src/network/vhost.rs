//! vhost-net: the host's kernel moves frames between a guest's rings and a tap. The device process, which has no path to the
//! device, is given it open.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::config::Vhost;

/// The device.
pub(crate) const PATH: &str = "/dev/vhost-net";

/// Opens it so often, or not at all where that is meant, or where it cannot be had and need not.
pub(super) fn open(wanted: Vhost, count: usize) -> io::Result<Vec<OwnedFd>> {
    if wanted == Vhost::Off {
        return Ok(Vec::new());
    }
    let all = (0..count).map(|_| open_once()).collect();
    match (wanted, all) {
        (Vhost::Auto, Err(error)) => {
            tracing::debug!(%error, "the host has no vhost-net");
            Ok(Vec::new())
        }
        (_, all) => all,
    }
}

/// Opens it.
pub(crate) fn open_once() -> io::Result<OwnedFd> {
    Ok(openat(CWD, PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}
