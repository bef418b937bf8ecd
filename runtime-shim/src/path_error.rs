//! A step that failed on a file of the host, with its path: one form for all who work on files.

use std::io;
use std::path::{Path, PathBuf};

/// What was tried, on what, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub(crate) struct PathError {
    step: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// For `map_err`: a step on a path failed.
pub(crate) fn failed<E: Into<io::Error>>(step: &'static str, path: &Path) -> impl FnOnce(E) -> PathError {
    move |source| PathError { step, path: path.to_owned(), source: source.into() }
}
