//! The MP configuration table, by which the kernel finds its vCPUs and interrupt lines without ACPI (Intel
//! MultiProcessor Specification 1.4, sections 4.1 to 4.3).

use super::layout;

const SPEC_REVISION: u8 = 4;
/// Version register of the APICs that KVM emulates.
const APIC_VERSION: u8 = 0x14;

// Entry types, section 4.3.
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

// Processor flags, section 4.3.1.
const ENABLED: u8 = 1 << 0;
const BOOTSTRAP: u8 = 1 << 1;

// Interrupt types, section 4.3.4.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// The one bus; every entry refers to it.
const ISA_BUS: u8 = 0;
/// All local APICs, section 4.3.5.
const ALL_LOCAL_APICS: u8 = 0xff;

const HEADER_SIZE: usize = 44;
const FLOATING_POINTER_SIZE: u32 = 16;

/// More vCPUs than this cannot be numbered: the I/O APIC has a number too, and 255 means all.
pub(crate) const MAX_CPUS: u8 = 254;

/// The floating pointer and behind it the table for `cpus` vCPUs with APIC ids from 0 and these interrupt `lines`,
/// to be put at [`layout::MP_TABLE`]. The kernel sets up each line that it is told of, by some exits.
pub(crate) fn mp_table(cpus: u8, lines: &[u8]) -> Vec<u8> {
    let (count, entries) = entries(cpus, lines);
    let header = header(count, &entries);
    let address = u32::try_from(layout::MP_TABLE).unwrap_or_default() + FLOATING_POINTER_SIZE;
    let mut bytes = floating_pointer(address);
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&entries);
    bytes
}

/// Section 4.1.
fn floating_pointer(table: u32) -> Vec<u8> {
    let mut bytes = b"_MP_".to_vec();
    bytes.extend_from_slice(&table.to_le_bytes());
    // Length in units of 16 bytes, revision, checksum, features: a table is there, virtual wire mode.
    bytes.extend_from_slice(&[1, SPEC_REVISION, 0, 0, 0, 0, 0, 0]);
    set_checksum(&mut bytes, &[], 10);
    bytes
}

/// Section 4.2.
fn header(count: u16, entries: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER_SIZE + entries.len()).unwrap_or(u16::MAX);
    let mut bytes = b"PCMP".to_vec();
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&[SPEC_REVISION, 0]);
    bytes.extend_from_slice(b"RUNV    MICROVM     ");
    bytes.extend_from_slice(&[0; 6]); // No OEM table.
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&layout::LOCAL_APIC.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]); // No extended table.
    set_checksum(&mut bytes, entries, 7);
    bytes
}

/// The number of entries and their bytes, in the order of their types as the specification wants.
fn entries(cpus: u8, lines: &[u8]) -> (u16, Vec<u8>) {
    let io_apic = cpus;
    let mut bytes = Vec::with_capacity(usize::from(cpus) * 20 + 300);
    let mut count = 0;
    let mut push = |entry: &[u8]| {
        bytes.extend_from_slice(entry);
        count += 1;
    };
    for cpu in 0..cpus {
        let flags = ENABLED | if cpu == 0 { BOOTSTRAP } else { 0 };
        let mut entry = [0; 20];
        entry[..4].copy_from_slice(&[PROCESSOR, cpu, APIC_VERSION, flags]);
        // Family 6 with an FPU and an APIC. Kernels take the truth from CPUID.
        entry[4..12].copy_from_slice(&[0x00, 0x06, 0, 0, 0x01, 0x02, 0, 0]);
        push(&entry);
    }
    push(&[BUS, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = layout::IO_APIC.to_le_bytes();
    push(&[IO_APIC, io_apic, APIC_VERSION, ENABLED, a, b, c, d]);
    // Each line of the bus is the same line of the I/O APIC, edge-triggered as the bus is; "conforms to the
    // bus" is 0.
    for line in lines {
        push(&[IO_INTERRUPT, INT, 0, 0, ISA_BUS, *line, io_apic, *line]);
    }
    push(&[LOCAL_INTERRUPT, EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
    push(&[LOCAL_INTERRUPT, NMI, 0, 0, ISA_BUS, 0, ALL_LOCAL_APICS, 1]);
    (count, bytes)
}

/// Sets the byte at `position` so that all bytes of `table` and `rest` add up to zero.
fn set_checksum(table: &mut [u8], rest: &[u8], position: usize) {
    let sum = table.iter().chain(rest).fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = table.get_mut(position) {
        *byte = sum.wrapping_neg();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_LINES: [u8; 24] = {
        let mut lines = [0; 24];
        let mut line = 0;
        while line < 24 {
            lines[line as usize] = line;
            line += 1;
        }
        lines
    };

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn pointer_and_table_add_up_to_zero_and_agree_on_lengths() {
        for cpus in [1, 2, 37, MAX_CPUS] {
            let bytes = mp_table(cpus, &ALL_LINES);
            let (pointer, table) = bytes.split_at(16);
            assert_eq!(&pointer[..4], b"_MP_");
            assert_eq!(sum(pointer), 0);
            let address = u32::from_le_bytes(pointer[4..8].try_into().unwrap());
            assert_eq!(u64::from(address), layout::MP_TABLE + 16);
            assert_eq!(&table[..4], b"PCMP");
            assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
            assert_eq!(sum(table), 0);
        }
    }

    #[test]
    fn a_reader_finds_each_vcpu_once_and_the_first_as_bootstrap() {
        let bytes = mp_table(3, &[0, 4, 5]);
        let table = &bytes[16..];
        let count = u16::from_le_bytes([table[34], table[35]]);
        let mut rest = &table[HEADER_SIZE..];
        let mut processors = Vec::new();
        let mut lines = Vec::new();
        for _ in 0..count {
            let length = if rest[0] == PROCESSOR { 20 } else { 8 };
            match rest[0] {
                PROCESSOR => processors.push((rest[1], rest[3])),
                IO_INTERRUPT => lines.push((rest[5], rest[7])),
                _ => {}
            }
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
        assert_eq!(processors, [(0, 3), (1, 1), (2, 1)]);
        assert_eq!(lines, [(0, 0), (4, 4), (5, 5)]);
    }

    #[test]
    fn the_largest_table_ends_below_the_kernel() {
        assert!(layout::MP_TABLE + mp_table(MAX_CPUS, &ALL_LINES).len() as u64 <= layout::HIGH_MEMORY);
    }
}
