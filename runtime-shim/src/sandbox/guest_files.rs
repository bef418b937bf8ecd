//! The guest's kernel and initrd, looked at before anything is started.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::installation::{Installation, InstallationError};
use crate::config::Config;

/// Magic, 64-bit, little endian (System V ABI, "ELF header").
const ELF: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];

/// A file of the guest cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestFileError {
    /// Nothing installed.
    #[error(transparent)]
    Installation(#[from] InstallationError),
    /// The file.
    #[error("cannot read the {what} {} (--{what})", path.display())]
    Read {
        /// Which, as the option names it.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its contents.
    #[error("the kernel {} is not a 64-bit ELF file; say an uncompressed vmlinux (--kernel)", .0.display())]
    NotElf(PathBuf),
    /// Nothing in it.
    #[error("the initrd {} is empty (--initrd)", .0.display())]
    Empty(PathBuf),
}

/// Kernel and initrd: the configured, else the installed ones.
pub(crate) fn find(
    config: &Config,
    installation: &Installation,
) -> Result<(PathBuf, PathBuf), GuestFileError> {
    let kernel = config.kernel.clone().map_or_else(|| installation.kernel(), Ok)?;
    if start_of("kernel", &kernel)? != ELF {
        return Err(GuestFileError::NotElf(kernel));
    }
    let initrd = config.initrd.clone().map_or_else(|| installation.initrd(), Ok)?;
    if start_of("initrd", &initrd)?.is_empty() {
        return Err(GuestFileError::Empty(initrd));
    }
    Ok((kernel, initrd))
}

fn start_of(what: &'static str, path: &Path) -> Result<Vec<u8>, GuestFileError> {
    let failed = |source| GuestFileError::Read { what, path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is no regular file")));
    }
    let mut start = Vec::new();
    file.take(ELF.len() as u64).read_to_end(&mut start).map_err(failed)?;
    Ok(start)
}
