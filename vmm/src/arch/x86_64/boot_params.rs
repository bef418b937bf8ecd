//! The zero page: what a boot loader tells Linux (`Documentation/arch/x86/zero-page.rst` and `boot.rst`).

use linux_loader::bootparam::{boot_e820_entry, boot_params};

use super::layout;

// Header fields, boot.rst.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448; // "HdrS"
const PROTOCOL_VERSION: u16 = 0x020f;
const UNREGISTERED_LOADER: u8 = 0xff;
/// `loadflags` bit 0: the kernel is loaded high.
const LOADED_HIGH: u8 = 1 << 0;
/// `loadflags` bit 1: address randomization is wanted. An uncompressed kernel is not moved, but it takes
/// this as the leave to randomize its memory areas (`kaslr_memory_enabled`).
const KASLR: u8 = 1 << 1;

// E820 types.
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// A range of guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    /// First address.
    pub(crate) start: u64,
    /// Number of bytes.
    pub(crate) size: u64,
}

/// Builds the zero page for RAM in `ram` (the first range starts at 0) and an initrd.
pub(crate) fn zero_page(ram: &[Range], initrd: Range) -> boot_params {
    let mut page = boot_params::default();
    page.hdr.boot_flag = BOOT_FLAG;
    page.hdr.header = HEADER_MAGIC;
    page.hdr.version = PROTOCOL_VERSION;
    page.hdr.type_of_loader = UNREGISTERED_LOADER;
    page.hdr.loadflags = LOADED_HIGH | KASLR;
    page.hdr.cmd_line_ptr = low(layout::COMMAND_LINE);
    page.hdr.cmdline_size = low(layout::COMMAND_LINE_SIZE as u64);
    page.hdr.ramdisk_image = low(initrd.start);
    page.hdr.ramdisk_size = low(initrd.size);
    let map = memory_map(ram);
    for (slot, entry) in page.e820_table.iter_mut().zip(&map) {
        *slot = *entry;
    }
    page.e820_entries = u8::try_from(map.len()).unwrap_or_default();
    page
}

/// RAM as the kernel may use it: without the PC's hole below 1 MiB, where the MP table is.
fn memory_map(ram: &[Range]) -> Vec<boot_e820_entry> {
    let entry = |start: u64, end: u64, kind| boot_e820_entry { addr: start, size: end - start, type_: kind };
    let mut map = vec![
        entry(0, layout::BASE_MEMORY_END, RAM),
        entry(layout::BASE_MEMORY_END, layout::HIGH_MEMORY, RESERVED),
    ];
    for range in ram {
        let start = range.start.max(layout::HIGH_MEMORY);
        let end = range.start + range.size;
        if start < end {
            map.push(entry(start, end, RAM));
        }
    }
    map
}

/// Everything that the loader places lies below 4 GiB.
fn low(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map_of(page: &boot_params) -> Vec<(u64, u64, u32)> {
        let count = usize::from(page.e820_entries);
        page.e820_table[..count].iter().map(|entry| (entry.addr, entry.size, entry.type_)).collect()
    }

    #[test]
    fn the_memory_map_leaves_out_the_hole_and_the_gap() {
        let ram = [Range { start: 0, size: 3 << 30 }, Range { start: 4 << 30, size: 1 << 30 }];
        let page = zero_page(&ram, Range { start: 0x1000, size: 5 });
        assert_eq!(
            map_of(&page),
            [
                (0, 0x9_fc00, RAM),
                (0x9_fc00, 0x10_0000 - 0x9_fc00, RESERVED),
                (0x10_0000, (3 << 30) - 0x10_0000, RAM),
                (4 << 30, 1 << 30, RAM),
            ]
        );
    }

    #[test]
    fn the_header_is_what_a_kernel_accepts() {
        let page = zero_page(&[Range { start: 0, size: 64 << 20 }], Range { start: 0x3f0_0000, size: 77 });
        let header = page.hdr;
        assert_eq!({ header.boot_flag }, 0xaa55);
        assert_eq!(&{ header.header }.to_le_bytes(), b"HdrS");
        assert_eq!(({ header.ramdisk_image }, { header.ramdisk_size }), (0x3f0_0000, 77));
        assert_eq!({ header.loadflags } & KASLR, KASLR);
        assert_eq!(page.sentinel, 0);
        assert_eq!(std::mem::size_of::<boot_params>(), 4096);
    }
}
