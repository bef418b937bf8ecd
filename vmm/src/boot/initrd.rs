//! Puts the initrd at the end of low memory.
//!
//! The file itself is mapped, copy-on-write, so nothing is copied and all machines share its pages. Backends
//! do not see them, which is sound because the kernel is told to keep them (`retain_initrd`, see
//! [`super::cmdline`]): they never become a device's buffers.

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
    #[error("cannot map it")]
    Map(#[source] MemoryError),
}

/// Loads the initrd in `file` above `kernel_end`.
pub(crate) fn load(memory: &Memory, file: &File, kernel_end: u64) -> Result<Range, InitrdError> {
    let size = file.metadata().map_err(InitrdError::Size)?.len();
    if size == 0 {
        return Err(InitrdError::Empty);
    }
    let start = memory.low_end().checked_sub(size).map(|start| start / PAGE_SIZE * PAGE_SIZE);
    let start = start.filter(|start| *start >= kernel_end).ok_or(InitrdError::TooLarge { size })?;
    memory.map_private(start, file, 0, size.next_multiple_of(PAGE_SIZE)).map_err(InitrdError::Map)?;
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
    fn it_ends_in_the_last_page_of_low_memory() {
        let memory = Memory::new(64).unwrap();
        let range = load(&memory, &file(&[9; 5000]), 0x200_0000).unwrap();
        assert_eq!(range, Range { start: (64 << 20) - 8192, size: 5000 });
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
