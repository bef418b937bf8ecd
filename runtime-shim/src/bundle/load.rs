//! Reads `config.json`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::Value;

use super::fields::{self, FieldError};
use super::validate::{self, SpecError};
use super::{device_binds, mounts, rights, socket_binds};

/// Name of the configuration in a bundle.
pub(crate) const CONFIG_FILE: &str = "config.json";

/// Largest configuration that is read; engines write a few hundred KiB at most.
const CONFIG_MAX: u64 = 16 << 20;

/// A bundle that has been read and checked.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// Its folder, canonical.
    pub(crate) directory: PathBuf,
    /// Its `config.json`.
    pub(crate) spec: Spec,
}

impl Bundle {
    /// Whether programs are to be run along with it.
    pub(crate) fn has_hooks(&self) -> bool {
        self.spec.hooks().as_ref().is_some_and(|hooks| {
            let lists = [
                hooks.prestart(),
                hooks.create_runtime(),
                hooks.create_container(),
                hooks.start_container(),
                hooks.poststart(),
                hooks.poststop(),
            ];
            lists.into_iter().flatten().any(|list| !list.is_empty())
        })
    }

    /// Whether the workload gets a terminal.
    pub(crate) fn wants_terminal(&self) -> bool {
        self.spec.process().as_ref().is_some_and(|process| process.terminal().unwrap_or(false))
    }
}

/// The bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// Its folder.
    #[error("cannot open the bundle {}", path.display())]
    Directory {
        /// As the user said it.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not there.
    #[error("the bundle {} has no {CONFIG_FILE}; write one with `runv spec` or `sandbox spec`", path.display())]
    NoConfig {
        /// The bundle.
        path: PathBuf,
    },
    /// Not readable.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not JSON, or not the specification's types.
    #[error("cannot parse {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What, and in which line and column.
        #[source]
        source: serde_json::Error,
    },
    /// What the specification forbids.
    #[error("invalid {}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Which field, and why.
        #[source]
        source: SpecError,
    },
    /// What this runtime cannot do yet.
    #[error("cannot do all that {} asks", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Which field.
        #[source]
        source: FieldError,
    },
}

/// Reads and checks the bundle in `path`.
pub(crate) fn load(path: &Path) -> Result<Bundle, BundleError> {
    let directory =
        path.canonicalize().map_err(|source| BundleError::Directory { path: path.to_owned(), source })?;
    if !directory.is_dir() {
        let source = io::ErrorKind::NotADirectory.into();
        return Err(BundleError::Directory { path: path.to_owned(), source });
    }
    let file = directory.join(CONFIG_FILE);
    let json = read(&file).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => BundleError::NoConfig { path: path.to_owned() },
        _ => BundleError::Read { path: file.clone(), source },
    })?;
    let mut spec = parse(&json, &file)?;
    device_binds::to_devices(&mut spec, &directory);
    socket_binds::mark(&mut spec, &directory);
    Ok(Bundle { directory, spec })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let size = usize::try_from(metadata.len().min(CONFIG_MAX)).unwrap_or(0);
    let mut json = Vec::with_capacity(size + 1);
    File::open(path)?.take(CONFIG_MAX + 1).read_to_end(&mut json)?;
    if json.len() as u64 > CONFIG_MAX {
        return Err(io::Error::other("it is larger than 16 MiB"));
    }
    Ok(json)
}

/// Checks the text of a configuration; `file` is for the errors.
fn parse(json: &[u8], file: &Path) -> Result<Spec, BundleError> {
    let path = || file.to_owned();
    let not_parsed = |source| BundleError::Parse { path: path(), source };
    let mut document: Value = serde_json::from_slice(json).map_err(not_parsed)?;
    let mut spec: Spec = if rights::adapt(&mut document) {
        serde_json::from_value(document.clone()).map_err(not_parsed)?
    } else {
        // From the text: its errors have a line.
        serde_json::from_slice(json).map_err(not_parsed)?
    };
    mounts::make_absolute(&mut spec);
    validate::check(&spec).map_err(|source| BundleError::Invalid { path: path(), source })?;
    fields::check(&document).map_err(|source| BundleError::Unsupported { path: path(), source })?;
    Ok(spec)
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "mutation_tests.rs"]
pub(crate) mod mutations;
