//! The process of a request: what is executed, as whom, with which stdio.

use std::ffi::CString;

use agent_protocol::agent;

use super::settings::{capabilities, settings};
use super::{RequestError, absolute, c_string, invalid};
use crate::process::ProcessSpec;
use crate::process::console::WindowSize;
use crate::process::descriptors::{Descriptor, Kind};
use crate::process::stdio::Tokens;
use crate::security::user::{MOST_GROUPS, User, valid};

/// Descriptors that a process may have besides stdio.
const MOST_DESCRIPTORS: usize = 64;

/// The default of runc and of the specification's examples.
const DEFAULT_UMASK: u32 = 0o022;

/// Checks a window size.
///
/// # Errors
///
/// [`RequestError::Invalid`] if a side is over 65535.
pub fn window_size(size: &agent::WindowSize) -> Result<WindowSize, RequestError> {
    let side = |value: u32| {
        u16::try_from(value).map_err(|_range| invalid("window size", &value.to_string(), "at most 65535"))
    };
    Ok(WindowSize { columns: side(size.columns)?, rows: side(size.rows)? })
}

/// Checks a process.
pub(super) fn process_spec(process: agent::Process) -> Result<ProcessSpec, RequestError> {
    let settings = settings(&process)?;
    let capabilities = process.capabilities.as_ref().map(capabilities).transpose()?;
    if process.args.is_empty() {
        return Err(RequestError::Missing("process.args"));
    }
    let terminal = match (process.terminal, process.console_size.as_ref()) {
        (true, Some(size)) => Some(window_size(size)?),
        (true, None) => Some(WindowSize::default()),
        (false, _) => None,
    };
    let args =
        process.args.into_iter().map(|text| c_string("process.args", text)).collect::<Result<_, _>>()?;
    let tokens = tokens(process.terminal, &process.streams.into_option().unwrap_or_default())?;
    let descriptors = descriptors(&process.descriptors)?;
    let user = process.user.into_option().unwrap_or_default();
    let umask = user.umask.unwrap_or(DEFAULT_UMASK);
    if umask > 0o777 {
        return Err(invalid("process.user.umask", &format!("{umask:o}"), "at most 777 octal"));
    }
    Ok(ProcessSpec {
        args,
        env: environment(process.env)?,
        cwd: absolute("process.cwd", &process.cwd)?,
        user: self::user(user)?,
        umask,
        terminal,
        tokens,
        descriptors,
        capabilities,
        no_new_privileges: process.no_new_privileges,
        settings,
    })
}

/// As in a shell, the last of several settings of a name counts; each keeps the place of its first.
fn environment(variables: Vec<String>) -> Result<Vec<CString>, RequestError> {
    let mut places = std::collections::HashMap::new();
    let mut kept: Vec<CString> = Vec::new();
    for variable in variables {
        let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(invalid("process.env", &variable, "NAME=value is needed"));
        };
        let place = *places.entry(name.to_owned()).or_insert(kept.len());
        let variable = c_string("process.env", variable)?;
        match kept.get_mut(place) {
            Some(earlier) => *earlier = variable,
            None => kept.push(variable),
        }
    }
    Ok(kept)
}

fn user(user: agent::User) -> Result<User, RequestError> {
    if user.additional_gids.len() > MOST_GROUPS {
        return Err(RequestError::TooMany("process.user.additionalGids"));
    }
    if let Some(id) = [user.uid, user.gid].iter().chain(&user.additional_gids).find(|id| !valid(**id)) {
        return Err(invalid("process.user", &id.to_string(), "that number means no user"));
    }
    if user.username.contains([':', '\n', '\0']) {
        return Err(invalid("process.user.username", &user.username, "no user can have that name"));
    }
    let name = (!user.username.is_empty()).then_some(user.username);
    Ok(User { uid: user.uid, gid: user.gid, additional_gids: user.additional_gids, name })
}

fn tokens(terminal: bool, streams: &agent::Streams) -> Result<Tokens, RequestError> {
    let tokens = Tokens {
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        terminal: streams.terminal,
    };
    let piped = [tokens.stdin, tokens.stdout, tokens.stderr].iter().any(|&token| token != 0);
    match (terminal, tokens.terminal) {
        (true, _) if piped => Err(invalid("streams", "stdin, stdout, stderr", "a terminal has one stream")),
        (false, 1..) => Err(invalid("streams", "terminal", "the process has no terminal")),
        _ => Ok(tokens),
    }
}

fn descriptors(descriptors: &[agent::Descriptor]) -> Result<Vec<Descriptor>, RequestError> {
    use agent::descriptor::Kind as Wanted;
    if descriptors.len() > MOST_DESCRIPTORS {
        return Err(RequestError::TooMany("process.descriptors"));
    }
    let check = |descriptor: &agent::Descriptor| {
        let kind = match descriptor.kind.enum_value() {
            Ok(Wanted::KIND_READER) => Kind::Reader,
            Ok(Wanted::KIND_WRITER) => Kind::Writer,
            Ok(Wanted::KIND_SOCKET) => Kind::Socket,
            Ok(Wanted::KIND_LISTENER) => Kind::Listener,
            _ => {
                let kind = descriptor.kind.value().to_string();
                return Err(invalid("process.descriptors.kind", &kind, "there is no such kind"));
            }
        };
        match descriptor.token {
            0 => Err(invalid("process.descriptors.token", "0", "a descriptor needs a stream")),
            token => Ok(Descriptor { kind, token }),
        }
    };
    descriptors.iter().map(check).collect()
}
