//! Times file system operations, each as nanoseconds for one, on lines `took NAME: TIME`.
#![allow(unsafe_code, reason = "a mapping of a file is unsafe to make")]

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::crowd;
use memmap2::Mmap;
use rustix::fs::{Advice, fadvise};

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;
/// Odd, so that the multiples of it reach each of 2^n blocks once, and far from one another.
const STRIDE: u64 = 0x9e37;

/// What is timed, where, and how much of it.
pub(crate) struct Job<'a> {
    /// Where to work; [`e2e::crowd::DIRECTORY`] is in it.
    pub(crate) directory: &'a Path,
    /// Size of the large file, a power of 2.
    pub(crate) mib: u64,
    /// Files of the crowd.
    pub(crate) count: u64,
    /// Reads start without a page in this kernel's cache. (On the host that would be the disk's time, which a guest's
    /// reads do not have in them, as the host's cache is warm.)
    pub(crate) evict: bool,
}

impl Job<'_> {
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(self.mib.is_power_of_two(), "{} MiB is no power of 2", self.mib);
        let large = self.directory.join("large");
        self.write_large(&large)?;
        self.read_large(&large)?;
        self.look_at_crowd()?;
        self.make_small()
    }

    fn blocks(&self) -> u64 {
        self.mib * (MIB / BLOCK) as u64
    }

    /// How many operations at random places: no block twice, and most of them untouched.
    fn places(&self) -> u64 {
        self.count.min(self.blocks() / 4)
    }

    fn place(&self, index: u64) -> u64 {
        index * STRIDE % self.blocks() * BLOCK as u64
    }

    fn write_large(&self, path: &Path) -> Result<()> {
        let buffer = vec![0x5a; MIB];
        let mut file = File::create(path).context("cannot make a file")?;
        time("sequential write, 1 MiB", self.mib, |_| file.write_all(&buffer).context("write"))?;
        let file = OpenOptions::new().write(true).open(path).context("cannot open the file")?;
        time("random write, 4 KiB", self.places(), |index| {
            file.write_all_at(&buffer[..BLOCK], self.place(index)).context("pwrite")
        })?;
        file.sync_all().context("fsync")
    }

    fn read_large(&self, path: &Path) -> Result<()> {
        let mut buffer = vec![0; MIB];
        for name in ["sequential read, 1 MiB", "sequential read again, 1 MiB"] {
            let mut file = File::open(path).context("cannot open the file")?;
            if !name.contains("again") {
                self.evict(&file)?;
            }
            time(name, self.mib, |_| file.read_exact(&mut buffer).context("read"))?;
        }
        let file = File::open(path).context("cannot open the file")?;
        self.evict(&file)?;
        time("random read, 4 KiB", self.places(), |index| {
            file.read_exact_at(&mut buffer[..BLOCK], self.place(index)).context("pread")
        })?;
        self.evict(&file)?;
        // SAFETY: the file is this program's alone, so nobody shortens it under the mapping.
        let map = unsafe { Mmap::map(&file) }.context("mmap")?;
        time("mapped read, 4 KiB", self.blocks(), |index| {
            let place = usize::try_from(index)? * BLOCK;
            black_box(*map.get(place).context("behind the mapping")?);
            Ok(())
        })
    }

    fn look_at_crowd(&self) -> Result<()> {
        let crowd = self.directory.join(crowd::DIRECTORY);
        let name = |index: u64| crowd.join(crowd::name(index));
        time("stat", self.count, |index| fs::metadata(name(index)).map(drop).context("stat"))?;
        time("open and close", self.count, |index| File::open(name(index)).map(drop).context("open"))?;
        time("open, read and close", self.count, |index| {
            ensure!(
                fs::read(name(index)).context("read")?.len() == crowd::CONTENT.len(),
                "short file {index}"
            );
            Ok(())
        })?;
        time("stat of what is not there", self.count, |index| {
            let path = crowd.join(format!("missing-{index}"));
            ensure!(fs::metadata(&path).is_err(), "{} exists", path.display());
            Ok(())
        })?;
        let mut entries = fs::read_dir(&crowd).context("cannot list the crowd")?;
        time("list, and stat each", self.count, |_| {
            let entry = entries.next().context("too few files")?.context("readdir")?;
            entry.metadata().map(drop).context("stat")
        })
    }

    fn make_small(&self) -> Result<()> {
        let count = self.count / 10;
        let name = |index: u64| -> PathBuf { self.directory.join(crowd::name(index)) };
        time("create, write and close", count, |index| fs::write(name(index), b"x").context("create"))?;
        time("unlink", count, |index| fs::remove_file(name(index)).context("unlink"))
    }

    fn evict(&self, file: &File) -> Result<()> {
        if self.evict {
            fadvise(file, 0, None, Advice::DontNeed).context("fadvise")?;
        }
        Ok(())
    }
}

fn time(name: &str, count: u64, mut act: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    for index in 0..count {
        act(index).with_context(|| format!("{name} {index}"))?;
    }
    println!("took {name}: {}", start.elapsed().as_nanos() / u128::from(count));
    Ok(())
}
