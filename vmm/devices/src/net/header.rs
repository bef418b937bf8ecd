//! The header before each frame (virtio 1.2 section 5.1.6), which the host's tap takes as it is: what a guest wrote there
//! is checked against its frame and against what was negotiated, before the host's network stack sees it.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
};

/// `struct virtio_net_hdr_v1`, which a device of virtio 1 always has.
pub(super) const HEADER_SIZE: usize = 12;

/// Of an Ethernet header.
const ETHERNET_SIZE: usize = 14;

/// The largest packet that is cut into segments later, with an Ethernet header and two VLAN tags.
const MAX_FRAME: usize = 65_536 + ETHERNET_SIZE + 8;

/// The most that a header and its frame take.
pub(super) const MAX_PACKET: usize = HEADER_SIZE + MAX_FRAME;

/// The least that they take.
pub(super) const MIN_PACKET: usize = HEADER_SIZE + ETHERNET_SIZE;

/// Makes the header of a guest's frame what the host may see. `None` is a frame that no driver sends which has
/// acknowledged `features`.
pub(super) fn check(packet: &mut [u8], features: u64) -> Option<()> {
    let frame = packet.len().checked_sub(HEADER_SIZE)?;
    if !(ETHERNET_SIZE..=MAX_FRAME).contains(&frame) {
        return None;
    }
    let header: &mut [u8; HEADER_SIZE] = packet.first_chunk_mut()?;
    let [flags, gso, h0, h1, s0, s1, c0, c1, o0, o1, ..] = *header;
    let word = |low, high| usize::from(u16::from_le_bytes([low, high]));
    let (header_length, segment) = (word(h0, h1), word(s0, s1));
    let (start, offset) = (word(c0, c1), word(o0, o1));

    let has = |feature: u32| features & (1 << feature) != 0;
    let needs_checksum = u32::from(flags) & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0;
    if needs_checksum && (!has(VIRTIO_NET_F_CSUM) || start + offset + 2 > frame) {
        return None;
    }
    let gso = u32::from(gso);
    let allowed = match gso & !VIRTIO_NET_HDR_GSO_ECN {
        VIRTIO_NET_HDR_GSO_NONE => gso == VIRTIO_NET_HDR_GSO_NONE,
        VIRTIO_NET_HDR_GSO_TCPV4 => has(VIRTIO_NET_F_HOST_TSO4),
        VIRTIO_NET_HDR_GSO_TCPV6 => has(VIRTIO_NET_F_HOST_TSO6),
        _ => false,
    };
    let is_cut = gso != VIRTIO_NET_HDR_GSO_NONE;
    let has_ecn = gso & VIRTIO_NET_HDR_GSO_ECN != 0;
    if !allowed || has_ecn && !has(VIRTIO_NET_F_HOST_ECN) {
        return None;
    }
    if is_cut && (!needs_checksum || segment == 0 || header_length > frame) {
        return None;
    }
    // Fields that mean nothing to this frame, and flags of the other direction, are none of the host's business.
    if !is_cut {
        (header[2..6]).fill(0);
    }
    if !needs_checksum {
        (header[6..10]).fill(0);
    }
    header[0] = if needs_checksum { 1 } else { 0 };
    (header[10..12]).fill(0);
    Some(())
}

/// Says in how many buffers of the guest the frame lies.
pub(super) fn set_buffers(packet: &mut [u8], count: u16) {
    if let Some(field) = packet.get_mut(10..HEADER_SIZE) {
        field.copy_from_slice(&count.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = u64::MAX;

    fn packet(header: [u8; HEADER_SIZE], frame: usize) -> Vec<u8> {
        [&header[..], &vec![0xee; frame]].concat()
    }

    #[test]
    fn what_the_features_allow_passes_and_the_rest_of_the_header_is_cleared() {
        let mut plain = packet([2, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 60);
        assert!(check(&mut plain, 0).is_some());
        assert_eq!(plain[..HEADER_SIZE], [0; HEADER_SIZE]);
        let checksum = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0];
        let mut kept = packet(checksum, 60);
        assert!(check(&mut kept, 1 << VIRTIO_NET_F_CSUM).is_some());
        assert_eq!(kept[..HEADER_SIZE], checksum);
        let segments = [1, 0x81, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0];
        let mut kept = packet(segments, MAX_FRAME);
        assert!(check(&mut kept, ALL).is_some());
        assert_eq!(kept[..HEADER_SIZE], segments);
    }

    #[test]
    fn what_no_driver_sends_is_refused() {
        let cut = [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0];
        let with = |change: fn(&mut [u8; HEADER_SIZE])| {
            let mut header = cut;
            change(&mut header);
            header
        };
        let no_feature = |feature: u32| ALL & !(1 << feature);
        let table = [
            ("checksum not negotiated", cut, 60, no_feature(VIRTIO_NET_F_CSUM)),
            ("segments not negotiated", cut, 60, no_feature(VIRTIO_NET_F_HOST_TSO4)),
            ("segments of version 6", with(|h| h[1] = 4), 60, no_feature(VIRTIO_NET_F_HOST_TSO6)),
            ("ecn not negotiated", with(|h| h[1] = 0x81), 60, no_feature(VIRTIO_NET_F_HOST_ECN)),
            ("ecn of nothing", with(|h| h[1] = 0x80), 60, ALL),
            ("udp segments", with(|h| h[1] = 3), 60, ALL),
            ("unknown segments", with(|h| h[1] = 0x7f), 60, ALL),
            ("segments without a checksum", with(|h| h[0] = 0), 60, ALL),
            ("segments of no size", with(|h| h[4..6].fill(0)), 60, ALL),
            ("headers longer than the frame", with(|h| h[2] = 61), 60, ALL),
            ("checksum behind the frame", with(|h| h[6] = 43), 60, ALL),
            ("checksum that wraps", with(|h| h[6..10].fill(0xff)), 60, ALL),
            ("no frame", cut, 0, ALL),
            ("half an Ethernet header", [0; HEADER_SIZE], 13, ALL),
            ("too long", [0; HEADER_SIZE], MAX_FRAME + 1, ALL),
        ];
        for (what, header, frame, features) in table {
            assert!(check(&mut packet(header, frame), features).is_none(), "{what}");
        }
        assert!(check(&mut [0; 3], ALL).is_none());
    }
}
