//! Whether there is memory for one guest.

use std::fs;

use super::Finding;
use crate::config::MemorySize;

const NAME: &str = "memory";

pub(super) fn check(guest: MemorySize) -> Finding {
    let available = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(available_mib);
    let Some(available) = available else {
        return Finding::warn(NAME, "cannot read /proc/meminfo", "mount /proc");
    };
    let found = format!("{available} MiB available, {} MiB for a guest", guest.mib());
    if available < u64::from(guest.mib()) {
        return Finding::warn(NAME, found, "free some memory, or say --memory");
    }
    Finding::ok(NAME, found)
}

fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo() {
        assert_eq!(available_mib("MemTotal: 9 kB\nMemAvailable:    2048000 kB\n"), Some(2000));
        for odd in ["", "MemAvailable: kB", "MemAvailable: 5 MB", "MemAvailable: x kB"] {
            assert_eq!(available_mib(odd), None, "{odd}");
        }
    }
}
