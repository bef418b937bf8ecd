//! Packets (virtio 1.2 section 5.10.6): the header, copied out of guest memory once and then checked, and where
//! the payload lies.
//!
//! rust-vmm's `virtio-vsock` takes one data descriptor per packet, but Linux sends more than 32 KiB as several;
//! its header type cannot be made without guest memory. Hence our own.

use vhost_user_backend::bitmap::BitmapMmapRegion;
use vm_memory::{Bytes, GuestMemory, VolatileSlice};

use crate::queue::{Chain, GuestRam};

/// A piece of guest memory.
pub(super) type Slice<'a> = VolatileSlice<'a, BitmapMmapRegion>;

/// Bytes of a header.
pub(super) const HEADER_SIZE: usize = 44;
const HEADER_SIZE_U32: u32 = 44;

/// The most payload that a packet may have: Linux's `VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`.
pub(super) const MAX_PAYLOAD: usize = 64 * 1024;

/// The host's context id (virtio 1.2 section 5.10.4).
pub(super) const HOST_CID: u64 = 2;

/// `VIRTIO_VSOCK_TYPE_STREAM`.
pub(super) const TYPE_STREAM: u16 = 1;

/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: the sender of the packet will receive no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: the sender of the packet will send no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;

/// Operations, `VIRTIO_VSOCK_OP_*`.
pub(super) mod op {
    pub(in crate::vsock) const REQUEST: u16 = 1;
    pub(in crate::vsock) const RESPONSE: u16 = 2;
    pub(in crate::vsock) const RST: u16 = 3;
    pub(in crate::vsock) const SHUTDOWN: u16 = 4;
    pub(in crate::vsock) const RW: u16 = 5;
    pub(in crate::vsock) const CREDIT_UPDATE: u16 = 6;
    pub(in crate::vsock) const CREDIT_REQUEST: u16 = 7;
}

/// `struct virtio_vsock_hdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

impl Header {
    pub(super) fn from_bytes(bytes: &[u8; HEADER_SIZE]) -> Self {
        let mut rest = Fields(bytes);
        Self {
            src_cid: u64::from_le_bytes(rest.take()),
            dst_cid: u64::from_le_bytes(rest.take()),
            src_port: u32::from_le_bytes(rest.take()),
            dst_port: u32::from_le_bytes(rest.take()),
            len: u32::from_le_bytes(rest.take()),
            kind: u16::from_le_bytes(rest.take()),
            op: u16::from_le_bytes(rest.take()),
            flags: u32::from_le_bytes(rest.take()),
            buf_alloc: u32::from_le_bytes(rest.take()),
            fwd_cnt: u32::from_le_bytes(rest.take()),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let mut rest = bytes.as_mut_slice();
        let mut put = |field: &[u8]| {
            if let Some((place, after)) = std::mem::take(&mut rest).split_at_mut_checked(field.len()) {
                place.copy_from_slice(field);
                rest = after;
            }
        };
        put(&self.src_cid.to_le_bytes());
        put(&self.dst_cid.to_le_bytes());
        put(&self.src_port.to_le_bytes());
        put(&self.dst_port.to_le_bytes());
        put(&self.len.to_le_bytes());
        put(&self.kind.to_le_bytes());
        put(&self.op.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.buf_alloc.to_le_bytes());
        put(&self.fwd_cnt.to_le_bytes());
        bytes
    }
}

/// Takes fields off the front; zeroes when nothing is left, which a fixed-size header never sees.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk::<N>() else { return [0; N] };
        self.0 = rest;
        *field
    }
}

/// Why a chain is not a packet.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PacketError {
    #[error("a descriptor has the wrong direction")]
    Direction,
    #[error("a descriptor points outside guest memory")]
    Memory,
    #[error("the chain is too short for what its header says")]
    TooShort,
    #[error("the payload is longer than a packet may have")]
    TooLong,
}

/// A packet from the guest.
#[derive(Debug)]
pub(super) struct TxPacket<'a> {
    pub(super) header: Header,
    /// Exactly `header.len` bytes, still in guest memory: they may change until they are read, once.
    pub(super) payload: Vec<Slice<'a>>,
}

