//! What virtiofsd's replies leave unsaid, and what saves the guest requests: each costs it two switches to the host
//! and the wait between them.
//!
//! A reply is amended where it lies, in the guest's memory, before the guest is told of it. A guest that meddles with
//! it meanwhile misleads itself alone: nothing here is used for anything but the reply.

use std::io::Write;
use std::time::Duration;

use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{EntryOut, FsOptions, InHeader, InitInCompat, Opcode, OpenIn, OpenOptions, OutHeader};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use crate::queue::{Chain, GuestRam};

/// Where a reply's body begins.
const BODY: usize = size_of::<OutHeader>();
/// Of `flags` in `struct fuse_init_out`, and of `open_flags` in `struct fuse_open_out` (Linux, include/uapi/linux/fuse.h).
const INIT_FLAGS: usize = BODY + 12;
const OPEN_FLAGS: usize = BODY + 8;

/// Amends the reply of `length` bytes to a request with `header`; returns its new length. `absence` is for how long
/// the guest may remember that there is no such file.
pub(super) fn amend(
    memory: &GuestRam,
    chain: Chain<'_>,
    header: &InHeader,
    length: usize,
    absence: Duration,
) -> usize {
    let amended = match header.opcode {
        opcode if opcode == Opcode::Lookup as u32 => remember_absence(memory, chain, header, absence),
        opcode if opcode == Opcode::Init as u32 => keep_symbolic_links(memory, chain),
        opcode if opcode == Opcode::Open as u32 => spare_flush(memory, chain),
        _ => None,
    };
    amended.unwrap_or(length)
}

/// "No such file" becomes an entry without a node, which lasts: what looks along a search path asks for the same
/// names again and again.
fn remember_absence(
    memory: &GuestRam,
    chain: Chain<'_>,
    header: &InHeader,
    absence: Duration,
) -> Option<usize> {
    let error: i32 = memory.read_obj(place(chain.clone(), 4, 4)?).ok()?;
    if error != -libc::ENOENT || absence.is_zero() {
        return None;
    }
    let entry = EntryOut {
        entry_valid: absence.as_secs(),
        entry_valid_nsec: absence.subsec_nanos(),
        ..EntryOut::default()
    };
    let length = BODY + size_of::<EntryOut>();
    let reply = OutHeader { len: u32::try_from(length).ok()?, error: 0, unique: header.unique };
    let mut writer = Writer::new(memory, chain).ok()?;
    if writer.available_bytes() < length {
        return None;
    }
    writer.write_all(reply.as_slice()).ok()?;
    writer.write_all(entry.as_slice()).ok()?;
    Some(length)
}

/// Where a symbolic link points to never changes while its node is known, so that the guest can keep it.
fn keep_symbolic_links(memory: &GuestRam, chain: Chain<'_>) -> Option<usize> {
    let mut request = Reader::new(memory, chain.clone()).ok()?;
    request.read_obj::<InHeader>().ok()?;
    let offered = FsOptions::from_bits_truncate(request.read_obj::<InitInCompat>().ok()?.flags.into());
    if offered.contains(FsOptions::CACHE_SYMLINKS) {
        set(memory, chain, INIT_FLAGS, FsOptions::CACHE_SYMLINKS.bits().try_into().ok()?);
    }
    None
}

/// Closing a file that is open for reading alone cannot fail, so that there is nothing to ask. (One that is open for
/// writing can, on a network file system.)
fn spare_flush(memory: &GuestRam, chain: Chain<'_>) -> Option<usize> {
    let mut request = Reader::new(memory, chain.clone()).ok()?;
    request.read_obj::<InHeader>().ok()?;
    let flags = request.read_obj::<OpenIn>().ok()?.flags;
    if flags & libc::O_ACCMODE.cast_unsigned() == libc::O_RDONLY.cast_unsigned() {
        set(memory, chain, OPEN_FLAGS, OpenOptions::NOFLUSH.bits());
    }
    None
}

/// Sets `bits` of the word at `offset` of a reply that is no error.
fn set(memory: &GuestRam, chain: Chain<'_>, offset: usize, bits: u32) {
    let word = || -> Option<(u32, GuestAddress)> {
        let error: i32 = memory.read_obj(place(chain.clone(), 4, 4)?).ok()?;
        let place = place(chain, offset, size_of::<u32>())?;
        (error == 0).then_some((memory.read_obj(place).ok()?, place))
    };
    if let Some((word, place)) = word() {
        // Outside memory it cannot be, as it has just been read.
        let _ = memory.write_obj(word | bits, place);
    }
}

/// The place of `length` bytes at `offset` of a reply, if they lie in one buffer, as Linux lays them.
fn place(chain: Chain<'_>, offset: usize, length: usize) -> Option<GuestAddress> {
    let mut offset = u64::try_from(offset).ok()?;
    for buffer in chain.writable() {
        let size = u64::from(buffer.len());
        if let Some(beyond) = offset.checked_sub(size) {
            offset = beyond;
            continue;
        }
        let fits = size - offset >= u64::try_from(length).ok()?;
        return if fits { buffer.addr().0.checked_add(offset).map(GuestAddress) } else { None };
    }
    None
}
