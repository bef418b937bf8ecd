//! Limits as properties of a systemd unit (systemd.resource-control(5)).

use serde::{Deserialize, Serialize};
use zbus::zvariant::Value;

/// Properties that systemd has not always had, with the first version that has them (its file NEWS). An older one
/// refuses a scope for them, so it is not asked; the kernel's files have the limits all the same.
const SINCE: [(&str, u32); 4] =
    [("CollectMode", 236), ("CPUQuotaPeriodUSec", 242), ("AllowedCPUs", 244), ("AllowedMemoryNodes", 244)];

/// Limits that are properties of the unit: what systemd does not know of, it undoes when it reloads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Properties {
    /// In bytes.
    pub(crate) memory: Option<u64>,
    /// Threads.
    pub(crate) threads: Option<u64>,
    /// As version 1 counts them, and as version 2.
    pub(crate) shares: Option<(u64, u64)>,
    /// Where it runs.
    pub(crate) cpus: Option<Set>,
    /// Where its memory is.
    pub(crate) nodes: Option<Set>,
    /// Time of the CPU.
    pub(crate) time: Option<Time>,
}

/// Time of the CPU in a period, both in microseconds; without a quota, any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Time {
    pub(crate) quota: Option<u64>,
    pub(crate) period: u64,
}

impl Time {
    /// systemd keeps whole percents of a CPU.
    const PERCENT: u64 = 10_000;

    /// In a second, rounded up.
    fn quota_per_second(self) -> u64 {
        let per_second = |quota: u64| quota.saturating_mul(1_000_000).checked_div(self.period);
        let rounded = |time: u64| time.div_ceil(Self::PERCENT).saturating_mul(Self::PERCENT);
        self.quota.and_then(per_second).map_or(u64::MAX, rounded)
    }
}

/// CPUs or memory nodes, a bit for each, as systemd takes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Set(Vec<u8>);

impl Set {
    /// The kernel can be built for no more.
    const MOST: usize = 8192;

    /// From a list as `0-3,5` (cpuset(7)). What is none, the kernel has to refuse.
    pub(crate) fn parse(list: &str) -> Option<Self> {
        let mut bits = Vec::new();
        for range in list.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            if last >= Self::MOST {
                return None;
            }
            for number in first..=last {
                let byte = number / 8;
                bits.resize(bits.len().max(byte + 1), 0_u8);
                *bits.get_mut(byte)? |= 1 << (number % 8);
            }
        }
        Some(Self(bits))
    }
}

impl Properties {
    pub(super) fn values(&self, version_2: bool) -> Vec<(&'static str, Value<'static>)> {
        let (memory, shares) =
            if version_2 { ("MemoryMax", "CPUWeight") } else { ("MemoryLimit", "CPUShares") };
        let share = self.shares.map(|(v1, v2)| if version_2 { v2 } else { v1 });
        let numbers = [
            (memory, self.memory),
            ("TasksMax", self.threads),
            (shares, share),
            ("CPUQuotaPeriodUSec", self.time.map(|time| time.period)),
            ("CPUQuotaPerSecUSec", self.time.map(Time::quota_per_second)),
        ];
        // Of version 1, systemd does not know them, and leaves them alone.
        let sets = [("AllowedCPUs", &self.cpus), ("AllowedMemoryNodes", &self.nodes)];
        let sets = sets.into_iter().filter(|_| version_2);
        let sets = sets.filter_map(|(name, set)| Some((name, Value::from(set.as_ref()?.0.clone()))));
        let numbers = numbers.into_iter().filter_map(|(name, value)| Some((name, Value::from(value?))));
        numbers.chain(sets).collect()
    }
}

/// Whether a version of systemd has a property.
pub(super) fn is_known(name: &str, version: u32) -> bool {
    SINCE.iter().all(|(new, since)| *new != name || version >= *since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_percents_of_a_second() {
        for (quota, period, expected) in [
            (Some(60_000), 100_000, 600_000),
            (Some(25_000), 50_000, 500_000),
            (Some(1_001), 100_000, 20_000),
            (Some(1), 0, u64::MAX),
            (None, 100_000, u64::MAX),
        ] {
            assert_eq!(Time { quota, period }.quota_per_second(), expected, "{quota:?} {period}");
        }
    }

    #[test]
    fn lists_become_bits() {
        for (list, expected) in [
            ("0", Some(&[1][..])),
            ("0-3,9\n", Some(&[15, 2])),
            ("8191", None),
            ("", None),
            ("1-", None),
            ("0-8192", None),
        ] {
            let bits = Set::parse(list).filter(|set| set.0.len() < 1024).map(|set| set.0);
            assert_eq!(bits.as_deref(), expected, "{list}");
        }
        assert_eq!(Set::parse("8191").map(|set| set.0.len()), Some(1024));
    }
}