impl<'a> TxPacket<'a> {
    /// Header and payload may be framed into descriptors in any way (virtio 1.2 section 2.7.4).
    pub(super) fn parse(memory: &'a GuestRam, chain: Chain<'a>) -> Result<Self, PacketError> {
        let mut slices = Vec::with_capacity(4);
        let mut length = 0;
        for descriptor in chain {
            if descriptor.is_write_only() {
                return Err(PacketError::Direction);
            }
            // Nothing behind the longest packet counts, so neither does how much more a chain promises.
            let room = HEADER_SIZE + MAX_PAYLOAD - length;
            length += append(memory, &descriptor, room, &mut slices)?;
        }
        let mut bytes = [0; HEADER_SIZE];
        let mut payload = split_header(slices, |slice, offset| copy_out(slice, &mut bytes, offset))?;
        let header = Header::from_bytes(&bytes);
        let wanted = if header.op == op::RW { header.len as usize } else { 0 };
        if wanted > MAX_PAYLOAD {
            return Err(PacketError::TooLong);
        }
        truncate(&mut payload, wanted)?;
        Ok(Self { header, payload })
    }
}

/// A buffer that the guest gave for one packet.
#[derive(Debug)]
pub(super) struct RxBuffer<'a> {
    /// The chain's head.
    pub(super) head: u16,
    header: Vec<Slice<'a>>,
    /// Room for payload.
    pub(super) payload: Vec<Slice<'a>>,
    /// Bytes of that room.
    pub(super) capacity: usize,
}

impl<'a> RxBuffer<'a> {
    pub(super) fn parse(memory: &'a GuestRam, chain: Chain<'a>) -> Result<Self, PacketError> {
        let head = chain.head_index();
        let mut slices = Vec::with_capacity(2);
        let mut length = 0;
        for descriptor in chain {
            if !descriptor.is_write_only() {
                return Err(PacketError::Direction);
            }
            let room = HEADER_SIZE + MAX_PAYLOAD - length;
            length += append(memory, &descriptor, room, &mut slices)?;
        }
        let mut header = Vec::with_capacity(1);
        let payload = split_header(slices, |slice, _| header.push(slice.clone()))?;
        Ok(Self { head, header, payload, capacity: length - HEADER_SIZE })
    }

    /// Writes the header; returns the bytes of the buffer that are used then.
    pub(super) fn write_header(&self, header: Header) -> u32 {
        let bytes = header.to_bytes();
        let mut rest = bytes.as_slice();
        for slice in &self.header {
            let (now, later) = rest.split_at_checked(slice.len()).unwrap_or((rest, &[]));
            // In bounds: `split_header` made these slices.
            let _ = slice.write_slice(now, 0);
            rest = later;
        }
        header.len.saturating_add(HEADER_SIZE_U32)
    }
}

/// Appends the first `room` bytes of a descriptor's buffer; returns how many it has.
fn append<'a>(
    memory: &'a GuestRam,
    descriptor: &virtio_queue::desc::split::Descriptor,
    room: usize,
    slices: &mut Vec<Slice<'a>>,
) -> Result<usize, PacketError> {
    let length = room.min(descriptor.len() as usize);
    for slice in memory.get_slices(descriptor.addr(), length) {
        slices.push(slice.map_err(|_| PacketError::Memory)?);
    }
    Ok(length)
}

/// Hands the header's pieces, with their offsets in it, to `take`; returns what follows the header.
fn split_header<'a>(
    slices: Vec<Slice<'a>>,
    mut take: impl FnMut(&Slice<'a>, usize),
) -> Result<Vec<Slice<'a>>, PacketError> {
    let mut offset = 0;
    let mut rest = Vec::with_capacity(slices.len());
    for slice in slices {
        let missing = HEADER_SIZE - offset;
        if missing == 0 {
            rest.push(slice);
            continue;
        }
        let (piece, after) = slice.split_at(missing.min(slice.len())).map_err(|_| PacketError::TooShort)?;
        take(&piece, offset);
        offset += piece.len();
        if !after.is_empty() {
            rest.push(after);
        }
    }
    if offset == HEADER_SIZE { Ok(rest) } else { Err(PacketError::TooShort) }
}

fn copy_out(slice: &Slice<'_>, bytes: &mut [u8; HEADER_SIZE], offset: usize) {
    if let Some(place) = bytes.get_mut(offset..offset + slice.len()) {
        slice.copy_to(place);
    }
}

/// Cuts `slices` to `length` bytes in all.
fn truncate(slices: &mut Vec<Slice<'_>>, length: usize) -> Result<(), PacketError> {
    let mut left = length;
    let mut keep = 0;
    for slice in slices.iter_mut() {
        if left == 0 {
            break;
        }
        if slice.len() > left {
            *slice = slice.subslice(0, left).map_err(|_| PacketError::TooShort)?;
        }
        left -= slice.len();
        keep += 1;
    }
    if left > 0 {
        return Err(PacketError::TooShort);
    }
    slices.truncate(keep);
    Ok(())
}
