//! What a container lives in and with: the ids of its user namespace, the clocks of its time namespace, its hooks.

use std::ffi::OsString;
use std::fmt::Write;
use std::time::Duration;

use agent_protocol::agent;

use super::{RequestError, absolute, c_string, invalid};
use crate::container::namespaces::Namespaces;
use crate::process::hooks::{Hook, Hooks};
use crate::security::identity_map::{IdentityMap, Range};

/// Of a map (user_namespaces(7)).
const MOST_RANGES: usize = 340;

const NANOSECONDS: u32 = 1_000_000_000;

/// Checks the ids; a new user namespace has to have some. Those of one that is joined are known.
pub(super) fn identities(
    uids: &[agent::IdMapping],
    gids: &[agent::IdMapping],
    namespaces: Namespaces,
    new: Namespaces,
) -> Result<Option<IdentityMap>, RequestError> {
    match (namespaces.user, uids.is_empty() || gids.is_empty()) {
        (true, true) if !new.user && uids.is_empty() && gids.is_empty() => Ok(None),
        (true, true) => Err(RequestError::Missing("uidMappings or gidMappings")),
        (false, _) if uids.is_empty() && gids.is_empty() => Ok(None),
        (false, _) => Err(invalid("uidMappings", "", "they need a user namespace of the container's own")),
        (true, false) => {
            let map = IdentityMap { uids: ranges(uids)?, gids: ranges(gids)? };
            // Nobody could build the container.
            map.root().ok_or_else(|| {
                invalid("uidMappings", "", "user and group 0 of the container are not mapped")
            })?;
            Ok(Some(map))
        }
    }
}

fn ranges(mappings: &[agent::IdMapping]) -> Result<Vec<Range>, RequestError> {
    if mappings.len() > MOST_RANGES {
        return Err(RequestError::TooMany("uidMappings or gidMappings"));
    }
    let range =
        |one: &agent::IdMapping| Range { inside: one.container_id, outside: one.host_id, size: one.size };
    Ok(mappings.iter().map(range).collect())
}

/// Checks the offsets of the clocks.
pub(super) fn time_offsets(
    offsets: &[agent::TimeOffset],
    namespaces: Namespaces,
) -> Result<String, RequestError> {
    let mut text = String::new();
    for agent::TimeOffset { clock, seconds, nanoseconds, .. } in offsets {
        if !namespaces.time {
            return Err(invalid("timeOffsets", clock, "it needs a time namespace of the container's own"));
        }
        if !["monotonic", "boottime"].contains(&clock.as_str()) {
            return Err(invalid("timeOffsets", clock, "that clock has no offset"));
        }
        if *nanoseconds >= NANOSECONDS {
            return Err(invalid("timeOffsets", &nanoseconds.to_string(), "that is a second or more"));
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{clock} {seconds} {nanoseconds}");
    }
    Ok(text)
}

/// Checks the hooks and what they are to read.
pub(super) fn hooks(hooks: Vec<agent::Hook>, state: &str) -> Result<Hooks, RequestError> {
    if hooks.is_empty() {
        return Ok(Hooks::default());
    }
    let state = state.strip_prefix('{').ok_or_else(|| invalid("state", state, "a JSON object is needed"))?;
    let start_container = hooks.into_iter().map(hook).collect::<Result<_, _>>()?;
    Ok(Hooks { start_container, state: state.to_owned() })
}

fn hook(hook: agent::Hook) -> Result<Hook, RequestError> {
    let text = |text: String| -> Result<OsString, RequestError> {
        c_string("hook", text.clone())?;
        Ok(text.into())
    };
    let variable = |variable: String| {
        c_string("hook", variable.clone())?;
        let (name, value) = variable
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| invalid("hook environment", &variable, "NAME=value is needed"))?;
        Ok((name.into(), value.into()))
    };
    Ok(Hook {
        path: absolute("hook path", &hook.path)?,
        args: hook.args.into_iter().map(text).collect::<Result<_, _>>()?,
        env: hook.env.into_iter().map(variable).collect::<Result<_, RequestError>>()?,
        timeout: (hook.timeout_seconds > 0).then(|| Duration::from_secs(hook.timeout_seconds.into())),
    })
}
