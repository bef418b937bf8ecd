//! A directory of many small files, as the host prepares it and a guest looks at it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Its name.
pub const DIRECTORY: &str = "crowd";
/// What is in each file.
pub const CONTENT: &[u8] = b"one of many\n";

/// Name of a file of the crowd.
#[must_use]
pub fn name(index: u64) -> String {
    format!("file-{index:05}")
}

/// Makes the directory in `parent`, with `count` files.
///
/// # Errors
/// When one cannot be made.
pub fn make(parent: &Path, count: u64) -> Result<()> {
    let directory = parent.join(DIRECTORY);
    fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for index in 0..count {
        fs::write(directory.join(name(index)), CONTENT).with_context(|| name(index))?;
    }
    Ok(())
}
