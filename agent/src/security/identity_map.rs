//! The ids of a user namespace (user_namespaces(7)).

use std::fmt::Write;
use std::fs;
use std::io;

use rustix::process::Pid;

/// One range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First of the namespace's.
    pub inside: u32,
    /// First of the guest's, which are those of the share.
    pub outside: u32,
    /// How many.
    pub size: u32,
}

/// What users and groups of a user namespace are outside of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityMap {
    /// Users.
    pub uids: Vec<Range>,
    /// Groups.
    pub gids: Vec<Range>,
}

/// The namespace could not be given its ids.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the {file} of the user namespace")]
pub struct MapError {
    file: &'static str,
    #[source]
    source: io::Error,
}

impl IdentityMap {
    /// Gives the user namespace of a new process its ids.
    ///
    /// # Errors
    ///
    /// [`MapError`], e.g. `EINVAL` for ranges that overlap.
    pub fn write(&self, pid: Pid) -> Result<(), MapError> {
        for (file, ranges) in [("uid_map", &self.uids), ("gid_map", &self.gids)] {
            let mut text = String::new();
            for Range { inside, outside, size } in ranges {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{inside} {outside} {size}");
            }
            let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
            fs::write(path, text).map_err(|source| MapError { file, source })?;
        }
        Ok(())
    }

    /// Whether the user namespace of this process has these ids. Its parent has to be the guest's.
    ///
    /// # Errors
    ///
    /// Those of reading procfs.
    pub fn is_own(&self) -> io::Result<bool> {
        for (file, ranges) in [("uid_map", &self.uids), ("gid_map", &self.gids)] {
            if &parse(&fs::read_to_string(format!("/proc/self/{file}"))?) != ranges {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What its root, user and group, is outside; `None` if it has none.
    pub fn root(&self) -> Option<(u32, u32)> {
        let outside = |ranges: &[Range]| {
            ranges.iter().find(|range| range.inside == 0 && range.size > 0).map(|range| range.outside)
        };
        outside(&self.uids).zip(outside(&self.gids))
    }
}

/// The lines of a map; what is none is left out.
fn parse(text: &str) -> Vec<Range> {
    let range = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Range { inside: next()?, outside: next()?, size: next()? })
    };
    text.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_kernel_writes_them() {
        let text = "         0     100000      65536\n     70000          5          1\n";
        let expected = [(0, 100_000, 65536), (70000, 5, 1)];
        assert_eq!(parse(text), expected.map(|(inside, outside, size)| Range { inside, outside, size }));
        assert_eq!(parse("         0          0 4294967295\n").len(), 1);
        assert_eq!(parse(""), []);
    }
}
