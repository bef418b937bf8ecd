//! What a process finds in its root directory: plain data, checked before the first system call.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The root directory of a confined process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootPlan {
    /// Directories to make, relative to the new root, parents first.
    pub directories: Vec<PathBuf>,
    /// What of the host appears in the new root; a destination's parents are made as needed.
    pub binds: Vec<Bind>,
}

/// One directory or file of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Absolute path on the host, free of symbolic links: one anywhere in it is an error when it is opened, so
    /// that what was checked is what is bound.
    pub source: PathBuf,
    /// Relative to the new root, of normal components only.
    pub destination: PathBuf,
    /// Refuse writes, in every mount below `source` too. The host's kernel enforces it.
    pub read_only: bool,
    /// How the owners of its files appear, if not as they are.
    pub id_map: Option<IdMap>,
}

/// Ids of an id-mapped mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMap {
    /// Users.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
    /// Those of the mounts below the source too.
    pub recursive: bool,
}

/// Consecutive ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    /// The first as the file system stores it.
    pub stored: u32,
    /// The first as it appears.
    pub shown: u32,
    /// How many.
    pub size: u32,
}

/// A plan that contradicts itself.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the message is the documentation")]
pub enum PlanError {
    #[error("{}: the source of a bind must be an absolute path", .0.display())]
    RelativeSource(PathBuf),
    #[error("{}: a destination must be a relative path without `.` and `..`", .0.display())]
    Destination(PathBuf),
    #[error("{}: two binds have this destination, or one lies within the other", .0.display())]
    Overlap(PathBuf),
}

impl RootPlan {
    /// Checks everything that can be checked without looking at the host.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn validate(&self) -> Result<(), PlanError> {
        for directory in &self.directories {
            if !is_plain(directory) {
                return Err(PlanError::Destination(directory.clone()));
            }
        }
        for (index, bind) in self.binds.iter().enumerate() {
            if !bind.source.is_absolute() {
                return Err(PlanError::RelativeSource(bind.source.clone()));
            }
            if !is_plain(&bind.destination) {
                return Err(PlanError::Destination(bind.destination.clone()));
            }
            // A destination inside another bind would be made in the host's own directory.
            let overlaps = |other: &Bind| {
                other.destination.starts_with(&bind.destination)
                    || bind.destination.starts_with(&other.destination)
            };
            if self.binds.iter().take(index).any(overlaps) {
                return Err(PlanError::Overlap(bind.destination.clone()));
            }
        }
        Ok(())
    }
}

/// At least one component, all of them names.
pub(crate) fn is_plain(path: &Path) -> bool {
    path.components().next().is_some()
        && path.components().all(|component| matches!(component, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, destination: &str) -> Bind {
        Bind { source: source.into(), destination: destination.into(), read_only: false, id_map: None }
    }

    fn validate(binds: Vec<Bind>) -> Result<(), PlanError> {
        RootPlan { directories: vec!["share".into()], binds }.validate()
    }

    #[test]
    fn siblings_are_accepted() {
        assert_eq!(validate(vec![bind("/a", "share/rootfs"), bind("/a", "share/rootfs2")]), Ok(()));
    }

    #[test]
    fn hostile_destinations_are_refused() {
        for destination in ["", ".", "..", "/etc", "share/../x", "../share", "share/.."] {
            let result = validate(vec![bind("/a", destination)]);
            assert_eq!(result, Err(PlanError::Destination(destination.into())), "{destination}");
        }
    }

    #[test]
    fn overlapping_destinations_are_refused() {
        for (first, second) in [("a", "a"), ("a", "a/b"), ("a/b", "a")] {
            let result = validate(vec![bind("/x", first), bind("/y", second)]);
            assert_eq!(result, Err(PlanError::Overlap(second.into())), "{first} and {second}");
        }
    }

    #[test]
    fn relative_source_is_refused() {
        assert_eq!(validate(vec![bind("etc", "a")]), Err(PlanError::RelativeSource("etc".into())));
    }
}
