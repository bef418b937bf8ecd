//! Times file system operations, each as nanoseconds for one, on lines `took NAME: TIME`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use e2e::pattern;
use rustix::fs::{Advice, fadvise};

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;

/// In the existing directory: a file of `mib` MiB, then `count` small ones.
pub(crate) fn run(directory: &str, mib: u64, count: u64) -> Result<()> {
    let directory = Path::new(directory);
    let path = directory.join("large");
    let mut buffer = vec![0x5a; MIB];
    let mut file = File::create(&path).context("cannot make a file")?;
    time("sequential write, 1 MiB", mib, |_| file.write_all(&buffer).context("write"))?;
    time("fsync after it", 1, |_| file.sync_all().context("fsync"))?;

    let mut file = uncached(&path)?;
    time("sequential read, 1 MiB", mib, |_| file.read_exact(&mut buffer).context("read"))?;
    let file = uncached(&path)?;
    let blocks = mib * (MIB / BLOCK) as u64;
    let mut block = [0; BLOCK];
    time("random read, 4 KiB", count, |index| {
        let offset = pattern::random(1, index) % blocks * BLOCK as u64;
        file.read_exact_at(&mut block, offset).context("pread")
    })?;

    let name = |index: u64| directory.join(format!("file-{index:05}"));
    time("create and write a small file", count, |index| fs::write(name(index), b"x").context("create"))?;
    time("stat", count, |index| fs::metadata(name(index)).map(drop).context("stat"))?;
    time("open and close", count, |index| File::open(name(index)).map(drop).context("open"))?;
    time("unlink", count, |index| fs::remove_file(name(index)).context("unlink"))
}

/// Opened, with no page of it in this kernel's cache.
fn uncached(path: &Path) -> Result<File> {
    let file = File::open(path).context("cannot open the file")?;
    fadvise(&file, 0, None, Advice::DontNeed).context("fadvise")?;
    Ok(file)
}

fn time(name: &str, count: u64, mut act: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    for index in 0..count {
        act(index).with_context(|| format!("{name} {index}"))?;
    }
    println!("took {name}: {}", start.elapsed().as_nanos() / u128::from(count));
    Ok(())
}
