//! The `config.json` that `spec` writes: what `runc spec` writes, so that both run the same bundles.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;

use super::load::CONFIG_FILE;
use crate::failure::Failure;

/// The text of the file.
pub(crate) const TEXT: &str = include_str!("default.json");

/// Writes it into a bundle that has none.
pub(crate) fn write(bundle: &Path) -> Result<(), Failure> {
    let path = bundle.join(CONFIG_FILE);
    let mut file = File::create_new(&path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow::anyhow!("{} exists; remove it first", path.display()),
        _ => anyhow::Error::new(error).context(format!("cannot make {}", path.display())),
    })?;
    file.write_all(TEXT.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}
