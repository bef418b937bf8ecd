//! `linux.namespaces`, and what belongs to some of them: ids of a user namespace, offsets of a time namespace.
//!
//! Namespaces are the guest's, so there is none of the host's to join, but for that of the network: the machine
//! itself is put into that one. What can be joined is the namespace of another container of this runtime, by a path
//! that names its host process: the two then are in one guest (`container::membership`).

use std::path::Path;

use agent_protocol::agent as proto;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, LinuxTimeOffset, Spec};
use proto::namespace::Kind;

use super::place::Joined;

/// Of a map (user_namespaces(7)).
const MOST_RANGES: usize = 340;

const NANOSECONDS: u32 = 1_000_000_000;

/// What of it cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NamespaceError {
    /// A namespace.
    #[error("linux.namespaces[{index}] ({kind}): {reason}")]
    Namespace {
        /// Place in the list.
        index: usize,
        /// Its type.
        kind: LinuxNamespaceType,
        /// Why not.
        reason: &'static str,
    },
    /// A user namespace without ids, or too many.
    #[error("{0} must have 1 to {MOST_RANGES} ranges: there is a user namespace")]
    Ranges(&'static str),
    /// Nobody could build the container.
    #[error("{0} does not map the container's id 0")]
    NoRoot(&'static str),
    /// Ids without a user namespace.
    #[error("linux.uidMappings and linux.gidMappings need a user namespace in linux.namespaces")]
    NoUserNamespace,
    /// Offsets without a time namespace.
    #[error("linux.timeOffsets needs a new time namespace in linux.namespaces")]
    NoTimeNamespace,
    /// An offset.
    #[error("linux.timeOffsets.{0}: {1}")]
    Offset(String, &'static str),
}

/// The namespaces of a container, new ones and other containers', and what belongs to them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Namespaces {
    pub(super) listed: Vec<proto::Namespace>,
    pub(super) uids: Vec<proto::IdMapping>,
    pub(super) gids: Vec<proto::IdMapping>,
    pub(super) time_offsets: Vec<proto::TimeOffset>,
}

/// A namespace that is to be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByPath<'a> {
    /// Place in the list.
    pub(crate) index: usize,
    /// Its type.
    pub(crate) kind: LinuxNamespaceType,
    /// Its path.
    pub(crate) path: &'a Path,
}

impl ByPath<'_> {
    /// It cannot be joined.
    pub(crate) fn refuse(self, reason: &'static str) -> NamespaceError {
        NamespaceError::Namespace { index: self.index, kind: self.kind, reason }
    }
}

/// All that are to be joined.
pub(crate) fn by_path(spec: &Spec) -> impl Iterator<Item = ByPath<'_>> {
    let listed = spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten()).enumerate();
    listed.filter_map(|(index, namespace)| {
        let path = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty())?;
        Some(ByPath { index, kind: namespace.typ(), path })
    })
}

/// Checks and converts them; those of other containers are in `joined`.
pub(super) fn to_agent(linux: Option<&Linux>, joined: &Joined) -> Result<Namespaces, NamespaceError> {
    let Some(linux) = linux else { return Ok(Namespaces::default()) };
    let listed = linux.namespaces().as_deref().unwrap_or_default();
    check(listed)?;
    let has = |kind| listed.iter().any(|namespace| namespace.typ() == kind);
    let is_new = |kind| listed.iter().any(|namespace| namespace.typ() == kind && !has_path(namespace));
    let mappings =
        [linux.uid_mappings(), linux.gid_mappings()].map(|list| list.as_deref().unwrap_or_default());
    let [uids, gids] = mappings;
    let with_user = has(LinuxNamespaceType::User);
    let has_ids = !uids.is_empty() || !gids.is_empty();
    // Those of one that is joined are known; the agent compares.
    let needs_ids = has_ids || is_new(LinuxNamespaceType::User);
    if has_ids && !with_user {
        return Err(NamespaceError::NoUserNamespace);
    }
    let mut time_offsets = Vec::new();
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        if !is_new(LinuxNamespaceType::Time) {
            return Err(NamespaceError::NoTimeNamespace);
        }
        time_offsets.push(time_offset(clock, offset)?);
    }
    time_offsets.sort_by(|one, other| one.clock.cmp(&other.clock));
    Ok(Namespaces {
        listed: listed.iter().map(|namespace| convert(namespace.typ(), joined)).collect(),
        uids: if needs_ids { ranges("linux.uidMappings", uids)? } else { Vec::new() },
        gids: if needs_ids { ranges("linux.gidMappings", gids)? } else { Vec::new() },
        time_offsets,
    })
}

