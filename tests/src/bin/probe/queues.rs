//! What a network device has counted, queue by queue, and how many of them it uses (linux/ethtool.h), as by `ethtool -S` and `-L`.
#![allow(unsafe_code, reason = "an ioctl for which there is no safe function")]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use nix::libc;

/// `SIOCETHTOOL`.
const ETHTOOL: libc::c_ulong = 0x8946;

/// `ETHTOOL_GSSET_INFO`, `_GSTRINGS` and `_GSTATS`, and `ETH_SS_STATS`.
const NUMBER: u32 = 0x37;
const NAMES: u32 = 0x1b;
const VALUES: u32 = 0x1d;
const STATISTICS: u32 = 1;

/// `ETHTOOL_SCHANNELS`.
const USE: u32 = 0x3d;

/// Of a name.
const NAME_SIZE: usize = 32;

/// Prints a line for each, name and value.
pub(crate) fn show(interface: &str) -> Result<()> {
    let set = [u32::to_ne_bytes(NUMBER), [0; 4], u32::to_ne_bytes(1 << STATISTICS), [0; 4], [0; 4]];
    let mut number = set.concat();
    ask(interface, &mut number)?;
    let count = *number.last_chunk::<4>().context("no number")?;
    let many = usize::try_from(u32::from_ne_bytes(count))?;
    let mut names = [u32::to_ne_bytes(NAMES), STATISTICS.to_ne_bytes(), count].concat();
    names.resize(names.len() + many * NAME_SIZE, 0);
    ask(interface, &mut names)?;
    let mut values = [u32::to_ne_bytes(VALUES), count].concat();
    values.resize(values.len() + many * 8, 0);
    ask(interface, &mut values)?;
    for (name, value) in names[12..].chunks(NAME_SIZE).zip(values[8..].chunks(8)) {
        let name = String::from_utf8_lossy(name);
        println!("{}: {}", name.trim_end_matches('\0'), u64::from_ne_bytes(value.try_into()?));
    }
    Ok(())
}

/// Makes use of so many pairs.
pub(crate) fn set(interface: &str, pairs: u32) -> Result<()> {
    // The most of each kind, which only the kernel says, and how many of each there are to be: pairs are the last.
    let mut command = [USE, 0, 0, 0, 0, 0, 0, 0, pairs].map(u32::to_ne_bytes).concat();
    ask(interface, &mut command)
}

fn ask(interface: &str, command: &mut [u8]) -> Result<()> {
    let any = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: `ifreq` is a plain structure of integers and arrays, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    ensure!(interface.len() < libc::IFNAMSIZ, "{interface} is no name of an interface");
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = command.as_mut_ptr().cast();
    // SAFETY: the name ends with NUL, and `command` is as long as the command and the number in it say.
    let done = unsafe { libc::ioctl(any.as_raw_fd(), ETHTOOL, &raw mut request) };
    ensure!(done == 0, "{interface}: {}", io::Error::last_os_error());
    Ok(())
}
