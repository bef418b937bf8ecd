//! What the engine or a hook has put into a network namespace, as requests of rtnetlink(7) that make the same in another:
//! the kernel's answers are its requests, once what it adds by itself is left out. Numbers of interfaces stay the same.

use std::collections::BTreeSet;
use std::io;

use super::netlink::{ACK, CREATE, Message, REPLACE, REQUEST, Socket, attribute, attributes, message};

/// `RTM_*` (linux/rtnetlink.h).
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;
const GET_NEIGHBOUR: u16 = 30;
const NEW_RULE: u16 = 32;
const GET_RULE: u16 = 34;

/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// `RTPROT_KERNEL`, and `RTPROT_RA`, which the guest's kernel learns by itself.
const BY_THE_KERNEL: u8 = 2;
const BY_ADVERTISEMENT: u8 = 9;

/// `RT_TABLE_LOCAL`, which the kernel fills.
const LOCAL_TABLE: u32 = 255;

/// `RTN_UNICAST`, and `RTN_BLACKHOLE` to `RTN_THROW`, which need no interface.
const UNICAST: u8 = 1;
const REFUSALS: std::ops::RangeInclusive<u8> = 6..=9;

/// `IFA_F_*`.
const TEMPORARY: u32 = 1;
const NO_DETECTION: u32 = 2;
const DETECTION: u32 = 0x8 | 0x40;

/// `NUD_PERMANENT`.
const PERMANENT: u16 = 0x80;

/// Attributes that are passed on, of addresses (`IFA_*`), routes (`RTA_*`), neighbours (`NDA_*`) and rules (`FRA_*`).
const OF_ADDRESSES: &[u16] = &[1, 2, 3, 4, 6, 9];
const OF_ROUTES: &[u16] = &[1, 2, 4, 5, 6, 7, 8, 9, 11, 15, 18, 20];
const OF_NEIGHBOURS: &[u16] = &[1, 2];
const OF_RULES: &[u16] = &[1, 2, 3, 4, 6, 10, 13, 14, 15, 16, 17, 20, 21, 22, 23, 24];

/// An interface that the guest is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) is_up: bool,
}

/// The interfaces of the calling thread's network namespace that carry Ethernet and belong to no bridge.
pub(super) fn links() -> io::Result<Vec<Link>> {
    Ok(Socket::route()?.dump(GET_LINK, &[0; 16])?.iter().filter_map(link).collect())
}

/// Requests that give these interfaces, under the same numbers, what they have here.
pub(super) fn requests(links: &[Link]) -> io::Result<Vec<Vec<u8>>> {
    let route = Socket::route()?;
    let indices: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
    let dump = |kind, size: usize| route.dump(kind, &vec![0; size]);
    let of = |answers: &[Message], convert: fn(&[u8], &BTreeSet<u32>) -> Option<Vec<u8>>| -> Vec<_> {
        answers.iter().filter_map(|message| convert(&message.body, &indices)).collect()
    };
    let mut all = of(&dump(GET_ADDRESS, 8)?, address);
    all.extend(links.iter().filter(|link| link.is_up).map(up));
    let routes = of(&dump(GET_ROUTE, 12)?, route_of);
    // A gateway must be reachable before a route goes by it.
    let (by_gateway, direct): (Vec<_>, Vec<_>) = routes.into_iter().partition(|route| has_gateway(route));
    all.extend(direct);
    all.extend(by_gateway);
    all.extend(of(&dump(GET_RULE, 12)?, rule));
    all.extend(of(&dump(GET_NEIGHBOUR, 12)?, neighbour));
    Ok(all)
}

fn link(message: &Message) -> Option<Link> {
    // `struct ifinfomsg`.
    let [_, _, t0, t1, i @ .., f0, f1, f2, f3] = *message.body.first_chunk::<12>()?;
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let found = attributes(message.body.get(16..)?);
    let value = |kind| found.iter().find(|(number, _)| *number == kind).map(|(_, value)| value.as_slice());
    // IFLA_MASTER.
    let is_wanted = message.kind == NEW_LINK
        && u16::from_ne_bytes([t0, t1]) == ETHERNET
        && flags & libc::IFF_LOOPBACK.cast_unsigned() == 0
        && value(10).is_none();
    let name = value(3)?.strip_suffix(&[0])?;
    is_wanted.then_some(Link {
        index: u32::from_ne_bytes(i),
        name: String::from_utf8(name.to_vec()).ok()?,
        mac: value(1)?.try_into().ok()?,
        mtu: u32::from_ne_bytes(value(4)?.try_into().ok()?),
        is_up: flags & libc::IFF_UP.cast_unsigned() != 0,
    })
}

fn up(link: &Link) -> Vec<u8> {
    let flag = libc::IFF_UP.cast_unsigned().to_ne_bytes();
    let body = [[0; 4], link.index.to_ne_bytes(), flag, flag].concat();
    message(NEW_LINK, REQUEST | ACK, &body)
}

