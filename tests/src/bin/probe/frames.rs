//! What no stack of a network sends, by sockets of packets: for who has `CAP_NET_RAW`.
#![allow(unsafe_code, reason = "sockets of packets have no safe functions")]

use std::fs;
use std::io::{Write, stdout};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::libc;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};

/// `PACKET_VNET_HDR` and `PACKET_QDISC_BYPASS` (linux/if_packet.h), and `struct virtio_net_hdr`.
const VNET_HDR: libc::c_int = 15;
const QDISC_BYPASS: libc::c_int = 20;
const HEADER_SIZE: usize = 10;

const BROADCAST: [u8; 6] = [0xff; 6];

/// The end of what [`sniff`] hears.
const END: &[u8] = b"the end of what is heard";

/// Steele, Lea, Flood: Fast splittable pseudorandom number generators (2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }

    fn word(&mut self) -> [u8; 2] {
        [self.byte(), self.byte()]
    }
}

/// Who is on the network.
struct Places {
    own: [u8; 6],
    others: Vec<[u8; 6]>,
    /// First three bytes of its IPv4 addresses; those from 100 on are nobody's.
    subnet: [u8; 3],
}

/// Sends `count` broken frames from an interface to `others` and everybody; says how many its kernel has taken.
pub(crate) fn flood(interface: &str, count: u64, seed: u64, subnet: &str, others: &[String]) -> Result<()> {
    let others = others.iter().map(|mac| parse_mac(mac)).collect::<Result<_>>()?;
    let mut subnet = subnet.split('.').map(str::parse);
    let mut part = || subnet.next().context("a subnet has three parts")?.context("a part of the subnet");
    let places = Places { own: mac_of(interface)?, others, subnet: [part()?, part()?, part()?] };
    let [plain, with_header] = [packets(interface)?, packets(interface)?];
    set(&with_header, VNET_HDR)?;
    // Every second one is the driver's at once.
    set(&plain, QDISC_BYPASS)?;
    let mut random = Random(seed);
    let mut taken = 0;
    for _ in 0..count {
        let frame = frame(&mut random, &places);
        let (socket, packet) = match random.below(2) {
            0 => (&plain, frame),
            _ => (&with_header, [header(&mut random, frame.len()), frame].concat()),
        };
        taken += u64::from(send(socket, &packet, SendFlags::empty()).is_ok());
    }
    println!("{taken}");
    Ok(())
}

/// Sends `count` frames to everybody as if they were another's.
pub(crate) fn spoof(interface: &str, mac: &str, count: u64) -> Result<()> {
    let socket = packets(interface)?;
    let frame = [&BROADCAST, &parse_mac(mac)?, &[0x88, 0xb5][..], &[0; 46]].concat();
    for _ in 0..count {
        send(&socket, &frame, SendFlags::empty()).context("cannot send")?;
    }
    Ok(())
}

/// Makes the file, then listens to all that reaches the interface until [`END`] does; says how many frames were meant for another
/// one alone, and how many there were.
pub(crate) fn sniff(interface: &str, file: &str) -> Result<()> {
    let socket = packets(interface)?;
    listen_to_all(&socket, interface)?;
    let own = mac_of(interface)?;
    fs::write(file, "").context("cannot make the file")?;
    let (mut foreign, mut all) = (0, 0);
    let mut frame = vec![0; 1 << 17];
    loop {
        let (length, _) = recv(&socket, &mut frame[..], RecvFlags::empty()).context("cannot receive")?;
        let frame = &frame[..length];
        if frame.windows(END.len()).any(|window| window == END) {
            break;
        }
        all += 1;
        // Not to this one, not from it, and not to many.
        foreign +=
            u64::from(frame.len() >= 12 && frame[..6] != own && frame[6..12] != own && frame[0] & 1 == 0);
    }
    writeln!(stdout(), "{foreign} of {all}").context("cannot write")
}

