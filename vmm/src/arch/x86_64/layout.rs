//! The guest-physical address space, I/O ports and interrupt lines.
//!
//! ```text
//! 0x0000_0000  start structures (below), then RAM that the kernel keeps for itself
//! 0x0009_fc00  MP table; from here to 1 MiB is reserved, as on a PC
//! 0x0010_0000  RAM: kernel at its linked address, behind it the initrd
//! 0xc000_0000  gap: virtio-mmio at 0xd000_0000, I/O APIC, local APICs, KVM's own pages
//! 0x1_0000_0000  RAM beyond 3 GiB
//! ```

/// Size of a page.
pub(crate) const PAGE_SIZE: u64 = 0x1000;

/// Global descriptor table of the start.
pub(crate) const GDT: u64 = 0x500;
/// Page-map level 4 of the start; the next two levels follow in one page each.
pub(crate) const PML4: u64 = 0x9000;
/// Page-directory pointers of the start.
pub(crate) const PDPT: u64 = 0xa000;
/// Page directory of the start: maps the first GiB onto itself.
pub(crate) const PAGE_DIRECTORY: u64 = 0xb000;
/// How much the page tables of the start map.
pub(crate) const IDENTITY_MAPPED: u64 = 1 << 30;
/// Linux' `struct boot_params`, the "zero page".
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// Stack of the start, growing down. Linux' entry uses none, test guests do.
pub(crate) const BOOT_STACK: u64 = 0x8ff0;
/// Kernel command line, with its terminating zero.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// Longest command line with its zero, `COMMAND_LINE_SIZE` of Linux on x86.
pub(crate) const COMMAND_LINE_SIZE: usize = 2048;
/// MP floating pointer: the last KiB of base memory is one of the three places where a kernel looks for it
/// (Intel MultiProcessor Specification 1.4, section 4).
pub(crate) const MP_TABLE: u64 = 0x9_fc00;
/// End of low RAM that the kernel may use.
pub(crate) const BASE_MEMORY_END: u64 = MP_TABLE;
/// Where RAM goes on above the PC's legacy hole; nothing of a kernel may lie below.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;

/// Start of the gap below 4 GiB in which there is no RAM.
pub(crate) const MMIO_GAP: u64 = 0xc000_0000;
/// End of that gap.
pub(crate) const MMIO_GAP_END: u64 = 1 << 32;

/// First virtio-mmio device; the others follow, [`VIRTIO_SIZE`] bytes apart.
const VIRTIO_BASE: u64 = 0xd000_0000;
/// Register space of one virtio-mmio device.
pub(crate) const VIRTIO_SIZE: u64 = PAGE_SIZE;
/// Interrupt lines for virtio: what a PC has free. Not 0 (timer), 1 and 12 (i8042), 2 (cascade), 3 and 4
/// (serial ports), 8 (clock), 13 (FPU).
const VIRTIO_LINES: [u32; 16] = [5, 6, 7, 9, 10, 11, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23];

/// Address of the I/O APIC that KVM emulates.
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
/// Address of the local APICs that KVM emulates.
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel processors for real mode (`KVM_SET_TSS_ADDR`), where no RAM is.
pub(crate) const KVM_TSS: usize = 0xfffb_d000;

/// Interrupt line of the timer (PIT).
pub(crate) const TIMER_LINE: u32 = 0;
/// First serial port.
pub(crate) const SERIAL_PORT: u16 = 0x3f8;
/// Number of registers of the serial port.
pub(crate) const SERIAL_PORTS: u16 = 8;
/// Interrupt line of the first serial port.
pub(crate) const SERIAL_LINE: u32 = 4;
/// Command port of the i8042 keyboard controller, by which PCs are reset.
pub(crate) const I8042_COMMAND_PORT: u16 = 0x64;
/// Port whose writing ends the machine cleanly, as QEMU's `isa-debug-exit`.
pub(crate) const DEBUG_EXIT_PORT: u16 = 0x501;

/// Where a virtio-mmio device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VirtioSlot {
    /// Guest-physical address of its registers.
    pub(crate) base: u64,
    /// Its interrupt line.
    pub(crate) line: u32,
}

/// The place of the `index`th virtio device; `None` when all are taken.
pub(crate) fn virtio_slot(index: usize) -> Option<VirtioSlot> {
    let line = *VIRTIO_LINES.get(index)?;
    let offset = u64::try_from(index).ok()? * VIRTIO_SIZE;
    Some(VirtioSlot { base: VIRTIO_BASE + offset, line })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Interrupt lines of the I/O APIC that KVM emulates.
    const IO_APIC_LINES: u32 = 24;

    #[test]
    fn virtio_slots_are_distinct_and_end() {
        let slots: Vec<_> = (0..).map_while(virtio_slot).collect();
        assert_eq!(slots.len(), VIRTIO_LINES.len());
        let lines: BTreeSet<_> = slots.iter().map(|slot| slot.line).collect();
        assert_eq!(lines.len(), slots.len());
        for slot in &slots {
            assert!(slot.line < IO_APIC_LINES && slot.line != SERIAL_LINE);
            assert!(slot.base >= MMIO_GAP && slot.base + VIRTIO_SIZE <= u64::from(IO_APIC));
        }
    }
}
