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

    /// What its root, user and group, is outside; `None` if it has none.
    pub fn root(&self) -> Option<(u32, u32)> {
        let outside = |ranges: &[Range]| {
            ranges.iter().find(|range| range.inside == 0 && range.size > 0).map(|range| range.outside)
        };
        outside(&self.uids).zip(outside(&self.gids))
    }
}
