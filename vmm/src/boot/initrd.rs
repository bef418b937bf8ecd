//! Puts the initrd behind the kernel, in the huge page that has the kernel's end.
//!
//! It is copied: the kernel reads all of it, and frees it then, so that it becomes memory for other uses.

use std::fs::File;
use std::io;

use crate::arch::x86_64::boot_params::Range;
use crate::arch::x86_64::layout::PAGE_SIZE;
use crate::memory::{Memory, MemoryError};

/// The initrd could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitrdError {
    #[error("cannot read its size")]
    Size(#[source] io::Error),
    #[error("it is empty")]
    Empty,
    #[error("its {size} bytes do not fit into guest memory beside the kernel; give the guest more")]
    TooLarge { size: u64 },
    #[error("cannot load it")]
    Load(#[source] MemoryError),
}

/// Loads the initrd in `file` above `kernel_end`.
pub(crate) fn load(memory: &Memory, file: &File, kernel_end: u64) -> Result<Range, InitrdError> {
    let size = file.metadata().map_err(InitrdError::Size)?.len();
    if size == 0 {
        return Err(InitrdError::Empty);
    }
    let start = kernel_end.next_multiple_of(PAGE_SIZE);
    if start.checked_add(size).is_none_or(|end| end > memory.low_end()) {
        return Err(InitrdError::TooLarge { size });
    }
    memory.copy_from(start, file, 0, size).map_err(InitrdError::Load)?;
    Ok(Range { start, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn it_starts_in_the_first_page_behind_the_kernel() {
        let memory = Memory::new(64).unwrap();
        let range = load(&memory, &file(&[9; 5000]), 0x200_0001).unwrap();
        assert_eq!(range, Range { start: 0x200_1000, size: 5000 });
        let mut last = [0; 2];
        memory.read(range.start + 4999, &mut last).unwrap();
        assert_eq!(last, [9, 0]);
    }

    #[test]
    fn empty_and_too_large_ones_are_refused() {
        let memory = Memory::new(64).unwrap();
        assert!(matches!(load(&memory, &file(&[]), 0), Err(InitrdError::Empty)));
        let large = file(&[1]);
        large.set_len(65 << 20).unwrap();
        assert!(matches!(load(&memory, &large, 0), Err(InitrdError::TooLarge { .. })));
        let result = load(&memory, &file(&[1; 4097]), (64 << 20) - 4096);
        assert!(matches!(result, Err(InitrdError::TooLarge { size: 4097 })));
    }
}
