//! What a file system must do. Each function leaves its file for the host to look at.
#![allow(unsafe_code, reason = "a mapping of a file is unsafe to make")]

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::pattern::Pattern;
use rustix::fs::{FlockOperation, flock};
use signal_hook::low_level::exit;

fn open(path: &str) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .with_context(|| format!("cannot open {path}"))
}

pub(crate) fn write(path: &str, length: u64) -> Result<()> {
    let mut file = open(path)?;
    // As much at once as one request of FUSE can take.
    Pattern::new(3)
        .write(length, &mut BufWriter::with_capacity(1 << 20, &mut file))
        .context("cannot write")?;
    file.sync_all().context("fsync")?;
    file.seek(SeekFrom::Start(0)).context("lseek")?;
    let found = Pattern::new(3).verify(&mut BufReader::with_capacity(1 << 20, file)).context("read back")?;
    ensure!(found == length, "read back {found} of {length} bytes");
    println!("wrote {found}");
    Ok(())
}

pub(crate) fn map(path: &str) -> Result<()> {
    let mut file = open(path)?;
    file.set_len(10_000).context("ftruncate")?;
    // SAFETY: the file is new and this program's alone, so nobody shortens it under the mapping.
    let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.context("mmap")?;
    map.fill(b'm');
    map.flush().context("msync")?;
    let mut text = String::new();
    file.read_to_string(&mut text).context("read")?;
    ensure!(text == "m".repeat(10_000), "read does not see what the mapping wrote");
    println!("mapped");
    Ok(())
}

pub(crate) fn lock(path: &str) -> Result<()> {
    let first = open(path)?;
    let second = open(path)?;
    flock(&first, FlockOperation::LockExclusive).context("flock")?;
    let refused = flock(&second, FlockOperation::NonBlockingLockExclusive);
    ensure!(refused == Err(rustix::io::Errno::WOULDBLOCK), "the second lock: {refused:?}");
    flock(&first, FlockOperation::Unlock).context("unlock")?;
    flock(&second, FlockOperation::NonBlockingLockExclusive).context("lock after unlock")?;
    println!("locked");
    Ok(())
}

pub(crate) fn sparse(path: &str) -> Result<()> {
    const HOLE: u64 = 1 << 30;
    let mut file = open(path)?;
    file.write_all(b"a").context("write")?;
    file.seek(SeekFrom::Start(HOLE)).context("lseek")?;
    file.write_all(b"z").context("write behind the hole")?;
    file.sync_all().context("fsync")?;
    let metadata = file.metadata().context("fstat")?;
    ensure!(metadata.size() == HOLE + 1, "size {}", metadata.size());
    ensure!(metadata.blocks() < 1000, "{} blocks: the hole is filled", metadata.blocks());
    println!("sparse");
    Ok(())
}

pub(crate) fn attributes(path: &str) -> Result<()> {
    open(path)?;
    let binary = [0, 255, 10, 0];
    xattr::set(path, "user.first", &binary).context("setxattr")?;
    xattr::set(path, "user.second", b"2").context("setxattr")?;
    xattr::remove(path, "user.second").context("removexattr")?;
    let names: Vec<_> = xattr::list(path).context("listxattr")?.collect();
    ensure!(names == ["user.first"], "listxattr: {names:?}");
    ensure!(xattr::get(path, "user.first").context("getxattr")?.as_deref() == Some(&binary), "getxattr");
    println!("attributes");
    Ok(())
}

/// Sets an access control list, acl(5), in the form that the kernel has it (`linux/posix_acl_xattr.h`).
pub(crate) fn access_list(path: &str, user: u32) -> Result<()> {
    const NOBODY: u32 = u32::MAX;
    // Owner, that user, group, mask, others.
    let entries =
        [(1_u16, 6_u16, NOBODY), (2, 4, user), (4, 0, NOBODY), (0x10, 4, NOBODY), (0x20, 0, NOBODY)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(rights.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    xattr::set(path, "system.posix_acl_access", &list).context("setxattr")
}

/// All files but the first ten are removed again.
pub(crate) fn crowd(directory: &str, count: u64) -> Result<()> {
    let name = |index: u64| format!("file-{index:05}");
    let directory = Path::new(directory);
    fs::create_dir(directory).context("mkdir")?;
    for index in 0..count {
        fs::write(directory.join(name(index)), index.to_string()).with_context(|| name(index))?;
    }
    let found: BTreeSet<_> = fs::read_dir(directory)
        .context("readdir")?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()
        .context("readdir")?;
    ensure!(found == (0..count).map(name).collect(), "readdir gave {} of {count} names", found.len());
    for index in 0..count {
        let size = fs::metadata(directory.join(name(index))).with_context(|| name(index))?.len();
        ensure!(size == index.to_string().len() as u64, "{} has size {size}", name(index));
    }
    for index in 10..count {
        fs::remove_file(directory.join(name(index))).with_context(|| name(index))?;
    }
    let left = fs::read_dir(directory).context("readdir")?.count();
    ensure!(left == 10, "{left} files are left");
    println!("crowd {count}");
    Ok(())
}

/// Reads a file page by page through a mapping, which keeps no descriptor of it open, until after `seconds` all of this
/// process ends, whatever it waits for.
pub(crate) fn fault(path: &str, seconds: u64) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {path}"))?;
    // SAFETY: nobody truncates the file while it is mapped.
    let mapping = unsafe { memmap2::Mmap::map(&file) }.context("cannot map it")?;
    mapping.advise(memmap2::Advice::Sequential).context("cannot ask for reads ahead")?;
    drop(file);
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(seconds));
        exit(7);
    });
    println!("started");
    let sum: u64 = mapping.iter().step_by(4096).map(|byte| u64::from(*byte)).sum();
    bail!("all of it was read, {sum}, in less than {seconds} s")
}
