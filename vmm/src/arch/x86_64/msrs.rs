//! Model-specific registers of a vCPU at the start, where the values of KVM's reset do not do.

use kvm_bindings::kvm_msr_entry;

// Intel SDM volume 4.
const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;

/// Bit 0 of `IA32_MISC_ENABLE`: the fast string instructions are good; else Linux turns them off.
const FAST_STRINGS: u64 = 1 << 0;
/// `IA32_MTRR_DEF_TYPE`: MTRRs are on (bit 11) and all memory is write-back (type 6), which is what a PC's
/// firmware would have set up. With MTRRs off, Linux takes all memory for uncached.
const ALL_WRITE_BACK: u64 = 1 << 11 | 6;

/// The registers to set on each vCPU.
pub(crate) fn boot_msrs() -> [kvm_msr_entry; 2] {
    let entry = |index, data| kvm_msr_entry { index, data, ..kvm_msr_entry::default() };
    [entry(IA32_MISC_ENABLE, FAST_STRINGS), entry(IA32_MTRR_DEF_TYPE, ALL_WRITE_BACK)]
}
