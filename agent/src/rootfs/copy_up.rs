//! `tmpcopyup`: a tmpfs that begins with what the image has in its place.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chmodat, chownat, fchmod,
    fchown, fstat, futimens, mkdirat, mknodat, openat, readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

/// How deep directories may be nested: an image's are not, and the stack is finite.
const DEEPEST: usize = 256;

/// Copies everything in the directory `from`, and its own owner and mode, to the directory `to`, which is empty.
/// Symbolic links are copied as such, and nothing is followed.
///
/// # Errors
///
/// Those of the system calls, e.g. `ENOSPC` where it does not fit.
pub fn copy_directory(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    // Both only name their directory; to be read and changed it has to be opened.
    let from = open_directory_at(from.as_fd(), c".")?;
    let to = open_directory_at(to.as_fd(), c".")?;
    copy_entries(&from, to.as_fd(), DEEPEST)?;
    copy_owner(to, &fstat(&from)?)
}

fn copy_entries(from: &OwnedFd, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    let Some(depth) = depth.checked_sub(1) else { return Err(Errno::LOOP.into()) };
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let source = open_directory_at(from.as_fd(), name)?;
            mkdirat(to, name, Mode::RWXU)?;
            let copy = open_directory_at(to, name)?;
            copy_entries(&source, copy.as_fd(), depth)?;
            copy_owner(&copy, &stat)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let source = openat(from, name, flags, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let copy = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
            let (mut source, mut copy) = (File::from(source), File::from(copy));
            io::copy(&mut source, &mut copy)?;
            copy_owner(&copy, &stat)
        }
        FileType::Symlink => {
            symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
            own(to, name, &stat)
        }
        kind => {
            mknodat(to, name, kind, mode(&stat), stat.st_rdev)?;
            own(to, name, &stat)?;
            Ok(chmodat(to, name, mode(&stat), AtFlags::empty())?)
        }
    }
}

pub(super) fn open_directory_at(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(directory, name, flags, Mode::empty())?)
}

/// Owner first: a change of it clears set-user-id.
pub(super) fn copy_owner(to: impl AsFd, stat: &Stat) -> io::Result<()> {
    let to = to.as_fd();
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    if_mapped(fchown(to, Some(uid), Some(gid)))?;
    fchmod(to, mode(stat))?;
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(stat.st_atime, i64::try_from(stat.st_atime_nsec).unwrap_or(0)),
        last_modification: time(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
    };
    Ok(futimens(to, &times)?)
}

fn own(directory: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    if_mapped(chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))
}

/// An owner that the container's user namespace does not have cannot be given; the copy is its root's then.
fn if_mapped(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::INVAL) => Ok(()),
        other => Ok(other?),
    }
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}
