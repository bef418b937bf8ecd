//! Puts an ELF kernel into guest memory, touching as few pages as it can.
//!
//! Most of a kernel is code of which a boot touches a fraction, so those pages are mapped from the file,
//! copy-on-write: nothing is read ahead, and all machines share the page cache's one copy. The device backends
//! see zeros there, which is sound because Linux keeps these pages for itself as long as it runs. It does not
//! hold for the rest: pages of `.init*` and the padding between sections are freed after the boot and become
//! buffers, and the vDSO images among the constants are mapped into processes, which can have a device write
//! their memory to a file. So those must be real guest memory.
//!
//! The first 2 MiB of the code and the constants are copied though both could be mapped: of them a boot touches
//! half the pages and more, and in huge pages that costs one fault each.
//!
//! The file must not change while the guest runs, as with any mapped program.

use std::fs::File;

use super::elf::{self, ElfError, Image, Piece, Placement};
use crate::memory::{Memory, MemoryError};

/// The kernel could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    #[error("it cannot be booted")]
    Image(#[source] ElfError),
    #[error("cannot load its segment at {address:#x}")]
    Load {
        address: u64,
        #[source]
        source: MemoryError,
    },
}

/// A kernel in guest memory.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Guest-physical address of its 64-bit entry.
    pub(crate) entry: u64,
    /// First address after all that it takes at the start.
    pub(crate) end: u64,
}

/// Loads the kernel in `file` to the addresses for which it was linked.
pub(crate) fn load(memory: &Memory, file: &File) -> Result<Kernel, KernelError> {
    let image = elf::read_image(file, memory.low_end()).map_err(KernelError::Image)?;
    let Image { entry, segments, code } = image;
    for segment in &segments {
        for piece in elf::plan(segment, &code) {
            place(memory, file, piece)?;
        }
    }
    let end = segments.last().map_or(0, |segment| segment.address + segment.memory_size);
    Ok(Kernel { entry, end })
}

fn place(memory: &Memory, file: &File, piece: Piece) -> Result<(), KernelError> {
    let Piece { placement, address, offset, size } = piece;
    let failed = |source| KernelError::Load { address, source };
    if placement == Placement::Copy {
        return memory.copy_from(address, file, offset, size).map_err(failed);
    }
    memory.map_private(address, file, offset, size).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::elf::tests::KernelFile;

    #[test]
    fn code_is_mapped_and_the_rest_is_copied() {
        let memory = Memory::new(64).unwrap();
        let kernel_file = KernelFile::typical();
        let file = kernel_file.file();
        let kernel = load(&memory, &file).unwrap();
        assert_eq!(kernel.entry, 0x100_0000);

        let mut loaded = vec![0; 0x20_4000];
        memory.read(0x100_0000, &mut loaded).unwrap();
        assert!(loaded == kernel_file.bytes[0x1000..0x20_5000]);
        // What backends see is the memory's own file: all but the code.
        assert!(memory.backend_page(0x11f_f000) == kernel_file.bytes[0x20_0000..0x20_1000]);
        assert!(memory.backend_page(0x120_0000) == vec![0; 4096]);
        assert!(memory.backend_page(0x120_1000) == kernel_file.bytes[0x20_2000..0x20_3000]);
    }

    #[test]
    fn a_file_that_is_no_kernel_says_so() {
        let memory = Memory::new(64).unwrap();
        let file = KernelFile { bytes: b"#!/bin/sh\n".to_vec() }.file();
        assert!(matches!(load(&memory, &file), Err(KernelError::Image(ElfError::NotElf))));
    }
}
