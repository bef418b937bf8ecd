//! The figures of a cgroup: what its files say, in the protocol's terms.
//!
//! A file that is not there belongs to a controller that the kernel lacks; what it would say is 0 or absent.

use std::fs;
use std::io;
use std::path::Path;

use agent_protocol::agent as api;
use protobuf::MessageField;

use crate::cgroup::{Cgroup, CgroupError};

impl Cgroup {
    /// All figures.
    ///
    /// # Errors
    ///
    /// [`CgroupError`], e.g. when the cgroup has been removed.
    pub fn stats(&self) -> Result<api::ContainerStatsResponse, CgroupError> {
        self.read_stats().map_err(|source| self.error("read the figures of", source))
    }

    /// How many of its processes the kernel has killed for want of memory.
    ///
    /// # Errors
    ///
    /// [`CgroupError`].
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let events = self.file("memory.events").map_err(|source| self.error("read the events of", source))?;
        Ok(events.map_or(0, |events| oom_kills(&events)))
    }

    /// Waits until that number is not `seen` any more.
    ///
    /// # Errors
    ///
    /// [`CgroupError`], e.g. when the cgroup has been removed meanwhile.
    pub async fn more_oom_kills(&self, seen: u64) -> Result<(), CgroupError> {
        self.wait_until("memory.events", |events| oom_kills(events) != seen)
            .await
            .map_err(|source| self.error("watch", source))
    }

    fn read_stats(&self) -> io::Result<api::ContainerStatsResponse> {
        Ok(api::ContainerStatsResponse {
            cpu: MessageField::some(cpu(&self.file("cpu.stat")?.unwrap_or_default())),
            memory: MessageField::some(self.memory()?),
            pids: MessageField::some(api::PidsStats {
                current: self.number("pids.current")?.unwrap_or(0),
                limit: self.number("pids.max")?,
                ..Default::default()
            }),
            io: self.file("io.stat")?.unwrap_or_default().lines().filter_map(io_of_device).collect(),
            hugetlb: self.hugetlb()?,
            ..Default::default()
        })
    }

    fn memory(&self) -> io::Result<api::MemoryStats> {
        let events = self.file("memory.events")?.unwrap_or_default();
        let event = |name| value_of(&events, name);
        let stat = self.file("memory.stat")?.unwrap_or_default();
        Ok(api::MemoryStats {
            usage_bytes: self.number("memory.current")?.unwrap_or(0),
            peak_bytes: self.number("memory.peak")?.unwrap_or(0),
            limit_bytes: self.number("memory.max")?,
            swap_usage_bytes: self.number("memory.swap.current")?.unwrap_or(0),
            swap_limit_bytes: self.number("memory.swap.max")?,
            stat: pairs(&stat).map(|(name, value)| (name.to_owned(), value)).collect(),
            low_events: event("low"),
            high_events: event("high"),
            max_events: event("max"),
            oom_events: event("oom"),
            oom_kills: event("oom_kill"),
            ..Default::default()
        })
    }

    fn hugetlb(&self) -> io::Result<Vec<api::HugetlbStats>> {
        let mut stats = Vec::new();
        for entry in fs::read_dir(self.path())? {
            let name = entry?.file_name();
            let size = name.to_str().and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(".current"));
            let Some(size) = size.filter(|size| !size.contains('.')) else { continue };
            let events = self.file(&format!("hugetlb.{size}.events"))?.unwrap_or_default();
            stats.push(api::HugetlbStats {
                page_size: size.to_owned(),
                usage_bytes: self.number(&format!("hugetlb.{size}.current"))?.unwrap_or(0),
                limit_bytes: self.number(&format!("hugetlb.{size}.max"))?,
                failures: value_of(&events, "max"),
                ..Default::default()
            });
        }
        Ok(stats)
    }

    fn number(&self, file: &str) -> io::Result<Option<u64>> {
        // "max" is no limit.
        Ok(self.file(file)?.and_then(|text| text.trim().parse().ok()))
    }

    fn file(&self, file: &str) -> io::Result<Option<String>> {
        read_if_there(&self.path().join(file))
    }
}

fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn cpu(stat: &str) -> api::CpuStats {
    let value = |name| value_of(stat, name);
    api::CpuStats {
        usage_microseconds: value("usage_usec"),
        user_microseconds: value("user_usec"),
        system_microseconds: value("system_usec"),
        periods: value("nr_periods"),
        throttled_periods: value("nr_throttled"),
        throttled_microseconds: value("throttled_usec"),
        ..Default::default()
    }
}

/// `8:0 rbytes=90112 wbytes=0 rios=3 wios=0 dbytes=0 dios=0`
fn io_of_device(line: &str) -> Option<api::IoStats> {
    let (device, figures) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let value = |name: &str| {
        figures
            .split(' ')
            .filter_map(|figure| figure.split_once('='))
            .find_map(|(key, value)| (key == name).then(|| value.parse().ok()).flatten())
            .unwrap_or(0)
    };
    Some(api::IoStats {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        read_bytes: value("rbytes"),
        written_bytes: value("wbytes"),
        reads: value("rios"),
        writes: value("wios"),
        discarded_bytes: value("dbytes"),
        discards: value("dios"),
        ..Default::default()
    })
}

fn oom_kills(events: &str) -> u64 {
    value_of(events, "oom_kill")
}

fn value_of(file: &str, name: &str) -> u64 {
    pairs(file).find_map(|(key, value)| (key == name).then_some(value)).unwrap_or(0)
}

/// Lines of a name and a number (cgroup-v2.rst, "flat keyed").
fn pairs(file: &str) -> impl Iterator<Item = (&str, u64)> {
    file.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read_as_they_are() {
        let stat =
            cpu("usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 9\nnr_throttled 1\nthrottled_usec 7\n");
        assert_eq!((stat.usage_microseconds, stat.user_microseconds, stat.system_microseconds), (5, 3, 2));
        assert_eq!((stat.periods, stat.throttled_periods, stat.throttled_microseconds), (9, 1, 7));
        let io = io_of_device("254:0 rbytes=90112 wbytes=4096 rios=3 wios=1 dbytes=8 dios=2").unwrap();
        assert_eq!((io.major, io.minor, io.read_bytes, io.written_bytes), (254, 0, 90112, 4096));
        assert_eq!((io.reads, io.writes, io.discarded_bytes, io.discards), (3, 1, 8, 2));
        assert_eq!(io_of_device("unknown"), None);
        assert_eq!(oom_kills("low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 0\n"), 4);
    }
}
