//! What CPUID tells the guest: the host's processor as far as KVM supports it, without nested
//! virtualization, and with the topology of this machine: each vCPU is a core of its own in one package.

use kvm_bindings::kvm_cpuid_entry2;

/// Properties of the machine that CPUID shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processor {
    /// Number of vCPUs, which have the APIC ids from 0.
    pub(crate) cpus: u8,
    /// KVM emulates the TSC deadline timer (`KVM_CAP_TSC_DEADLINE_TIMER`).
    pub(crate) tsc_deadline: bool,
}

// Leaf 1, ECX and EDX.
const VMX: u32 = 1 << 5;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const HTT: u32 = 1 << 28;
// Leaf 0x8000_0001, ECX.
const CMP_LEGACY: u32 = 1 << 1;
const SVM: u32 = 1 << 2;
// Level types of leaf 0xb, bits 15 to 8 of ECX.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// Adapts what KVM supports on this host to the vCPU with APIC id `apic_id`.
///
/// An extended topology leaf is written once for each of its levels that KVM lists.
pub(crate) fn adapt(entries: &mut [kvm_cpuid_entry2], processor: Processor, apic_id: u8) {
    let id = u32::from(apic_id);
    let cpus = u32::from(processor.cpus);
    for entry in entries {
        match entry.function {
            0x1 => {
                entry.ebx = (entry.ebx & 0x0000_ffff) | cpus << 16 | id << 24;
                entry.ecx = (entry.ecx & !VMX & !TSC_DEADLINE) | HYPERVISOR;
                if processor.tsc_deadline {
                    entry.ecx |= TSC_DEADLINE;
                }
                set(&mut entry.edx, HTT, cpus > 1);
            }
            0x4 => adapt_intel_cache(entry, cpus),
            // No performance counters: their state would cost each entry, and the kernel's probing costs exits.
            0xa => clear(entry),
            0xb | 0x1f => adapt_topology(entry, id, cpus),
            0x8000_0001 => {
                entry.ecx &= !SVM;
                set(&mut entry.ecx, CMP_LEGACY, cpus > 1);
            }
            0x8000_0008 => {
                // ECX: number of cores less one, bits 7 to 0; size of the core's part of the APIC id, 15 to 12.
                entry.ecx = (entry.ecx & !0xf0ff) | (cpus - 1) | id_bits(cpus) << 12;
            }
            0x8000_000a => clear(entry),
            0x8000_001d => adapt_amd_cache(entry, cpus),
            0x8000_001e => {
                // Extended APIC id; core id with one thread in it; one node.
                entry.eax = id;
                entry.ebx = id;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
}

/// Leaf 4: who shares a cache, bits 25 to 14 of EAX (less one); cores in the package, bits 31 to 26.
fn adapt_intel_cache(entry: &mut kvm_cpuid_entry2, cpus: u32) {
    if entry.eax & 0x1f == 0 {
        return; // Past the last cache.
    }
    let sharing = sharing_of_level(entry.eax >> 5 & 7, cpus);
    entry.eax = (entry.eax & 0x3fff) | (sharing - 1) << 14 | ((1 << id_bits(cpus)) - 1).min(0x3f) << 26;
}

/// Leaf 0x8000_001d: the same in AMD's form, without the cores.
fn adapt_amd_cache(entry: &mut kvm_cpuid_entry2, cpus: u32) {
    if entry.eax & 0x1f == 0 {
        return;
    }
    let sharing = sharing_of_level(entry.eax >> 5 & 7, cpus);
    entry.eax = (entry.eax & !0x03ff_c000) | (sharing - 1) << 14;
}

/// Caches of the first two levels belong to a core, the others to the package.
fn sharing_of_level(level: u32, cpus: u32) -> u32 {
    if level < 3 { 1 } else { 1 << id_bits(cpus) }
}

/// Leaf 0xb and its successor 0x1f: level 0 is the thread, level 1 the core, then an end mark.
fn adapt_topology(entry: &mut kvm_cpuid_entry2, id: u32, cpus: u32) {
    let (shift, count, kind) = match entry.index {
        0 => (0, 1, LEVEL_THREAD),
        1 => (id_bits(cpus), cpus, LEVEL_CORE),
        _ => (0, 0, 0),
    };
    entry.eax = shift;
    entry.ebx = count;
    entry.ecx = entry.index | kind;
    entry.edx = id;
}

/// Adds the levels of leaf 0xb that KVM's list lacks: KVM lists only those that the host has.
pub(crate) fn missing_topology_levels(entries: &[kvm_cpuid_entry2]) -> Vec<kvm_cpuid_entry2> {
    let has = |index| entries.iter().any(|entry| entry.function == 0xb && entry.index == index);
    if !has(0) {
        return Vec::new();
    }
    (1..3)
        .filter(|index| !has(*index))
        .map(|index| kvm_cpuid_entry2 {
            function: 0xb,
            index,
            flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            ..kvm_cpuid_entry2::default()
        })
        .collect()
}

/// Bits that the ids of `cpus` vCPUs take.
fn id_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    entry.eax = 0;
    entry.ebx = 0;
    entry.ecx = 0;
    entry.edx = 0;
}

fn set(register: &mut u32, bits: u32, on: bool) {
    if on {
        *register |= bits;
    } else {
        *register &= !bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapted(function: u32, index: u32, before: [u32; 4], cpus: u8, apic_id: u8) -> [u32; 4] {
        let [eax, ebx, ecx, edx] = before;
        let mut entries =
            [kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..kvm_cpuid_entry2::default() }];
        adapt(&mut entries, Processor { cpus, tsc_deadline: true }, apic_id);
        [entries[0].eax, entries[0].ebx, entries[0].ecx, entries[0].edx]
    }

    #[test]
    fn leaf_1_shows_the_hypervisor_but_no_vmx() {
        let [_, ebx, ecx, edx] = adapted(1, 0, [0, 0x0704_0800, VMX, 0], 2, 1);
        assert_eq!(ebx, 0x0102_0800);
        assert_eq!(ecx, HYPERVISOR | TSC_DEADLINE);
        assert_eq!(edx, HTT);
        let [_, ebx, _, edx] = adapted(1, 0, [0, 0x0704_0800, 0, HTT], 1, 0);
        assert_eq!((ebx, edx), (0x0001_0800, 0));
    }

    #[test]
    fn nested_svm_and_performance_counters_are_hidden() {
        assert_eq!(adapted(0x8000_0001, 0, [0, 0, SVM | 1, 0], 1, 0)[2], 1);
        assert_eq!(adapted(0x8000_000a, 0, [1, 16, 0, 0x1_ffff], 1, 0), [0; 4]);
        assert_eq!(adapted(0xa, 0, [0x0830_0402, 1, 2, 3], 1, 0), [0; 4]);
    }

    #[test]
    fn topology_levels_count_threads_then_cores() {
        assert_eq!(adapted(0xb, 0, [9, 9, 9, 9], 6, 5), [0, 1, LEVEL_THREAD, 5]);
        assert_eq!(adapted(0xb, 1, [9, 9, 9, 9], 6, 5), [3, 6, LEVEL_CORE | 1, 5]);
        assert_eq!(adapted(0xb, 2, [9, 9, 9, 9], 6, 5), [0, 0, 2, 5]);
    }

    #[test]
    fn only_the_last_level_cache_is_shared() {
        let level2 = 0x3ff_c000 | 2 << 5 | 3;
        let level3 = 3 << 5 | 3;
        assert_eq!(adapted(4, 2, [level2, 1, 2, 3], 4, 0)[0], 2 << 5 | 3 | 3 << 26);
        assert_eq!(adapted(4, 3, [level3, 1, 2, 3], 4, 0)[0], 3 << 5 | 3 | 3 << 14 | 3 << 26);
        assert_eq!(adapted(4, 4, [0, 0, 0, 0], 4, 0)[0], 0);
        assert_eq!(adapted(0x8000_001d, 3, [level3, 1, 2, 3], 2, 0)[0], 3 << 5 | 3 | 1 << 14);
    }

    #[test]
    fn absent_topology_levels_are_added_once() {
        let level = |index| kvm_cpuid_entry2 { function: 0xb, index, ..kvm_cpuid_entry2::default() };
        let added = missing_topology_levels(&[level(0)]);
        assert_eq!(added.iter().map(|entry| entry.index).collect::<Vec<_>>(), [1, 2]);
        assert!(missing_topology_levels(&[level(0), level(1), level(2)]).is_empty());
        assert!(missing_topology_levels(&[]).is_empty());
    }
}