fn has_path(namespace: &LinuxNamespace) -> bool {
    namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty())
}

fn check(namespaces: &[LinuxNamespace]) -> Result<(), NamespaceError> {
    let is_new_user = |one: &LinuxNamespace| one.typ() == LinuxNamespaceType::User && !has_path(one);
    let has_new_user = namespaces.iter().any(is_new_user);
    for (index, namespace) in namespaces.iter().enumerate() {
        let kind = namespace.typ();
        let refuse = |reason| Err(NamespaceError::Namespace { index, kind, reason });
        if namespaces.iter().take(index).any(|earlier| earlier.typ() == kind) {
            return refuse("it is listed twice");
        }
        if has_path(namespace) && kind == LinuxNamespaceType::Mount {
            return refuse("it cannot be joined; a container has its own, which its files are in");
        }
        if has_path(namespace) && kind != LinuxNamespaceType::Network && has_new_user {
            return refuse("it cannot be joined together with a new user namespace");
        }
    }
    Ok(())
}

fn ranges(field: &'static str, ranges: &[LinuxIdMapping]) -> Result<Vec<proto::IdMapping>, NamespaceError> {
    if !(1..=MOST_RANGES).contains(&ranges.len()) {
        return Err(NamespaceError::Ranges(field));
    }
    if !ranges.iter().any(|range| range.container_id() == 0 && range.size() > 0) {
        return Err(NamespaceError::NoRoot(field));
    }
    let range = |range: &LinuxIdMapping| proto::IdMapping {
        container_id: range.container_id(),
        host_id: range.host_id(),
        size: range.size(),
        ..Default::default()
    };
    Ok(ranges.iter().map(range).collect())
}

fn time_offset(clock: &str, offset: &LinuxTimeOffset) -> Result<proto::TimeOffset, NamespaceError> {
    let nanoseconds = offset.nanosecs().unwrap_or(0);
    let refuse = |reason| Err(NamespaceError::Offset(clock.to_owned(), reason));
    if !["monotonic", "boottime"].contains(&clock) {
        return refuse("only monotonic and boottime have an offset");
    }
    if nanoseconds >= NANOSECONDS {
        return refuse("nanosecs is a second or more");
    }
    let seconds = offset.secs().unwrap_or(0);
    Ok(proto::TimeOffset { clock: clock.to_owned(), seconds, nanoseconds, ..Default::default() })
}

