//! Kernel parameters that make the guest boot with less work, whichever driver runs it. Pure.
//!
//! What they gain is measured in `guest-kernel/README.md`, "The command line". A kernel that does not know one
//! of them ignores it.

/// No bounce buffers (64 MiB, 24 M instructions), which no virtio-mmio device uses.
const NO_BOUNCE_BUFFERS: &str = "swiotlb=noforce";

/// Memory in MiB from which some lies above 4 GiB, so that the kernel would make bounce buffers.
const BOUNCE_BUFFERS_FROM_MIB: u32 = 3072;

/// The parameters for a guest of this much memory.
pub(crate) fn kernel_parameters(memory_mib: u32) -> Vec<String> {
    let large = (memory_mib >= BOUNCE_BUFFERS_FROM_MIB).then_some(NO_BOUNCE_BUFFERS);
    large.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_guests_are_told_about_bounce_buffers() {
        let told = |mib| kernel_parameters(mib).contains(&NO_BOUNCE_BUFFERS.to_owned());
        assert!(!told(3071));
        assert!(told(3072));
    }
}
