//! Where containers are kept: `<root>/<id>/`, with `state.json`, `lock` and the monitor's `control.sock`.
//!
//! `state.json` is replaced as a whole (a new file, renamed), under a lock of the folder, so a command that is
//! killed at any point leaves the one or the other. A folder without a record of ours is another runtime's.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, open, openat, renameat, unlinkat};

use super::id::ContainerId;
use super::record::{Mark, Record};
use crate::path_error::{PathError, failed};

const RECORD: &str = "state.json";
const NEW_RECORD: &str = "state.json.new";
const LOCK: &str = "lock";
const CONTROL: &str = "control.sock";

/// Everything that a folder of ours may hold before it has a record, and after it had one. A record that we cannot
/// read is another's.
const WITHOUT_RECORD: [&str; 3] = [NEW_RECORD, LOCK, CONTROL];

/// A container could not be found or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// There is none of that name. Engines read these words.
    #[error("container does not exist")]
    NotFound,
    /// There is one of that name. Engines read these words.
    #[error("container with given ID already exists")]
    Exists,
    /// The name is taken, but not by us.
    #[error("{} is not a container of this runtime", .0.display())]
    Foreign(PathBuf),
    /// It is ours, but not this version's.
    #[error(
        "{} was written by another version of runv, with which the container has to be deleted", path.display()
    )]
    Version {
        /// The record.
        path: PathBuf,
        /// What is different.
        #[source]
        source: serde_json::Error,
    },
    /// Anything else.
    #[error(transparent)]
    Io(#[from] PathError),
}

/// All containers of a root.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    /// The one in `root`, which need not exist.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Makes a container's folder, with its record.
    pub(crate) fn create(&self, record: &Record) -> Result<Folder, StoreError> {
        fs::create_dir_all(&self.root).map_err(failed("make", &self.root))?;
        let path = self.root.join(&record.id);
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o711)) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Err(StoreError::Exists),
            Err(errno) => return Err(failed("make", &path)(errno).into()),
        }
        let folder = Folder::open(path)?;
        folder.write(record).inspect_err(|_| {
            // The error in hand says more than that of the clean-up.
            let _ = folder.remove();
        })?;
        Ok(folder)
    }

    /// A container and its record.
    pub(crate) fn find(&self, id: &ContainerId) -> Result<(Folder, Record), StoreError> {
        let folder = self.folder(id)?;
        let record = folder.read()?;
        Ok((folder, record))
    }

    /// A container's folder, whatever is in it.
    pub(crate) fn folder(&self, id: &ContainerId) -> Result<Folder, StoreError> {
        Folder::open(self.root.join(id))
    }

    /// Every container of ours, in the order of their names.
    pub(crate) fn all(&self) -> Result<Vec<Record>, StoreError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &self.root)(error).into()),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // What is another's, or vanishes meanwhile, is not there.
        let mut all: Vec<Record> =
            names.filter_map(|id| self.find(&id).ok()).map(|(_, record)| record).collect();
        all.sort_by(|one, other| one.id.as_str().cmp(other.id.as_str()));
        Ok(all)
    }
}

/// A container's folder.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

/// While it lives, nobody else changes the folder's record.
#[derive(Debug)]
struct Lock(#[expect(dead_code, reason = "its closing unlocks")] OwnedFd);

impl Folder {
    /// Opens one that is there.
    pub(crate) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        match open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path }),
            Err(rustix::io::Errno::NOENT) => Err(StoreError::NotFound),
            Err(errno) => Err(failed("open", &path)(errno).into()),
        }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The monitor's socket, by a path of this process: sockets have short ones (unix(7), 108 bytes), and
    /// docker's roots and names are long.
    pub(crate) fn control_socket(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{CONTROL}", self.fd.as_raw_fd()))
    }

    /// The record.
    pub(crate) fn read(&self) -> Result<Record, StoreError> {
        let path = self.path.join(RECORD);
        let mut file = match openat(&self.fd, RECORD, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Err(StoreError::Foreign(self.path.clone())),
            Err(errno) => return Err(failed("open", &path)(errno).into()),
        };
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed("read", &path))?;
        serde_json::from_slice(&text).map_err(|source| match serde_json::from_slice::<Mark>(&text) {
            Ok(_ours) => StoreError::Version { path, source },
            Err(_not_ours) => StoreError::Foreign(self.path.clone()),
        })
    }

    /// Changes the record.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Record)) -> Result<Record, StoreError> {
        let _lock = self.lock()?;
        let mut record = self.read()?;
        change(&mut record);
        self.replace(&record)?;
        Ok(record)
    }

    /// Writes the first record.
    fn write(&self, record: &Record) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        self.replace(record)
    }

    fn lock(&self) -> Result<Lock, StoreError> {
        let path = self.path.join(LOCK);
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            openat(&self.fd, LOCK, flags, Mode::from_raw_mode(0o600)).map_err(failed("open", &path))?;
        flock(&file, FlockOperation::LockExclusive).map_err(failed("lock", &path))?;
        Ok(Lock(file))
    }

    fn replace(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.path.join(NEW_RECORD);
        let text = serde_json::to_vec(record).map_err(failed("write", &path))?;
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.fd, NEW_RECORD, flags, Mode::from_raw_mode(0o600));
        let mut file = File::from(file.map_err(failed("make", &path))?);
        file.write_all(&text).map_err(failed("write", &path))?;
        Ok(renameat(&self.fd, NEW_RECORD, &self.fd, RECORD).map_err(failed("rename", &path))?)
    }

    /// Whether it is what a `create` leaves that was killed before it wrote a record, or a `delete` that was killed
    /// after it took the record away.
    pub(crate) fn is_unfinished(&self) -> bool {
        let entries = fs::read_dir(&self.path).map(Iterator::flatten);
        entries.is_ok_and(|mut entries| {
            entries.all(|entry| WITHOUT_RECORD.iter().any(|name| entry.file_name() == *name))
        })
    }

    /// Takes the record away if it still is this one; nobody can change it any more then.
    pub(crate) fn take_record(&self, known: &Record) -> Result<bool, StoreError> {
        let _lock = self.lock()?;
        if self.read()?.monitor != known.monitor {
            return Ok(false);
        }
        self.unlink(RECORD)?;
        Ok(true)
    }

    /// Removes what is left of it.
    pub(crate) fn remove(&self) -> Result<(), StoreError> {
        loop {
            for name in [CONTROL, NEW_RECORD, RECORD, LOCK] {
                self.unlink(name)?;
            }
            match fs::remove_dir(&self.path) {
                // Somebody who does not know yet that the record is gone has made a lock.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && self.is_unfinished() => {}
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &self.path)(error).into());
                }
                _ => return Ok(()),
            }
        }
    }

    fn unlink(&self, name: &str) -> Result<(), StoreError> {
        match unlinkat(self.fd.as_fd(), name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("remove", &self.path.join(name))(errno).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_runtime_is_foreign_and_that_of_another_version_is_told() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("c1")).unwrap();
        let store = Store::new(root.path().to_owned());
        let id = "c1".parse().unwrap();
        let error = |text: &str| {
            fs::write(root.path().join("c1/state.json"), text).unwrap();
            store.find(&id).unwrap_err()
        };
        for text in ["{}", "", "[", r#"{"id": "c1", "runtime": "runc"}"#] {
            assert!(matches!(error(text), StoreError::Foreign(_)), "{text}");
        }
        let other = error(r#"{"runtime": "runv", "id": "c1", "scope": 5}"#);
        assert!(matches!(other, StoreError::Version { .. }), "{other}");
        assert!(other.to_string().contains("c1/state.json was written by another version"), "{other}");
    }
}
