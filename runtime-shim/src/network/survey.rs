//! What the engine or a hook has put into a network namespace, as requests of rtnetlink(7) that make the same in another:
//! the kernel's answers are its requests, once what it adds by itself is left out. Numbers of interfaces stay the same.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;

use super::netlink::{ACK, CREATE, Message, REPLACE, REQUEST, Socket, attribute, attributes, message, parse};
use super::tap;

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

/// The interfaces of the calling thread's network namespace that carry Ethernet, belong to no bridge and are no tap of a
/// sandbox.
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

/// Files in an interface's directory of /proc/sys/net/ipv6/conf by which an engine keeps it from IPv6 and from what is
/// advertised, with the values with which a kernel begins.
const IPV6: [(&str, u32); 4] =
    [("disable_ipv6", 0), ("accept_ra", 1), ("autoconf", 1), ("accept_redirects", 1)];

/// Those of an interface of the calling thread's network namespace that have another value.
pub(super) fn ipv6_settings(name: &str) -> HashMap<String, u32> {
    let directory = Path::new("/proc/sys/net/ipv6/conf").join(name);
    ipv6_settings_in(&directory)
}

/// A host without IPv6 has no such directory.
fn ipv6_settings_in(directory: &Path) -> HashMap<String, u32> {
    let other = |(file, usual): (&str, u32)| {
        let value = std::fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok()?;
        (value != usual).then(|| (file.to_owned(), value))
    };
    IPV6.into_iter().filter_map(other).collect()
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
    // IFLA_LINKINFO with IFLA_INFO_KIND.
    let kind = value(18).and_then(|info| attributes(info).into_iter().find(|(number, _)| *number == 1));
    let is_own = kind.is_some_and(|(_, kind)| kind.starts_with(b"tun")) && name.starts_with(tap::PREFIX);
    (is_wanted && !is_own).then_some(Link {
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

/// What takes back what a request of [`requests`] has made.
pub(super) fn undo(request: &[u8]) -> Option<Vec<u8>> {
    let Message { kind, body } = parse(request).pop()?;
    match kind {
        NEW_LINK => {
            let mut body = body;
            body.get_mut(8..12)?.fill(0);
            Some(message(NEW_LINK, REQUEST | ACK, &body))
        }
        // RTM_DEL* follow RTM_NEW*.
        NEW_ADDRESS | NEW_ROUTE | NEW_NEIGHBOUR | NEW_RULE => Some(message(kind + 1, REQUEST | ACK, &body)),
        _ => None,
    }
}

/// Whether a request makes a rule, which the kernel makes a second time if it is asked to.
pub(super) fn is_rule(request: &[u8]) -> bool {
    request.get(4..6) == Some(&NEW_RULE.to_ne_bytes())
}

/// The interface that a request brings up.
pub(super) fn brought_up(request: &[u8]) -> Option<u32> {
    let is_link = request.get(4..6) == Some(&NEW_LINK.to_ne_bytes());
    let index = request.get(20..24)?.first_chunk().map(|index| u32::from_ne_bytes(*index));
    index.filter(|_| is_link)
}

/// What a request is about: an address is the same whatever time it has left.
pub(super) fn subject(request: &[u8]) -> Vec<u8> {
    match (parse(request).pop(), request.get(..16 + 8)) {
        (Some(Message { kind: NEW_ADDRESS, body }), Some(header)) => {
            let mut subject = header.get(4..).unwrap_or_default().to_vec();
            for (number, value) in attributes(body.get(8..).unwrap_or_default()) {
                // Not IFA_CACHEINFO and IFA_FLAGS.
                if ![6, 8].contains(&number) {
                    subject.extend(attribute(number, value));
                }
            }
            subject
        }
        _ => request.to_vec(),
    }
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

#[cfg(test)]
mod tests {
    use super::super::netlink::nested;
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn here() -> BTreeSet<u32> {
        BTreeSet::from([7])
    }

    /// `struct ifinfomsg` with attributes.
    fn told(kind: u16, flags: i32, more: &[Vec<u8>]) -> Option<Link> {
        let header = [&[0, 0][..], &kind.to_ne_bytes(), &7u32.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 4]];
        let mut body = header.concat();
        body.extend(attribute(3, b"eth0\0"));
        body.extend(more.concat());
        link(&Message { kind: NEW_LINK, body })
    }

    fn usual() -> [Vec<u8>; 2] {
        [attribute(1, MAC), attribute(4, 1500u32.to_ne_bytes())]
    }

    #[test]
    fn interfaces_that_carry_ethernet_and_belong_to_no_bridge_are_the_guests() {
        let expected = Link { index: 7, name: "eth0".into(), mac: MAC, mtu: 1500, is_up: true };
        assert_eq!(told(ETHERNET, libc::IFF_UP, &usual()), Some(expected));
        assert!(!told(ETHERNET, 0, &usual()).unwrap().is_up);
        assert_eq!(told(ETHERNET, libc::IFF_LOOPBACK, &usual()), None);
        // ARPHRD_TUNNEL.
        assert_eq!(told(768, libc::IFF_UP, &usual()), None);
        let port = [&usual()[..], &[attribute(10, 3u32.to_ne_bytes())]].concat();
        assert_eq!(told(ETHERNET, libc::IFF_UP, &port), None);
        let of_kind = |kind: &[u8]| nested(18, &[attribute(1, kind)]);
        assert!(told(ETHERNET, libc::IFF_UP, &[&usual()[..], &[of_kind(b"tun\0")]].concat()).is_some());
        let short = [attribute(1, [2; 5]), attribute(4, 1500u32.to_ne_bytes())];
        assert_eq!(told(ETHERNET, libc::IFF_UP, &short), None);
        assert_eq!(told(ETHERNET, libc::IFF_UP, &usual()[..1]), None);
        assert_eq!(link(&Message { kind: NEW_LINK, body: vec![0; 11] }), None);
    }

    #[test]
    fn of_ipv6_what_is_not_usual_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
        write("disable_ipv6", "0\n");
        write("accept_ra", "0\n");
        write("autoconf", "what\n");
        assert_eq!(ipv6_settings_in(directory.path()), HashMap::from([("accept_ra".to_owned(), 0)]));
        assert_eq!(ipv6_settings_in(Path::new("/nonexistent")), HashMap::new());
    }

    #[test]
    fn taps_of_sandboxes_are_nobodys() {
        let named = |name: &[u8], kind: &[u8]| {
            let mut body = [&[0, 0, 1, 0, 7, 0, 0, 0][..], &[0; 8]].concat();
            body.extend(
                [&usual()[..], &[attribute(3, name), nested(18, &[attribute(1, kind)])]].concat().concat(),
            );
            link(&Message { kind: NEW_LINK, body }).is_some()
        };
        assert!(!named(b"runv0\0", b"tun\0"));
        assert!(named(b"runv0\0", b"veth\0") && named(b"tap0\0", b"tun\0"));
    }

    #[test]
    fn what_has_been_made_is_taken_back_by_the_same_words() {
        let request = told_address(libc::AF_INET, 7, 0x80).unwrap();
        let [made, back] = [&request, &undo(&request).unwrap()].map(|bytes| parse(bytes).pop().unwrap());
        // RTM_DELADDR.
        assert_eq!((made.kind, back.kind), (NEW_ADDRESS, 21));
        assert_eq!(made.body, back.body);
        let one = Link { index: 7, name: "eth0".into(), mac: MAC, mtu: 1500, is_up: true };
        assert_eq!(brought_up(&up(&one)), Some(7));
        let down = parse(&undo(&up(&one)).unwrap()).pop().unwrap();
        assert_eq!(
            (down.kind, &down.body[4..12], &down.body[12..]),
            (NEW_LINK, &[7, 0, 0, 0, 0, 0, 0, 0][..], &[1, 0, 0, 0][..])
        );
        assert_eq!((undo(&[]), undo(&message(GET_LINK, 0, &[])), brought_up(&request)), (None, None, None));
    }

    #[test]
    fn an_address_is_the_same_whatever_time_it_has_left() {
        let header = [&[10, 64, 0x80, 0][..], &7u32.to_ne_bytes()].concat();
        let told = |last: u8, seconds: u8| {
            // IFA_ADDRESS; IFA_CACHEINFO.
            let more = [attribute(1, [last; 16]), attribute(6, [seconds; 16])].concat();
            address(&[&header[..], &more].concat(), &here()).unwrap()
        };
        assert_ne!(told(1, 9), told(1, 8));
        assert_eq!(subject(&told(1, 9)), subject(&told(1, 8)));
        assert_ne!(subject(&told(1, 9)), subject(&told(2, 9)));
        assert_eq!(subject(&[1, 2]), [1, 2]);
    }

    /// The attributes of a request that was made of a header of `size` bytes.
    fn passed_on(request: &[u8], size: usize) -> Vec<(u16, Vec<u8>)> {
        attributes(&request[16 + size..])
    }

    fn told_address(family: i32, index: u32, flags: u32) -> Option<Vec<u8>> {
        let family = u8::try_from(family).unwrap();
        let header = [&[family, 24, 0x80, 0][..], &index.to_ne_bytes()].concat();
        // IFA_LOCAL; IFA_ANYCAST, which is no wish; IFA_FLAGS.
        let more = [attribute(2, [10, 0, 0, 2]), attribute(5, [0; 4]), attribute(8, flags.to_ne_bytes())];
        address(&[header, more.concat()].concat(), &here())
    }

    #[test]
    fn addresses_are_those_of_the_interfaces_and_in_use_at_once() {
        let request = told_address(libc::AF_INET, 7, 0x80).unwrap();
        let expected = [(2, vec![10, 0, 0, 2]), (8, 0x80u32.to_ne_bytes().to_vec())];
        assert_eq!(passed_on(&request, 8), expected);
        assert_eq!(told_address(libc::AF_INET, 8, 0x80), None);
        assert_eq!(told_address(libc::AF_UNIX, 7, 0x80), None);
        assert_eq!(told_address(libc::AF_INET6, 7, 0x80 | TEMPORARY), None);
        let request = told_address(libc::AF_INET6, 7, 0x80 | 0x40).unwrap();
        let flags = (0x80 | NO_DETECTION).to_ne_bytes().to_vec();
        assert_eq!(passed_on(&request, 8)[1], (8, flags));
        assert_eq!(address(&[2, 24, 0, 0, 7], &here()), None);
    }

    fn told_route(protocol: u8, kind: u8, more: &[Vec<u8>]) -> Option<Vec<u8>> {
        // Flags: RTNH_F_ONLINK, and RTNH_F_LINKDOWN, which is a finding.
        let header = [2, 24, 0, 0, 254, protocol, 0, kind, 4 | 16, 0, 0, 0];
        route_of(&[&header[..], &more.concat()].concat(), &here())
    }

    /// RTA_OIF.
    fn out(index: u32) -> Vec<u8> {
        attribute(4, index.to_ne_bytes())
    }

    /// RTA_MULTIPATH.
    fn by(indices: &[u32]) -> Vec<u8> {
        let hop = |index: &u32| [&8u16.to_ne_bytes()[..], &[0, 0], &index.to_ne_bytes()].concat();
        attribute(9, indices.iter().flat_map(hop).collect::<Vec<u8>>())
    }

    #[test]
    fn routes_are_those_that_somebody_has_made_and_that_lead_to_the_interfaces() {
        const STATIC: u8 = 4;
        let request = told_route(STATIC, UNICAST, &[out(7)]).unwrap();
        assert_eq!(request[16 + 8], 4, "flags");
        assert!(!has_gateway(&request));
        assert!(has_gateway(&told_route(STATIC, UNICAST, &[out(7), attribute(5, [10, 0, 0, 1])]).unwrap()));
        assert!(has_gateway(&told_route(STATIC, UNICAST, &[by(&[7, 7])]).unwrap()));
        for more in [vec![out(8)], vec![by(&[7, 8])], vec![]] {
            assert_eq!(told_route(STATIC, UNICAST, &more), None, "{more:?}");
        }
        for protocol in [BY_THE_KERNEL, BY_ADVERTISEMENT] {
            assert_eq!(told_route(protocol, UNICAST, &[out(7)]), None);
        }
        // RTN_UNREACHABLE needs no interface; RTN_LOCAL is the kernel's business.
        assert!(told_route(STATIC, 7, &[]).is_some());
        assert_eq!(told_route(STATIC, 2, &[out(7)]), None);
        // RTA_TABLE has the numbers that the header has no room for.
        assert_eq!(told_route(STATIC, UNICAST, &[out(7), attribute(15, LOCAL_TABLE.to_ne_bytes())]), None);
        assert!(told_route(STATIC, UNICAST, &[out(7), attribute(15, 1000u32.to_ne_bytes())]).is_some());
    }

    #[test]
    fn a_list_of_hops_that_is_cut_off_or_lies_about_its_lengths_ends() {
        assert_eq!(next_hops(&[8, 0, 0, 0, 7, 0, 0, 0, 9, 0]).collect::<Vec<_>>(), [7]);
        assert_eq!(next_hops(&[0; 16]).collect::<Vec<_>>(), [0, 0]);
        assert_eq!(next_hops(&[255; 8]).collect::<Vec<_>>(), [u32::MAX]);
    }

    #[test]
    fn rules_and_neighbours_are_those_that_somebody_has_made() {
        let told = |protocol: u8| {
            rule(&[&[2, 0, 0, 0, 100, 0, 0, 1, 0, 0, 0, 0][..], &attribute(21, [protocol])].concat(), &here())
        };
        assert!(told(4).is_some());
        assert_eq!(told(BY_THE_KERNEL), None);
        let told = |index: u32, state: u16| {
            let header = [&[2, 0, 0, 0][..], &index.to_ne_bytes(), &state.to_ne_bytes(), &[0, 1]].concat();
            neighbour(&[header, attribute(2, MAC)].concat(), &here())
        };
        assert!(told(7, PERMANENT).is_some());
        // NUD_REACHABLE.
        assert_eq!(told(7, 2), None);
        assert_eq!(told(8, PERMANENT), None);
    }
}