/// A frame of one of the kinds that somebody might not expect.
fn frame(random: &mut Random, places: &Places) -> Vec<u8> {
    let to = match random.below(4) {
        0 => BROADCAST,
        1 => [0x33, 0x33, 0, 0, 0, 1],
        _ => random.pick(&places.others),
    };
    let from = match random.below(4) {
        // Locally administered, and nobody's.
        0 => [2, 0x99, random.byte(), random.byte(), random.byte(), random.byte()],
        1 => [random.byte() | 1, 0, 0, 0, 0, 1],
        _ => places.own,
    };
    let (kind, body): ([u8; 2], Vec<u8>) = match random.below(8) {
        0 => (random.word(), noise(random)),
        1 => ([0x86, 0xdd], version_6(random)),
        2 => ([8, 6], arp(random, places)),
        3 => ([0x86, 0xdd], advertisement(random)),
        // Tags in tags.
        4 => (
            random.pick(&[[0x81, 0], [0x88, 0xa8]]),
            [random.word().to_vec(), vec![0x81, 0], noise(random)].concat(),
        ),
        // A length instead of a type.
        5 => (u16::try_from(random.below(1600)).unwrap_or(0).to_be_bytes(), noise(random)),
        _ => ([8, 0], version_4(random, places)),
    };
    let mut frame = [&to[..], &from, &kind, &body].concat();
    if random.below(16) == 0 {
        frame.truncate(random.below(20));
    }
    frame
}

fn noise(random: &mut Random) -> Vec<u8> {
    let length = match random.below(8) {
        0 => random.below(60_000),
        1 => random.below(16),
        _ => random.below(1400),
    };
    random.bytes(length)
}

/// Lengths, pieces and options that lie.
fn version_4(random: &mut Random, places: &Places) -> Vec<u8> {
    let body = noise(random);
    let length = u16::try_from(body.len() + 20).unwrap_or(u16::MAX);
    let length = if random.below(2) == 0 { random.word() } else { length.to_be_bytes() };
    let first = if random.below(3) == 0 { random.byte() } else { 0x45 };
    let transport = random.pick(&[6, 17, 1, 2, 4, 47, 132, 255]);
    let pieces = if random.below(3) == 0 { random.word() } else { [0, 0] };
    let [a, b, c] = places.subnet;
    let from = [a, b, c, 100 + random.byte() % 100];
    let to = [a, b, c, random.pick(&[1, 17, 18, 255])];
    let mut header =
        [&[first, 0][..], &length, &random.word(), &pieces, &[64, transport, 0, 0], &from, &to].concat();
    let sum = if random.below(4) == 0 { random.word() } else { checksum(&header) };
    header[10..12].copy_from_slice(&sum);
    [header, body].concat()
}

/// With chains of headers of extension.
fn version_6(random: &mut Random) -> Vec<u8> {
    let body = noise(random);
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let length = if random.below(2) == 0 { random.word() } else { length.to_be_bytes() };
    let next = random.pick(&[0, 6, 17, 43, 44, 51, 58, 59, 60, 255]);
    let addresses = [random.bytes(16), [&[0xff, 2][..], &[0; 13], &[1]].concat()].concat();
    [&[0x60, 0, 0, 0][..], &length, &[next, 64], &addresses, &body].concat()
}

/// Answers that nobody has asked for, of addresses that are nobody's; some too short or of other sizes.
fn arp(random: &mut Random, places: &Places) -> Vec<u8> {
    let [a, b, c] = places.subnet;
    let mac = [2, 0x99, 0, 0, 0, random.byte()];
    let who = [a, b, c, 100 + random.byte() % 100];
    let sizes = if random.below(4) == 0 { random.word() } else { [6, 4] };
    let operation = random.pick(&[1, 2, 2, 3, 255]);
    [&[0, 1, 8, 0][..], &sizes, &[0, operation], &mac, &who, &BROADCAST, &who].concat()
}