fn make(kind: u16, header: &[u8], kept: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let attributes = kept.iter().map(|(number, value)| attribute(*number, value.clone()));
    let body = std::iter::once(header.to_vec()).chain(attributes).collect::<Vec<_>>().concat();
    message(kind, REQUEST | ACK | CREATE | REPLACE, &body)
}

fn kept(bytes: &[u8], numbers: &[u16]) -> Vec<(u16, Vec<u8>)> {
    attributes(bytes).into_iter().filter(|(number, _)| numbers.contains(number)).collect()
}

fn is_ip(family: u8) -> bool {
    [libc::AF_INET, libc::AF_INET6].contains(&family.into())
}

/// `struct ifaddrmsg`.
fn address(body: &[u8], indices: &BTreeSet<u32>) -> Option<Vec<u8>> {
    let (header, rest) = body.split_first_chunk::<8>()?;
    let [family, length, flags, scope, index @ ..] = *header;
    if !is_ip(family) || !indices.contains(&u32::from_ne_bytes(index)) {
        return None;
    }
    // IFA_FLAGS has those that the header has no room for.
    let all = attributes(rest).into_iter().find(|(number, _)| *number == 8);
    let all = all.and_then(|(_, value)| Some(u32::from_ne_bytes(value.try_into().ok()?)));
    let mut all = all.unwrap_or(flags.into());
    if i32::from(family) == libc::AF_INET6 {
        if all & TEMPORARY != 0 {
            return None;
        }
        // It is in use already, and nobody waits for the kernel to find out whether it is.
        all = all & !DETECTION | NO_DETECTION;
    }
    let header = [&[family, length, 0, scope][..], &index].concat();
    let mut kept = kept(rest, OF_ADDRESSES);
    kept.push((8, all.to_ne_bytes().to_vec()));
    Some(make(NEW_ADDRESS, &header, &kept))
}

/// `struct rtmsg`.
fn route_of(body: &[u8], indices: &BTreeSet<u32>) -> Option<Vec<u8>> {
    let (header, rest) = body.split_first_chunk::<12>()?;
    let [family, .., table, protocol, _scope, kind, _, _, _, _] = *header;
    let kept = kept(rest, OF_ROUTES);
    let number = |kind| {
        let (_, value) = kept.iter().find(|(number, _)| *number == kind)?;
        Some(u32::from_ne_bytes(value.as_slice().try_into().ok()?))
    };
    let table = number(15).unwrap_or(table.into());
    let here = |index: u32| indices.contains(&index);
    let hops = kept.iter().find(|(number, _)| *number == 9).map(|(_, value)| value.as_slice());
    let goes_there = match (kind, number(4), hops) {
        (UNICAST, Some(index), _) => here(index),
        (UNICAST, None, Some(hops)) => next_hops(hops).all(here),
        (kind, _, _) => REFUSALS.contains(&kind),
    };
    let is_made = [BY_THE_KERNEL, BY_ADVERTISEMENT].contains(&protocol) || table == LOCAL_TABLE;
    if !is_ip(family) || is_made || !goes_there {
        return None;
    }
    let mut header = *header;
    // Of the flags, RTNH_F_ONLINK is a wish; the rest is what the kernel has found.
    let flags = u32::from_ne_bytes(*header.last_chunk::<4>()?) & 4;
    *header.last_chunk_mut::<4>()? = flags.to_ne_bytes();
    Some(make(NEW_ROUTE, &header, &kept))
}

/// The interfaces in a list of `struct rtnexthop`.
fn next_hops(mut bytes: &[u8]) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let [l0, l1, _, _, index @ ..] = *bytes.first_chunk::<8>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1])).max(8).next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
        Some(u32::from_ne_bytes(index))
    })
}

/// Of a request that [`route_of`] has made: RTA_GATEWAY, RTA_MULTIPATH or RTA_VIA.
fn has_gateway(request: &[u8]) -> bool {
    let attributes = attributes(request.get(16 + 12..).unwrap_or_default());
    attributes.iter().any(|(number, _)| [5, 9, 18].contains(number))
}

/// `struct fib_rule_hdr`.
fn rule(body: &[u8], _: &BTreeSet<u32>) -> Option<Vec<u8>> {
    let (header, rest) = body.split_first_chunk::<12>()?;
    let kept = kept(rest, OF_RULES);
    // FRA_PROTOCOL: those with which every namespace begins.
    let is_made = kept.iter().any(|(number, value)| *number == 21 && value.first() == Some(&BY_THE_KERNEL));
    (is_ip(header[0]) && !is_made).then(|| make(NEW_RULE, header, &kept))
}

/// `struct ndmsg`.
fn neighbour(body: &[u8], indices: &BTreeSet<u32>) -> Option<Vec<u8>> {
    let (header, rest) = body.split_first_chunk::<12>()?;
    let [family, _, _, _, i0, i1, i2, i3, s0, s1, _, _] = *header;
    let is_wanted = is_ip(family)
        && u16::from_ne_bytes([s0, s1]) & PERMANENT != 0
        && indices.contains(&u32::from_ne_bytes([i0, i1, i2, i3]));
    is_wanted.then(|| make(NEW_NEIGHBOUR, header, &kept(rest, OF_NEIGHBOURS)))
}
