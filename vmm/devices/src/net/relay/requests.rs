//! The frontend's requests (vhost-user specification, "Front-end message types"). Those of features that are not offered are
//! errors, which end the connection.

use std::fs::File;
use std::io;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestRegionMmap};

use super::kernel::Ring;
use super::{MAX_QUEUE_SIZE, Mapping, Relay};
use crate::queue::GuestRam;

fn unsupported<T>() -> Result<T> {
    Err(Error::InvalidOperation("not supported"))
}

impl Relay {
    fn ring(&mut self, index: impl Into<u64>) -> Result<&mut Ring> {
        let index = usize::try_from(index.into()).unwrap_or(usize::MAX);
        self.rings.get_mut(index).ok_or(Error::InvalidParam)
    }

    fn settled(&mut self) -> Result<()> {
        self.settle().map_err(Error::ReqHandlerError)
    }

    /// Of a ring that is being set up.
    fn left(&mut self, index: u32) -> Result<()> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        self.serve(index, false).map_err(Error::ReqHandlerError)
    }
}

impl VhostUserBackendReqHandlerMut for Relay {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset().map_err(Error::ReqHandlerError)
    }

    fn reset_device(&mut self) -> Result<()> {
        self.rings.iter_mut().for_each(|ring| ring.is_enabled = false);
        self.reset().map_err(Error::ReqHandlerError)
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let of_protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if features & !(self.offered | of_protocol) != 0 {
            return Err(Error::InvalidParam);
        }
        let features = features & !of_protocol;
        // QEMU says the same for each pair, when it has set up the one before.
        if features == self.acknowledged && self.is_served.contains(&true) {
            return Ok(());
        }
        self.reset().map_err(Error::ReqHandlerError)?;
        self.acknowledged = features;
        self.taps.first().into_iter().for_each(|tap| {
            tap.set_features(features);
        });
        self.settled()
    }

    fn set_mem_table(&mut self, regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<()> {
        let failed = |error: io::Error| Error::ReqHandlerError(error);
        // What the kernel has of the memory that was there must not be something else in its place.
        self.leave().map_err(failed)?;
        let (mut mapped, mut mappings) = (Vec::new(), Vec::new());
        for (region, file) in regions.iter().zip(files) {
            let start = GuestAddress(region.guest_phys_addr);
            let region_of_ram = GuestRegionMmap::new(region.mmap_region(file)?, start);
            mapped.push(region_of_ram.ok_or(Error::InvalidParam)?);
            mappings.push(Mapping {
                frontend: region.user_addr,
                size: region.memory_size,
                guest: region.guest_phys_addr,
            });
        }
        let memory = GuestRam::from_regions(mapped).map_err(|error| failed(io::Error::other(error)))?;
        self.memory.lock().map_err(|_| Error::BackendInternalError)?.replace(memory);
        self.mappings = mappings;
        self.settled()
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        self.left(index)?;
        let size = u16::try_from(size).ok().filter(|size| (1..=MAX_QUEUE_SIZE).contains(size));
        self.ring(index)?.size = size.ok_or(Error::InvalidParam)?;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        self.left(index)?;
        let address = |frontend| self.guest_address(frontend).ok_or(Error::InvalidParam);
        let (descriptors, used, available) = (address(descriptors)?, address(used)?, address(available)?);
        let ring = self.ring(index)?;
        (ring.descriptors, ring.used, ring.available) = (descriptors, used, available);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.left(index)?;
        let base = u16::try_from(base & 0xffff).map_err(|_| Error::InvalidParam)?;
        self.ring(index)?.base = base;
        if usize::try_from(index).ok() == self.control_index() {
            let fresh = Queue::new(MAX_QUEUE_SIZE);
            self.control = fresh.map_err(|error| Error::ReqHandlerError(io::Error::other(error)))?;
            self.control.set_next_avail(base);
            self.control.set_next_used(base);
        }
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.left(index)?;
        let of_control =
            (usize::try_from(index).ok() == self.control_index()).then(|| self.control.next_avail());
        let ring = self.ring(index)?;
        (ring.kick, ring.call) = (None, None);
        let base = of_control.unwrap_or(ring.base);
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.left(index.into())?;
        self.ring(index)?.kick = fd;
        self.settled()
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.left(index.into())?;
        self.ring(index)?.call = fd;
        self.settled()
    }

    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> Result<()> {
        self.ring(index).map(drop)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.is_enabled = enable;
        self.settled()
    }

    fn get_config(&mut self, _offset: u32, _size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        unsupported()
    }

    fn set_config(&mut self, _offset: u32, _bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        unsupported()
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        unsupported()
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        unsupported()
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        unsupported()
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        unsupported()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        unsupported()
    }

    fn add_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion, _file: File) -> Result<()> {
        unsupported()
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        unsupported()
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        unsupported()
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        unsupported()
    }
}
