//! Guest memory: one file of fixed size ([`vmm::memory_file`]), mapped into this process and shared with the device backends.
//!
//! Backends get the file (vhost-user `SET_MEM_TABLE`) and so see what the guest sees, with one exception:
//! [`Memory::map_private`] lays pages of another file over it in this process only. That is for pages that
//! no driver ever hands to a device, i.e. the kernel's code and constants.
#![allow(unsafe_code, reason = "maps files over guest memory")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::SeekFrom;
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{
    Address, Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryMmap,
    GuestMemoryRegion, MemoryRegionAddress,
};

use crate::arch::x86_64::boot_params::Range;
use crate::arch::x86_64::layout;
use vmm::memory_file::{self, MemoryFile};

/// Guest memory could not be made or filled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    #[error("cannot make {mib} MiB of guest memory")]
    Create {
        mib: u32,
        #[source]
        source: io::Error,
    },
    #[error("cannot map {mib} MiB of guest memory")]
    Map {
        mib: u32,
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
    #[error("guest memory does not hold {size:#x} bytes at {address:#x}")]
    Outside { address: u64, size: u64 },
    #[error("cannot write {size:#x} bytes to guest memory at {address:#x}")]
    Write {
        address: u64,
        size: u64,
        #[source]
        source: GuestMemoryError,
    },
    #[error("cannot read a file from offset {offset:#x}")]
    Seek {
        offset: u64,
        #[source]
        source: io::Error,
    },
    #[error("cannot copy {size:#x} bytes of a file to guest memory at {address:#x}")]
    Copy {
        address: u64,
        size: u64,
        #[source]
        source: GuestMemoryError,
    },
    #[error("cannot map a file into guest memory at {address:#x}")]
    MapFile {
        address: u64,
        #[source]
        source: io::Error,
    },
}

/// The guest's RAM, which starts at address 0 and leaves a gap below 4 GiB.
#[derive(Debug)]
pub(crate) struct Memory {
    map: GuestMemoryMmap,
    /// Open as long as the memory is used, see [`MemoryFile`].
    _mount: Option<OwnedFd>,
}

/// A contiguous part of guest memory, as KVM wants to know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region {
    /// Where the guest sees it.
    pub(crate) guest: Range,
    /// Where this process sees it.
    pub(crate) host_address: u64,
}

impl Memory {
    /// Makes `mib` MiB of zeroed memory; no page of it exists until it is touched.
    pub(crate) fn new(mib: u32) -> Result<Self, MemoryError> {
        let size = u64::from(mib) << 20;
        let MemoryFile { file, mount } =
            memory_file::create(size, None).map_err(|source| MemoryError::Create { mib, source })?;
        let file = Arc::new(file);
        let mut offset = 0;
        let mut ranges = Vec::with_capacity(2);
        for range in ram(size) {
            let length = usize::try_from(range.size).unwrap_or(usize::MAX);
            let place = FileOffset::from_arc(Arc::clone(&file), offset);
            ranges.push((GuestAddress(range.start), length, Some(place)));
            offset += range.size;
        }
        let map = GuestMemoryMmap::from_ranges_with_files(ranges)
            .map_err(|source| MemoryError::Map { mib, source })?;
        Ok(Self { map, _mount: mount })
    }

    /// The regions, lowest first.
    pub(crate) fn regions(&self) -> impl Iterator<Item = Region> {
        self.map.iter().map(|region| Region {
            guest: Range { start: region.start_addr().raw_value(), size: region.len() },
            host_address: region.as_ptr() as u64,
        })
    }

    /// End of the RAM below the gap.
    pub(crate) fn low_end(&self) -> u64 {
        self.regions().next().map_or(0, |region| region.guest.start + region.guest.size)
    }

    /// The regions as `SET_MEM_TABLE` wants them.
    pub(crate) fn backend_regions(&self) -> Result<Vec<VhostUserMemoryRegionInfo>, vhost::Error> {
        self.map.iter().map(VhostUserMemoryRegionInfo::from_guest_region).collect()
    }

    /// Where this process sees `size` bytes at `address`, if they are all in one region.
    pub(crate) fn host_address(&self, address: u64, size: u64) -> Option<u64> {
        let region = self.map.find_region(GuestAddress(address))?;
        let offset = address - region.start_addr().raw_value();
        if offset.checked_add(size)? > region.len() {
            return None;
        }
        region.get_host_address(MemoryRegionAddress(offset)).ok().map(|pointer| pointer as u64)
    }

