//! Huge pages: taken from the guest's free memory when a container asks for them.
//!
//! An administrator reserves them at boot; a guest has one container, whose limits say how many it may have, so that
//! here they need no reservation.

use std::fs;
use std::io;
use std::path::Path;

/// Where the kernel has a folder for each size of pages (Documentation/admin-guide/mm/hugetlbpage.rst).
const SIZES: &str = "/sys/kernel/mm/hugepages";

/// More than any guest has; the kernel stops where its memory ends.
const PLENTY: &str = "1048576";

/// Lets every size of huge pages be had without a reservation. Sizes that the kernel only gives at boot are left
/// out, and so is everything in a kernel without huge pages.
///
/// # Errors
///
/// Those of reading and writing sysfs.
pub fn allow() -> io::Result<()> {
    let sizes = match fs::read_dir(Path::new(SIZES)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for size in sizes {
        match fs::write(size?.path().join("nr_overcommit_hugepages"), PLENTY) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            other => other?,
        }
    }
    Ok(())
}
