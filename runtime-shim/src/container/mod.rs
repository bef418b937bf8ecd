//! Containers as commands find them: a folder each below the root, with the record of what is there.
//!
//! No process owns this state: every command reads it anew, and what it says of a process is believed only while
//! that process is there ([`process::ProcessId`]). [`record`] is the content of `state.json`, [`store`] its place.

pub(crate) mod id;
pub(crate) mod make;
pub(crate) mod membership;
pub(crate) mod process;
pub(crate) mod record;
pub(crate) mod remove;
pub(crate) mod state;
pub(crate) mod store;