/// `fdba:d::/64` of a router that does not exist.
fn advertisement(random: &mut Random) -> Vec<u8> {
    let from = [&[0xfe, 0x80][..], &[0; 8], &[2, 0x99, 0, 0, 0, random.byte()]].concat();
    let to = [&[0xff, 2][..], &[0; 13], &[1]].concat();
    let prefix = [&[0xfd, 0xba, 0, 0xd][..], &[0; 12]].concat();
    let lifetimes = [0xff; 8];
    let router = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut body = [&router[..], &[3, 4, 64, 0xc0], &lifetimes, &[0; 4], &prefix].concat();
    let length = u16::try_from(body.len()).unwrap_or(0).to_be_bytes();
    let pseudo = [&from[..], &to, &[0, 0], &length, &[0, 0, 0, 58], &body].concat();
    body[2..4].copy_from_slice(&checksum(&pseudo));
    [&[0x60, 0, 0, 0][..], &length, &[58, 255], &from, &to, &body].concat()
}

/// A header of virtio-net of which any field may lie about the frame.
fn header(random: &mut Random, length: usize) -> Vec<u8> {
    let mut place = || match random.below(4) {
        0 => random.word(),
        1 => [0, 0],
        2 => u16::try_from(random.below(length + 3)).unwrap_or(u16::MAX).to_le_bytes(),
        _ => u16::try_from(random.pick(&[14_usize, 34, 54, 16, 6, 74])).unwrap_or(0).to_le_bytes(),
    };
    let [header_length, segment, start, offset] = [place(), place(), place(), place()];
    let flags = random.pick(&[0, 1, 1, 2, 3, 255]);
    let kind = random.pick(&[0, 0, 1, 1, 3, 4, 5, 0x81, 0x84, 0x80, 255]);
    let header = [&[flags, kind][..], &header_length, &segment, &start, &offset].concat();
    debug_assert_eq!(header.len(), HEADER_SIZE);
    header
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(!sum & 0xffff).unwrap_or(0).to_be_bytes()
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let bytes =
        text.trim().split(':').map(|part| u8::from_str_radix(part, 16)).collect::<Result<Vec<_>, _>>();
    bytes.ok().and_then(|bytes| bytes.try_into().ok()).with_context(|| format!("{text} is no MAC"))
}

fn mac_of(interface: &str) -> Result<[u8; 6]> {
    let path = format!("/sys/class/net/{interface}/address");
    parse_mac(&fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?)
}

/// A socket of all packets of an interface, bound to it.
fn packets(interface: &str) -> Result<OwnedFd> {
    let everything = rustix::net::RawProtocol::new(u32::from(0x0003_u16.to_be())).context("no protocol")?;
    let protocol = rustix::net::Protocol::from_raw(everything);
    let socket =
        socket(AddressFamily::PACKET, SocketType::RAW, Some(protocol)).context("cannot make a socket")?;
    let index = index(interface)?;
    // struct sockaddr_ll.
    let mut address = [0_u8; 20];
    address[..2].copy_from_slice(&u16::try_from(libc::AF_PACKET)?.to_ne_bytes());
    address[2..4].copy_from_slice(&3_u16.to_be_bytes());
    address[4..8].copy_from_slice(&index.to_ne_bytes());
    // SAFETY: the address is as long as it is said to be.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), 20) };
    done("bind", bound)?;
    Ok(socket)
}

fn index(interface: &str) -> Result<u32> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).context("cannot make a socket")?;
    name_to_index(any.as_fd(), interface).with_context(|| format!("no interface {interface}"))
}

fn set(socket: &OwnedFd, option: libc::c_int) -> Result<()> {
    option_of(socket, option, &1_i32.to_ne_bytes())
}

/// `struct packet_mreq` with PACKET_MR_PROMISC.
fn listen_to_all(socket: &OwnedFd, interface: &str) -> Result<()> {
    let request = [&index(interface)?.to_ne_bytes()[..], &1_u16.to_ne_bytes(), &[0; 10]].concat();
    option_of(socket, libc::PACKET_ADD_MEMBERSHIP, &request)
}

fn option_of(socket: &OwnedFd, option: libc::c_int, value: &[u8]) -> Result<()> {
    let length = libc::socklen_t::try_from(value.len())?;
    let (fd, level, place) = (socket.as_raw_fd(), libc::SOL_PACKET, value.as_ptr().cast());
    // SAFETY: the value is as long as it is said to be.
    done("setsockopt", unsafe { libc::setsockopt(fd, level, option, place, length) })
}

fn done(what: &'static str, result: libc::c_int) -> Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error()).context(what) } else { Ok(()) }
}
