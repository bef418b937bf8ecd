//! vhost-net (linux/vhost.h): a pair of queues that the host's kernel serves.

#![allow(unsafe_code, reason = "the ioctls that hand over a descriptor have no safe wrappers for files")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use vhost::vhost_kern::VhostKernBackend;
use vhost::vhost_kern::vhost_binding::{
    VHOST_NET_SET_BACKEND, VHOST_SET_VRING_CALL, VHOST_SET_VRING_KICK, vhost_vring_file,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryAtomic, GuestMemoryRegion};
use vmm_sys_util::ioctl::ioctl_with_ref;

use crate::net::tap::Tap;
use crate::queue::GuestRam;

pub(super) type Memory = GuestMemoryAtomic<GuestRam>;

/// Where a ring lies, in the guest's addresses, and how it is told of.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    /// Of the next chain.
    pub(super) base: u16,
    pub(super) kick: Option<File>,
    pub(super) call: Option<File>,
    pub(super) is_enabled: bool,
}

impl Ring {
    /// Whether the frontend has set it up and enabled it.
    pub(super) fn is_ready(&self) -> bool {
        self.is_enabled && self.kick.is_some() && self.call.is_some()
    }

    /// Address and size of each of its parts (virtio 1.2 section 2.7).
    fn parts(&self) -> [(u64, usize); 3] {
        let size = usize::from(self.size);
        [(self.descriptors, 16 * size), (self.available, 6 + 2 * size), (self.used, 6 + 8 * size)]
    }
}

/// An open `/dev/vhost-net`.
#[derive(Debug)]
pub(super) struct Kernel {
    vhost: OwnedFd,
    memory: Memory,
    is_owned: bool,
}

impl AsRawFd for Kernel {
    fn as_raw_fd(&self) -> RawFd {
        self.vhost.as_raw_fd()
    }
}

impl VhostKernBackend for Kernel {
    type AS = Memory;

    fn mem(&self) -> &Memory {
        &self.memory
    }

    /// The ring has been looked at before.
    fn is_valid(&self, _: &VringConfigData) -> bool {
        true
    }
}

impl Kernel {
    pub(super) fn new(vhost: OwnedFd, memory: Memory) -> Self {
        Self { vhost, memory, is_owned: false }
    }

    /// Has the kernel serve `ring`, the one of that number of the pair, with frames of `tap`.
    pub(super) fn start(&mut self, number: usize, ring: &Ring, features: u64, tap: &Tap) -> io::Result<()> {
        let memory = self.memory.memory();
        let is_there = |(address, size)| memory.check_range(GuestAddress(address), size);
        if !ring.size.is_power_of_two() || !ring.parts().into_iter().all(is_there) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a ring is not in the guest's memory"));
        }
        let (Some(kick), Some(call)) = (&ring.kick, &ring.call) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a ring without eventfds"));
        };
        if !self.is_owned {
            self.set_owner().map_err(failed)?;
            self.is_owned = true;
        }
        self.set_features(features & self.get_features().map_err(failed)?).map_err(failed)?;
        let regions: Vec<_> = memory.iter().map(region).collect::<io::Result<_>>()?;
        self.set_mem_table(&regions).map_err(failed)?;
        self.set_vring_num(number, ring.size).map_err(failed)?;
        self.set_vring_base(number, ring.base).map_err(failed)?;
        let place = VringConfigData {
            queue_max_size: ring.size,
            queue_size: ring.size,
            flags: 0,
            desc_table_addr: ring.descriptors,
            used_ring_addr: ring.used,
            avail_ring_addr: ring.available,
            log_addr: None,
        };
        self.set_vring_addr(number, &place).map_err(failed)?;
        self.set_file(VHOST_SET_VRING_CALL(), number, call.as_raw_fd())?;
        self.set_file(VHOST_SET_VRING_KICK(), number, kick.as_raw_fd())?;
        self.set_file(VHOST_NET_SET_BACKEND(), number, tap.as_fd().as_raw_fd())
    }

    /// Has the kernel leave a ring that it serves; tells the number of the next chain.
    pub(super) fn stop(&self, number: usize) -> io::Result<u16> {
        self.set_file(VHOST_NET_SET_BACKEND(), number, -1)?;
        let base = self.get_vring_base(number).map_err(failed)?;
        // It counts in 16 bits.
        u16::try_from(base & 0xffff).map_err(io::Error::other)
    }

    /// Does one of the requests that give a ring a descriptor; -1 is none.
    fn set_file(&self, request: libc::c_ulong, number: usize, fd: RawFd) -> io::Result<()> {
        let index = u32::try_from(number).map_err(io::Error::other)?;
        let file = vhost_vring_file { index, fd };
        // SAFETY: each of these requests reads one `vhost_vring_file`, which is live.
        let done = unsafe { ioctl_with_ref(self, request, &file) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn region(region: &<GuestRam as GuestMemory>::R) -> io::Result<VhostUserMemoryRegionInfo> {
    let start = region.start_addr();
    let offset = region.to_region_addr(start).ok_or(io::ErrorKind::InvalidInput)?;
    let address = region.get_host_address(offset).map_err(io::Error::other)?;
    Ok(VhostUserMemoryRegionInfo {
        guest_phys_addr: start.0,
        memory_size: region.len(),
        userspace_addr: address.addr() as u64,
        ..Default::default()
    })
}

pub(super) fn failed(error: vhost::Error) -> io::Error {
    match error {
        vhost::Error::IoctlError(error) => error,
        error => io::Error::other(error.to_string()),
    }
}
