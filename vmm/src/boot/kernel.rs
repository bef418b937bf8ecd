//! Puts an ELF kernel into guest memory, touching as few pages as it can.
//!
//! Most of a kernel is code and constants of which a boot touches a fraction, so those pages are mapped from
//! the file, copy-on-write: nothing is read ahead, and all machines share the page cache's one copy. The
//! device backends see zeros there, which is sound because Linux keeps these pages for itself as long as it
//! runs. It does not hold for the rest: pages of `.init*` and the padding between sections are freed after
//! the boot and become buffers, and so they must be real guest memory.
//!
//! There is one exception among the constants: the vDSO images, which Linux maps into processes, and a
//! process can have a device write its own memory to a file. They stand at the end of `.rodata` ("read only
//! after init"); from the first of them on, everything is copied.
//!
//! The file must not change while the guest runs, as with any mapped program.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use super::elf::{self, ElfError, Image, Piece, Placement};
use crate::arch::x86_64::layout::PAGE_SIZE;
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
    #[error("cannot find its segment at {address:#x} in the file")]
    Seek {
        address: u64,
        #[source]
        source: std::io::Error,
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
pub(crate) fn load(memory: &Memory, file: &mut File) -> Result<Kernel, KernelError> {
    let image = elf::read_image(file, memory.low_end()).map_err(KernelError::Image)?;
    let Image { entry, segments, constants } = image;
    for segment in &segments {
        for piece in elf::plan(segment, &constants) {
            place(memory, file, piece)?;
        }
    }
    let end = segments.last().map_or(0, |segment| segment.address + segment.memory_size);
    Ok(Kernel { entry, end })
}

fn place(memory: &Memory, file: &mut File, piece: Piece) -> Result<(), KernelError> {
    let Piece { placement, address, offset, size } = piece;
    let failed = |source| KernelError::Load { address, source };
    match placement {
        Placement::Copy => copy(memory, file, piece),
        Placement::Map => {
            memory.map_private(address, file, offset, size).map_err(failed)?;
            let Some(constant) = first_elf_image(memory, address, size).map_err(failed)? else {
                return Ok(());
            };
            memory.restore(address + constant, size - constant).map_err(failed)?;
            copy(
                memory,
                file,
                Piece {
                    address: address + constant,
                    offset: offset + constant,
                    size: size - constant,
                    ..piece
                },
            )
        }
    }
}

fn copy(memory: &Memory, file: &mut File, piece: Piece) -> Result<(), KernelError> {
    let Piece { address, offset, size, .. } = piece;
    file.seek(SeekFrom::Start(offset)).map_err(|source| KernelError::Seek { address, source })?;
    memory.read_from(address, file, size).map_err(|source| KernelError::Load { address, source })
}

/// Offset of the first page that starts like an ELF file, as a vDSO does.
fn first_elf_image(memory: &Memory, address: u64, size: u64) -> Result<Option<u64>, MemoryError> {
    for page in (0..size).step_by(usize::try_from(PAGE_SIZE).unwrap_or(usize::MAX)) {
        let mut start = [0; 4];
        memory.read(address + page, &mut start)?;
        if start == *b"\x7fELF" {
            return Ok(Some(page));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::elf::tests::KernelFile;

    #[test]
    fn constants_are_mapped_and_the_rest_is_copied() {
        let memory = Memory::new(64).unwrap();
        let mut kernel_file = KernelFile::typical();
        kernel_file.write_at(0x3000, b"\x7fELF and on");
        let mut file = kernel_file.file();
        let kernel = load(&memory, &mut file).unwrap();
        assert_eq!(kernel.entry, 0x100_0000);

        let mut loaded = vec![0; 0x4000];
        memory.read(0x100_0000, &mut loaded).unwrap();
        assert!(loaded == kernel_file.bytes[0x1000..0x5000]);
        // What backends see is the memfd: of the text nothing, of the vDSO everything.
        assert!(memory.memfd_page(0x100_0000) == vec![0; 4096]);
        assert!(memory.memfd_page(0x100_2000) == kernel_file.bytes[0x3000..0x4000]);
        assert!(memory.memfd_page(0x100_3000) == kernel_file.bytes[0x4000..0x5000]);
    }

    #[test]
    fn a_file_that_is_no_kernel_says_so() {
        let memory = Memory::new(64).unwrap();
        let mut file = KernelFile { bytes: b"#!/bin/sh\n".to_vec() }.file();
        assert!(matches!(load(&memory, &mut file), Err(KernelError::Image(ElfError::NotElf))));
    }
}
