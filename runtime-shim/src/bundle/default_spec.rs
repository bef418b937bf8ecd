//! The `config.json` that `sandbox spec` writes: what `runc spec` writes, so that both run the same bundles.

/// The text of the file.
pub(crate) const TEXT: &str = include_str!("default.json");