fn convert(kind: LinuxNamespaceType, joined: &Joined) -> proto::Namespace {
    let container = joined.iter().find(|(joined, _)| *joined == kind).map(|(_, container)| container.clone());
    let kind = match kind {
        LinuxNamespaceType::Mount => Kind::KIND_MOUNT,
        LinuxNamespaceType::Cgroup => Kind::KIND_CGROUP,
        LinuxNamespaceType::Uts => Kind::KIND_UTS,
        LinuxNamespaceType::Ipc => Kind::KIND_IPC,
        LinuxNamespaceType::User => Kind::KIND_USER,
        LinuxNamespaceType::Pid => Kind::KIND_PID,
        LinuxNamespaceType::Network => Kind::KIND_NETWORK,
        LinuxNamespaceType::Time => Kind::KIND_TIME,
    };
    proto::Namespace { kind: kind.into(), container_id: container.unwrap_or_default(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn converted(linux: Value) -> Result<Namespaces, String> {
        let linux: Linux = serde_json::from_value(linux).unwrap();
        to_agent(Some(&linux), &vec![(LinuxNamespaceType::Network, "member-1".to_owned())])
            .map_err(|error| error.to_string())
    }

    #[test]
    fn namespaces_with_their_ids_and_clocks_reach_the_agent() {
        let ids = |host| json!([{"containerID": 0, "hostID": host, "size": 10}]);
        let namespaces = converted(json!({
            "namespaces": [{"type": "user"}, {"type": "time"}, {"type": "network", "path": "/run/netns/x"}],
            "uidMappings": ids(1000), "gidMappings": ids(2000),
            "timeOffsets": {"monotonic": {"secs": -5, "nanosecs": 7}}
        }))
        .unwrap();
        let kinds: Vec<Kind> = namespaces.listed.iter().map(|one| one.kind.enum_value().unwrap()).collect();
        assert_eq!(kinds, [Kind::KIND_USER, Kind::KIND_TIME, Kind::KIND_NETWORK]);
        let joined: Vec<&str> = namespaces.listed.iter().map(|one| one.container_id.as_str()).collect();
        assert_eq!(joined, ["", "", "member-1"]);
        let (uid, gid) = (&namespaces.uids[0], &namespaces.gids[0]);
        assert_eq!((uid.container_id, uid.host_id, uid.size, gid.host_id), (0, 1000, 10, 2000));
        let offset = &namespaces.time_offsets[0];
        assert_eq!((&*offset.clock, offset.seconds, offset.nanoseconds), ("monotonic", -5, 7));
    }

    #[test]
    fn a_user_namespace_that_is_joined_needs_no_ids() {
        let user =
            json!([{"type": "user", "path": "/proc/1/ns/user"}, {"type": "pid", "path": "/proc/1/ns/pid"}]);
        let namespaces = converted(json!({"namespaces": user})).unwrap();
        assert!(namespaces.uids.is_empty() && namespaces.gids.is_empty());
        let ids = json!([{"containerID": 0, "hostID": 1, "size": 10}]);
        let namespaces =
            converted(json!({"namespaces": user, "uidMappings": ids, "gidMappings": ids})).unwrap();
        assert_eq!((namespaces.uids[0].host_id, namespaces.gids[0].size), (1, 10));
        let half = converted(json!({"namespaces": user, "uidMappings": ids})).unwrap_err();
        assert!(half.starts_with("linux.gidMappings must have 1 to 340 ranges"), "{half}");
    }

    #[test]
    fn what_cannot_be_is_told_by_field() {
        let ids = json!([{"containerID": 0, "hostID": 1, "size": 10}]);
        let user = json!([{"type": "user"}]);
        let other = json!([{"containerID": 1, "hostID": 1, "size": 10}]);
        let time = json!([{"type": "time"}]);
        for (linux, error) in [
            (
                json!({"namespaces": [{"type": "pid"}, {"type": "pid"}]}),
                "linux.namespaces[1] (pid): it is listed twice",
            ),
            (
                json!({"namespaces": [{"type": "mount", "path": "/proc/1/ns/mnt"}]}),
                "linux.namespaces[0] (mnt): it cannot be joined; a container has its own, which its files are in",
            ),
            (
                json!({"namespaces": [{"type": "time", "path": "/proc/1/ns/time"}], "timeOffsets": {"monotonic": {"secs": 1}}}),
                "linux.timeOffsets needs a new time namespace in linux.namespaces",
            ),
            (
                json!({"namespaces": [{"type": "user"}, {"type": "ipc", "path": "/proc/1/ns/ipc"}], "uidMappings": ids, "gidMappings": ids}),
                "linux.namespaces[1] (ipc): it cannot be joined together with a new user namespace",
            ),
            (
                json!({"uidMappings": ids}),
                "linux.uidMappings and linux.gidMappings need a user namespace in linux.namespaces",
            ),
            (
                json!({"namespaces": user, "uidMappings": ids}),
                "linux.gidMappings must have 1 to 340 ranges: there is a user namespace",
            ),
            (
                json!({"namespaces": user, "uidMappings": ids, "gidMappings": other}),
                "linux.gidMappings does not map the container's id 0",
            ),
            (
                json!({"timeOffsets": {"monotonic": {"secs": 1}}}),
                "linux.timeOffsets needs a new time namespace in linux.namespaces",
            ),
            (
                json!({"namespaces": time, "timeOffsets": {"realtime": {"secs": 1}}}),
                "linux.timeOffsets.realtime: only monotonic and boottime have an offset",
            ),
        ] {
            assert_eq!(converted(linux).unwrap_err(), error);
        }
    }
}
