//! The guest's kernel and initrd, opened and looked at before anything is started.

use std::fmt;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use vmm::config::GuestFile;

use super::installation::{Installation, InstallationError};
use super::kernel_directories::{DirectoryError, open_in};
use crate::bundle::machine_parts::{ChosenBy, ChosenFile};

/// Magic, 64-bit, little endian (System V ABI, "ELF header").
const ELF: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];

/// A file of the guest cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestFileError {
    /// Nothing installed.
    #[error(transparent)]
    Installation(#[from] InstallationError),
    /// The file.
    #[error("cannot read the {what} {} ({by})", path.display())]
    Read {
        /// What it is to the guest.
        what: What,
        /// Where.
        path: PathBuf,
        /// Who chose it.
        by: String,
        /// Why.
        #[source]
        source: DirectoryError,
    },
    /// Its contents.
    #[error("the kernel {} is not a 64-bit ELF file; say an uncompressed vmlinux ({by})", path.display())]
    NotElf {
        /// Where.
        path: PathBuf,
        /// Who chose it.
        by: String,
    },
    /// Nothing in it.
    #[error("the initrd {} is empty ({by})", path.display())]
    Empty {
        /// Where.
        path: PathBuf,
        /// Who chose it.
        by: String,
    },
}

/// What a file is to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Its kernel.
    Kernel,
    /// Its initrd.
    Initrd,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
        })
    }
}

/// Opens what a machine is booted from. A bundle's choice has to be in one of `directories`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuestFiles<'a> {
    /// What is taken unless something is chosen.
    pub(crate) installation: &'a Installation,
    /// Where a bundle may choose from.
    pub(crate) directories: &'a [PathBuf],
}

impl GuestFiles<'_> {
    /// The kernel: the chosen, else the installed one.
    pub(crate) fn kernel(&self, chosen: Option<&ChosenFile>) -> Result<GuestFile, GuestFileError> {
        let (kernel, by) = self.open(What::Kernel, chosen, || self.installation.kernel())?;
        let mut start = [0; ELF.len()];
        if kernel.file.read_exact_at(&mut start, 0).is_ok() && start == ELF {
            return Ok(kernel);
        }
        Err(GuestFileError::NotElf { path: kernel.path, by })
    }

    /// The initrd: the chosen, else the installed one.
    pub(crate) fn initrd(&self, chosen: Option<&ChosenFile>) -> Result<GuestFile, GuestFileError> {
        let (initrd, by) = self.open(What::Initrd, chosen, || self.installation.initrd())?;
        match initrd.file.metadata() {
            Ok(metadata) if metadata.len() == 0 => Err(GuestFileError::Empty { path: initrd.path, by }),
            _ => Ok(initrd),
        }
    }

    fn open(
        &self,
        what: What,
        chosen: Option<&ChosenFile>,
        installed: impl FnOnce() -> Result<PathBuf, InstallationError>,
    ) -> Result<(GuestFile, String), GuestFileError> {
        let chosen =
            chosen.cloned().map_or_else(|| installed().map(|path| ChosenFile::by_operator(&path)), Ok)?;
        let (by, opened) = match chosen.by {
            ChosenBy::Operator => (format!("--{what}"), open_anywhere(&chosen.path)),
            ChosenBy::Bundle(field) => (field, self.open_for_bundle(&chosen.path)),
        };
        match opened {
            Ok(file) => Ok((file, by)),
            Err(source) => Err(GuestFileError::Read { what, path: chosen.path, by, source }),
        }
    }

    fn open_for_bundle(&self, path: &Path) -> Result<GuestFile, DirectoryError> {
        let file = open_in(path, self.directories)?;
        Ok(GuestFile::new(path.to_owned(), file)?)
    }
}

fn open_anywhere(path: &Path) -> Result<GuestFile, DirectoryError> {
    // A pipe would keep who opens it waiting.
    if !path.metadata().map_err(DirectoryError::Open)?.is_file() {
        return Err(io::Error::other("it is not a regular file").into());
    }
    Ok(GuestFile::open(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_files_are_told_with_who_chose_them() {
        let folder = tempfile::tempdir().unwrap();
        let installation = Installation::of_this_program().unwrap();
        let text = folder.path().join("text");
        std::fs::write(&text, "#!/bin/sh").unwrap();
        let empty = folder.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        let missing = folder.path().join("missing");
        let directories = [folder.path().to_owned()];
        let files = GuestFiles { installation: &installation, directories: &directories };
        for by in [ChosenBy::Operator, ChosenBy::Bundle("vm.kernel.path".into())] {
            let (kernel_by, initrd_by) = match by {
                ChosenBy::Operator => ("(--kernel)", "(--initrd)"),
                ChosenBy::Bundle(_) => ("(vm.kernel.path)", "(vm.kernel.path)"),
            };
            for (path, kernel_error, initrd_error) in [
                (text.as_path(), "is not a 64-bit ELF file", ""),
                (empty.as_path(), "is not a 64-bit ELF file", "is empty"),
                (folder.path(), "cannot read the kernel", "cannot read the initrd"),
                (missing.as_path(), "cannot read the kernel", "cannot read the initrd"),
            ] {
                let chosen = ChosenFile { path: path.to_owned(), by: by.clone() };
                let error = files.kernel(Some(&chosen)).unwrap_err().to_string();
                assert!(error.contains(kernel_error) && error.ends_with(kernel_by), "{error}");
                let error = files.initrd(Some(&chosen)).err().map(|e| e.to_string()).unwrap_or_default();
                assert!(error.contains(initrd_error), "{error}");
                assert!(initrd_error.is_empty() || error.ends_with(initrd_by), "{error}");
            }
        }
    }
}
