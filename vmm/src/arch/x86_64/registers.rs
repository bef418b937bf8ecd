//! Registers and tables of a vCPU at the entry of a 64-bit kernel (Linux' `Documentation/arch/x86/boot.rst`,
//! "64-bit boot protocol"): long mode, interrupts off, flat segments `__BOOT_CS` 0x10 and `__BOOT_DS` 0x18,
//! the lowest memory mapped onto itself, `rsi` at the zero page.

use std::fmt::Write;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use super::layout;

// Control register and EFER bits, Intel SDM volume 3, sections 2.2.1 and 2.5.
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// RFLAGS with all flags clear: bit 1 always reads as one.
const RFLAGS_CLEAR: u64 = 1 << 1;

// Page-table entry bits.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const LARGE_PAGE: u64 = 2 << 20;

// Segment descriptors: base 0, limit 4 GiB, present; 64-bit code, data, and a busy TSS that nobody uses.
const GDT_CODE: u64 = 0x00af_9b00_0000_ffff;
const GDT_DATA: u64 = 0x00cf_9300_0000_ffff;
const GDT_TSS: u64 = 0x008f_8b00_0000_ffff;
/// Selectors 0 and 8 are unused, the boot protocol wants 0x10 and 0x18.
const GDT: [u64; 5] = [0, 0, GDT_CODE, GDT_DATA, GDT_TSS];

/// A piece of guest memory to be written before the start.
#[derive(Debug)]
pub(crate) struct Blob {
    /// Guest-physical address.
    pub(crate) address: u64,
    /// What stands there.
    pub(crate) bytes: Vec<u8>,
}

/// The descriptor table and page tables to which [`set_long_mode`] points.
pub(crate) fn start_tables() -> [Blob; 4] {
    let directory = (0..layout::IDENTITY_MAPPED / LARGE_PAGE)
        .flat_map(|page| ((page * LARGE_PAGE) | LARGE | WRITABLE | PRESENT).to_le_bytes());
    let table = |next: u64| (next | WRITABLE | PRESENT).to_le_bytes().to_vec();
    [
        Blob { address: layout::GDT, bytes: GDT.iter().flat_map(|entry| entry.to_le_bytes()).collect() },
        Blob { address: layout::PML4, bytes: table(layout::PDPT) },
        Blob { address: layout::PDPT, bytes: table(layout::PAGE_DIRECTORY) },
        Blob { address: layout::PAGE_DIRECTORY, bytes: directory.collect() },
    ]
}

/// Puts a vCPU's special registers, as they are after reset, into long mode.
pub(crate) fn set_long_mode(sregs: &mut kvm_sregs) {
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 5 * 8 - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0xffff;
    let data = segment(3, 0x3, false);
    sregs.cs = segment(2, 0xb, true);
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr = kvm_segment { s: 0, db: 0, ..segment(4, 0xb, false) };
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = layout::PML4;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
}

/// General registers at the kernel's entry.
pub(crate) fn entry_registers(entry: u64) -> kvm_regs {
    kvm_regs {
        rip: entry,
        rsi: layout::ZERO_PAGE,
        rsp: layout::BOOT_STACK,
        rflags: RFLAGS_CLEAR,
        ..kvm_regs::default()
    }
}

/// A flat segment of the descriptor at `index` in the table.
fn segment(index: u16, kind: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: index * 8,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..kvm_segment::default()
    }
}

/// One line that tells people where a vCPU was.
pub(crate) fn describe(regs: &kvm_regs, sregs: &kvm_sregs) -> String {
    let fields = [
        ("rip", regs.rip),
        ("rsp", regs.rsp),
        ("rflags", regs.rflags),
        ("rax", regs.rax),
        ("rbx", regs.rbx),
        ("rcx", regs.rcx),
        ("rdx", regs.rdx),
        ("rsi", regs.rsi),
        ("rdi", regs.rdi),
        ("rbp", regs.rbp),
        ("r8", regs.r8),
        ("r9", regs.r9),
        ("r10", regs.r10),
        ("r11", regs.r11),
        ("r12", regs.r12),
        ("r13", regs.r13),
        ("r14", regs.r14),
        ("r15", regs.r15),
        ("cr0", sregs.cr0),
        ("cr2", sregs.cr2),
        ("cr3", sregs.cr3),
        ("cr4", sregs.cr4),
        ("efer", sregs.efer),
        ("cs", u64::from(sregs.cs.selector)),
        ("ss", u64::from(sregs.ss.selector)),
    ];
    let mut text = String::new();
    for (name, value) in fields {
        let space = if text.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{space}{name}={value:#x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_tables_map_the_first_gib_onto_itself() {
        let [_, pml4, pdpt, directory] = start_tables();
        assert_eq!(pml4.bytes, (layout::PDPT | 3).to_le_bytes());
        assert_eq!(pdpt.bytes, (layout::PAGE_DIRECTORY | 3).to_le_bytes());
        assert_eq!(directory.bytes.len(), 4096);
        for (index, entry) in directory.bytes.chunks(8).enumerate() {
            let entry = u64::from_le_bytes(entry.try_into().unwrap());
            assert_eq!(entry, (index as u64) << 21 | 0x83);
        }
    }

    #[test]
    fn start_structures_do_not_overlap() {
        let mut ranges: Vec<_> =
            start_tables().iter().map(|blob| (blob.address, blob.bytes.len() as u64)).collect();
        ranges.push((layout::ZERO_PAGE, layout::PAGE_SIZE));
        ranges.push((layout::COMMAND_LINE, layout::COMMAND_LINE_SIZE as u64));
        ranges.push((layout::MP_TABLE, 1024));
        ranges.push((layout::BOOT_STACK & !0xfff, 0xff0));
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
    }

    #[test]
    fn a_description_names_each_register_once() {
        let regs = kvm_regs { rip: 0x1234, ..kvm_regs::default() };
        let text = describe(&regs, &kvm_sregs::default());
        assert!(text.starts_with("rip=0x1234 rsp=0x0 "));
        assert!(!text.contains('\n'));
    }
}
