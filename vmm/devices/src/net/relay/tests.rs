//! Without a kernel that has vhost-net: what comes before it is asked, and the control queue.

use std::fs::OpenOptions;

use rustix::event::EventfdFlags;
use vhost::vhost_user::VhostUserBackendReqHandlerMut;
use vhost::vhost_user::message::{VhostUserMemoryRegion, VhostUserVringAddrFlags};
use vm_memory::Bytes;

use super::*;
use crate::fake_guest::{Desc, NEXT, WRITE, write_desc_at};
use crate::net::tests::cable;

/// Of the guest's memory, as the frontend has it.
const FRONTEND: u64 = 0x7f00_0000_0000;
const SIZE: u64 = 1 << 20;

const CONTROL: u32 = 4;
const CONTROLLED: u64 = 1 << VIRTIO_F_VERSION_1 | SEVERAL;

/// Whoever asks that kernel gets an error.
fn relay() -> Relay {
    let taps = (0..2).map(|_| Tap::new(cable().0).unwrap()).collect();
    let memory = Memory::new(GuestRam::new());
    let kernel = |_| {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        Kernel::new(null.into(), memory.clone())
    };
    let kernels = (0..2).map(kernel).collect();
    let mut relay = Relay::of(taps, kernels, memory, u64::MAX).unwrap();
    let file = rustix::fs::memfd_create("memory", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, SIZE).unwrap();
    let region = VhostUserMemoryRegion::new(0, SIZE, FRONTEND, 0);
    relay.set_mem_table(&[region], vec![file.into()]).unwrap();
    relay
}

fn event() -> File {
    rustix::event::eventfd(0, EventfdFlags::NONBLOCK).unwrap().into()
}

/// The control queue, whose rings are at 0, 0x1000 and 0x2000.
fn set_up(relay: &mut Relay, index: u32) -> Result<(), VhostUserError> {
    relay.set_features(CONTROLLED)?;
    relay.set_vring_num(index, 16)?;
    relay.set_vring_base(index, 0)?;
    let flags = VhostUserVringAddrFlags::empty();
    relay.set_vring_addr(index, flags, FRONTEND, FRONTEND + 0x2000, FRONTEND + 0x1000, 0)?;
    relay.set_vring_call(index.try_into().unwrap(), Some(event()))?;
    relay.set_vring_kick(index.try_into().unwrap(), Some(event()))?;
    relay.set_vring_enable(index, true)
}

/// The answer to the `number`th command, and whether the driver was told.
fn command(relay: &mut Relay, number: u16, command: &[u8]) -> (u8, bool) {
    let memory = relay.memory.memory().clone();
    memory.write_slice(command, GuestAddress(0x4000)).unwrap();
    memory.write_obj(0x77u8, GuestAddress(0x5000)).unwrap();
    let length = u32::try_from(command.len()).unwrap();
    let next = Desc { address: 0x4000, length, flags: NEXT, next: 1 };
    write_desc_at(&memory, 0, next);
    write_desc_at(&memory, 16, Desc { address: 0x5000, length: 1, flags: WRITE, next: 0 });
    memory.write_obj(0u16, GuestAddress(0x1004 + 2 * u64::from(number % 16))).unwrap();
    memory.write_obj(number + 1, GuestAddress(0x1002)).unwrap();
    relay.control().unwrap();
    let mut call = relay.rings[CONTROL as usize].call.as_ref().unwrap();
    let is_told = call.read(&mut [0; 8]).is_ok();
    (memory.read_obj(GuestAddress(0x5000)).unwrap(), is_told)
}

#[test]
fn the_control_queue_is_served_here_and_bounded() {
    let mut relay = relay();
    set_up(&mut relay, CONTROL).unwrap();
    assert!(relay.control_kick().unwrap().is_some());
    assert_eq!(command(&mut relay, 0, &[4, 0, 2, 0]), (0, true));
    assert_eq!(relay.in_use, 2);
    let malformed: [&[u8]; 6] = [&[], &[4, 0, 1], &[4, 0, 0, 0], &[4, 0, 3, 0], &[4, 1, 1, 0], &[0; 9]];
    for (number, bytes) in (1..).zip(malformed) {
        assert_eq!(command(&mut relay, number, bytes), (1, true), "{bytes:?}");
    }
    assert_eq!(relay.in_use, 2);
    let refused = (7..100).filter(|number| command(&mut relay, *number, &[4, 0, 1, 0]).0 == 1).count();
    assert!(refused > 0, "each takes locks of the host's kernel");
    relay.set_features(1 << VIRTIO_F_VERSION_1).unwrap();
    assert_eq!(relay.in_use, 1);
}

#[test]
fn what_no_frontend_sends_is_refused_before_the_kernel_hears_of_it() {
    let mut relay = relay();
    assert!(relay.set_features(1 << 40).is_err());
    relay.set_features(CONTROLLED).unwrap();
    for index in [5, 6, u32::MAX] {
        assert!(relay.set_vring_num(index, 16).is_err());
        assert!(relay.set_vring_enable(index, true).is_err());
        assert!(relay.get_vring_base(index).is_err());
    }
    for size in [0, 1025, u32::MAX] {
        assert!(relay.set_vring_num(0, size).is_err(), "{size}");
    }
    let flags = VhostUserVringAddrFlags::empty;
    for address in [0, FRONTEND - 1, FRONTEND + SIZE, u64::MAX] {
        assert!(relay.set_vring_addr(0, flags(), address, FRONTEND, FRONTEND, 0).is_err(), "{address:x}");
    }
    // The first address is in memory, and the end of the ring is not.
    relay.set_vring_num(0, 256).unwrap();
    relay.set_vring_addr(0, flags(), FRONTEND + SIZE - 16, FRONTEND, FRONTEND, 0).unwrap();
    relay.set_vring_call(0, Some(event())).unwrap();
    relay.set_vring_kick(0, Some(event())).unwrap();
    let error = relay.set_vring_enable(0, true).unwrap_err();
    assert!(error.to_string().contains("not in the guest's memory"), "{error}");
}