    /// Writes `bytes` at `address`.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.map.write_slice(bytes, GuestAddress(address)).map_err(|source| MemoryError::Write {
            address,
            size: bytes.len() as u64,
            source,
        })
    }

    /// Copies `size` bytes of `source` from `offset` to `address`.
    pub(crate) fn copy_from(
        &self,
        address: u64,
        source: &File,
        offset: u64,
        size: u64,
    ) -> Result<(), MemoryError> {
        let outside = || MemoryError::Outside { address, size };
        self.host_address(address, size).ok_or_else(outside)?;
        let length = usize::try_from(size).map_err(|_overflow| outside())?;
        rustix::fs::seek(source, SeekFrom::Start(offset))
            .map_err(|error| MemoryError::Seek { offset, source: error.into() })?;
        self.map
            .read_exact_volatile_from(GuestAddress(address), &mut &*source, length)
            .map_err(|source| MemoryError::Copy { address, size, source })
    }

    /// Lays `size` bytes of `file` from `offset` over guest memory at `address`, copy-on-write. Pages that
    /// the guest does not change are the page cache's own, shared by all machines that run the same file.
    ///
    /// All three numbers must be multiples of the page size. Backends go on to see the memory's own file there.
    pub(crate) fn map_private(
        &self,
        address: u64,
        file: &File,
        offset: u64,
        size: u64,
    ) -> Result<(), MemoryError> {
        let outside = || MemoryError::Outside { address, size };
        let host = self.host_address(address, size).ok_or_else(outside)?;
        let length = usize::try_from(size).map_err(|_overflow| outside())?;
        let offset = i64::try_from(offset).map_err(|_overflow| outside())?;
        replace_pages(host, length, file, offset).map_err(|source| MemoryError::MapFile { address, source })
    }

    /// Reads `bytes.len()` bytes at `address`.
    #[cfg(test)]
    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let size = bytes.len() as u64;
        self.map
            .read_slice(bytes, GuestAddress(address))
            .map_err(|_unmapped| MemoryError::Outside { address, size })
    }
}

#[cfg(test)]
impl Memory {
    /// The page at `address` as backends see it.
    pub(crate) fn backend_page(&self, address: u64) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let region = self.map.find_region(GuestAddress(address)).unwrap();
        let file = region.file_offset().unwrap();
        let offset = file.start() + (address - region.start_addr().raw_value());
        let mut page = vec![0; 4096];
        file.file().read_exact_at(&mut page, offset).unwrap();
        page
    }
}

/// Replaces the pages of guest memory at `host`, which must be part of a region of a [`Memory`], by a private
/// mapping of `file`.
fn replace_pages(host: u64, length: usize, file: &File, offset: i64) -> io::Result<()> {
    // SAFETY: the callers got `host` from `Memory::host_address` for `length` bytes, so the range is part of
    // one mapping that `Memory` owns, lends out only as volatile slices, and keeps as long as it lives: no
    // Rust object is moved or loses its memory. The kernel refuses unaligned numbers.
    let mapped = unsafe {
        libc::mmap(
            host as *mut libc::c_void,
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED,
            file.as_raw_fd(),
            offset,
        )
    };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Where `size` bytes of RAM lie in the guest's address space.
fn ram(size: u64) -> impl Iterator<Item = Range> {
    let low = size.min(layout::MMIO_GAP);
    let high = size - low;
    [Range { start: 0, size: low }, Range { start: layout::MMIO_GAP_END, size: high }]
        .into_iter()
        .filter(|range| range.size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn ram_leaves_the_gap_free() {
        let small: Vec<_> = ram(64 << 20).collect();
        assert_eq!(small, [Range { start: 0, size: 64 << 20 }]);
        let large: Vec<_> = ram(5 << 30).collect();
        assert_eq!(large, [Range { start: 0, size: 3 << 30 }, Range { start: 4 << 30, size: 2 << 30 }]);
    }

    #[test]
    fn host_addresses_are_given_only_for_whole_ranges() {
        let memory = Memory::new(64).unwrap();
        let base = memory.host_address(0, 64 << 20).unwrap();
        assert_eq!(memory.host_address(0x1000, 16), Some(base + 0x1000));
        assert_eq!(memory.host_address((64 << 20) - 8, 8), Some(base + (64 << 20) - 8));
        assert_eq!(memory.host_address((64 << 20) - 8, 9), None);
        assert_eq!(memory.host_address(64 << 20, 1), None);
        assert_eq!(memory.host_address(u64::MAX, 1), None);
        assert_eq!(memory.host_address(8, u64::MAX), None);
    }

    #[test]
    fn a_copy_is_seen_here_and_by_backends_in_both_regions() {
        let memory = Memory::new(3073).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[5; 10_000]).unwrap();
        for address in [0x10_0000, layout::MMIO_GAP_END] {
            memory.copy_from(address, &file, 100, 4097).unwrap();
            let mut bytes = [0; 2];
            memory.read(address + 4096, &mut bytes).unwrap();
            assert_eq!(bytes, [5, 0]);
            assert!(memory.backend_page(address) == vec![5; 4096]);
        }
        let short = memory.copy_from(0x10_0000, &file, 9000, 1001);
        assert!(matches!(short, Err(MemoryError::Copy { .. })));
        let outside = memory.copy_from(layout::MMIO_GAP - 1, &file, 0, 2);
        assert!(matches!(outside, Err(MemoryError::Outside { .. })));
    }

    #[test]
    fn a_private_mapping_shows_the_file_and_never_writes_to_it() {
        let memory = Memory::new(64).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 8192]).unwrap();
        memory.map_private(0x20_0000, &file, 4096, 4096).unwrap();
        let mut bytes = [0; 4];
        memory.read(0x20_0ffc, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 4]);
        memory.write(0x20_0000, &[1]).unwrap();
        file.seek(std::io::SeekFrom::Start(4096)).unwrap();
        assert!(file.try_clone().unwrap().bytes_are_all(7));
        assert!(matches!(memory.map_private(64 << 20, &file, 0, 4096), Err(MemoryError::Outside { .. })));
    }

    trait AllBytes {
        fn bytes_are_all(self, value: u8) -> bool;
    }

    impl AllBytes for File {
        fn bytes_are_all(mut self, value: u8) -> bool {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut self, &mut bytes).unwrap();
            bytes.iter().all(|byte| *byte == value)
        }
    }
}
