//! Opens files that a bundle chose, in the directories that the administrator gave for that and nowhere else.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;

/// No file of these directories.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// Elsewhere.
    #[error(
        "it is in none of the directories from which a bundle may choose (kernel_directories of the configuration: {})",
        list(.0)
    )]
    Outside(Vec<PathBuf>),
    /// Below none of them.
    #[error("there is no such file in {}", list(.0))]
    Nowhere(Vec<PathBuf>),
    /// By `..`, or by a link.
    #[error("it leads out of {}", .0.display())]
    LeadsOut(PathBuf),
    /// Not readable.
    #[error(transparent)]
    Open(#[from] io::Error),
}

fn list(directories: &[PathBuf]) -> String {
    directories.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Opens `path` below the first of `directories` that has it. An absolute path has to begin as one of them does; links
/// may lead from one place in a directory to another, by relative targets.
pub(crate) fn open_in(path: &Path, directories: &[PathBuf]) -> Result<File, DirectoryError> {
    let mut result = Err(DirectoryError::Outside(directories.to_vec()));
    for directory in directories {
        let below = if path.is_absolute() { path.strip_prefix(directory).ok() } else { Some(path) };
        let Some(below) = below.filter(|below| !below.as_os_str().is_empty()) else { continue };
        match open_below(directory, below) {
            Err(Errno::NOENT | Errno::NOTDIR) => {
                result = Err(DirectoryError::Nowhere(directories.to_vec()));
            }
            Err(Errno::XDEV | Errno::LOOP) => return Err(DirectoryError::LeadsOut(directory.clone())),
            Err(errno) => return Err(DirectoryError::Open(errno.into())),
            Ok(file) => return Ok(file),
        }
    }
    result
}

fn open_below(directory: &Path, path: &Path) -> rustix::io::Result<File> {
    let directory = open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // Not blocking: what is there may be a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(directory.as_fd(), path, flags, Mode::empty(), resolve).map(File::from)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_is_below_the_directories_can_be_had() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for directory in ["first", "second/sub", "first-not"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        for file in ["first/a", "second/sub/b", "first-not/c", "d"] {
            fs::write(at(file), file).unwrap();
        }
        symlink("a", at("first/inside")).unwrap();
        symlink("../d", at("first/out")).unwrap();
        symlink(at("first/a"), at("first/absolute")).unwrap();
        symlink("../second", at("first/other")).unwrap();
        let directories = [at("first"), at("missing"), at("second")];
        let outcome = |path: &Path| match open_in(path, &directories) {
            Ok(mut file) => {
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                text
            }
            Err(DirectoryError::Outside(_)) => "outside".to_owned(),
            Err(DirectoryError::Nowhere(_)) => "nowhere".to_owned(),
            Err(DirectoryError::LeadsOut(from)) => {
                format!("out of {}", from.file_name().unwrap().to_string_lossy())
            }
            Err(DirectoryError::Open(error)) => error.kind().to_string(),
        };
        for (path, expected) in [
            ("first/a", "first/a"),
            ("first/inside", "first/a"),
            ("first/./../first/a", "out of first"),
            ("second/sub/b", "second/sub/b"),
            ("first/out", "out of first"),
            ("first/absolute", "out of first"),
            ("first/other/sub/b", "out of first"),
            ("first/../d", "out of first"),
            ("first-not/c", "outside"),
            ("d", "outside"),
            ("first", "outside"),
            ("second/none", "nowhere"),
        ] {
            assert_eq!(outcome(&at(path)), expected, "{path}");
        }
        for (path, expected) in [
            ("a", "first/a"),
            ("sub/b", "second/sub/b"),
            ("none", "nowhere"),
            ("a/b", "nowhere"),
            ("../d", "out of first"),
        ] {
            assert_eq!(outcome(Path::new(path)), expected, "{path}");
        }
        assert!(matches!(open_in(&at("first/a"), &[]), Err(DirectoryError::Outside(_))));
    }
}
