//! What this host has for machines.

use std::fs;
use std::io;
use std::thread::available_parallelism;

use crate::bundle::machine_size::Host;

/// Asks the kernel.
pub(crate) fn this_host() -> io::Result<Host> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let memory_mib = total_mib(&meminfo).ok_or(io::ErrorKind::InvalidData)?;
    let cpus = u32::try_from(available_parallelism()?.get()).unwrap_or(u32::MAX);
    Ok(Host { memory_mib, cpus })
}

fn total_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_something() {
        let host = this_host().unwrap();
        assert!(host.memory_mib > 64 && host.cpus > 0, "{host:?}");
        assert_eq!(total_mib("MemTotal:    2048000 kB\nMemFree: 1 kB\n"), Some(2000));
        assert_eq!(total_mib("MemFree: 1 kB\n"), None);
    }
}
