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

/// The kernel: the configured, else the installed one.
pub(crate) fn kernel(config: &Config, installation: &Installation) -> Result<PathBuf, GuestFileError> {
    let kernel = config.kernel.clone().map_or_else(|| installation.kernel(), Ok)?;
    if start_of("kernel", &kernel)? == ELF { Ok(kernel) } else { Err(GuestFileError::NotElf(kernel)) }
}

/// The initrd: the configured, else the installed one.
pub(crate) fn initrd(config: &Config, installation: &Installation) -> Result<PathBuf, GuestFileError> {
    let initrd = config.initrd.clone().map_or_else(|| installation.initrd(), Ok)?;
    if start_of("initrd", &initrd)?.is_empty() { Err(GuestFileError::Empty(initrd)) } else { Ok(initrd) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_files_are_told_with_the_option() {
        let folder = tempfile::tempdir().unwrap();
        let installation = Installation::of_this_program().unwrap();
        let text = folder.path().join("text");
        std::fs::write(&text, "#!/bin/sh").unwrap();
        let empty = folder.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        let config = |path: &Path| Config {
            kernel: Some(path.to_owned()),
            initrd: Some(path.to_owned()),
            ..Config::default()
        };
        for (path, kernel_error, initrd_error) in [
            (text.as_path(), "is not a 64-bit ELF file", ""),
            (empty.as_path(), "is not a 64-bit ELF file", "is empty (--initrd)"),
            (folder.path(), "(--kernel)", "(--initrd)"),
            (Path::new("/nonexistent"), "(--kernel)", "(--initrd)"),
        ] {
            let error = kernel(&config(path), &installation).unwrap_err().to_string();
            assert!(error.contains(kernel_error), "{error}");
            let error = initrd(&config(path), &installation).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(initrd_error), "{error}");
        }
    }
}
