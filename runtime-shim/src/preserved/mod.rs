//! Descriptors of the caller's from 3 on, which the workload gets too: `--preserve-fds`, and `LISTEN_FDS` of
//! sd_listen_fds(3). As another kernel cannot have them, what the workload gets is relayed ([`crate::io::descriptors`]).

pub(crate) mod kind;

use std::env;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use anyhow::anyhow;

use crate::failure::Failure;
use crate::sandbox::inherited_fds::take_inherited_fd;
use kind::Kind;

/// The first number behind stdio.
const FIRST: RawFd = 3;

/// As many as one process can have. Each takes a thread or two of the process that stands for it.
const MOST: usize = 32;

/// A descriptor, and what it is.
#[derive(Debug)]
pub(crate) struct Descriptor {
    pub(crate) fd: OwnedFd,
    pub(crate) kind: Kind,
}

/// What the workload gets, in its order.
#[derive(Debug, Default)]
pub(crate) struct Preserved {
    pub(crate) descriptors: Vec<Descriptor>,
    /// How many of them are those of `LISTEN_FDS`.
    listen: usize,
}

impl Preserved {
    /// What they are.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        self.descriptors.iter().map(|descriptor| descriptor.kind).collect()
    }

    /// Takes what the caller has passed, as runc does: those of `LISTEN_FDS` if they are meant for this process, and those of
    /// `--preserve-fds` behind them. To be called before this process has opened anything, or that would be taken.
    pub(crate) fn take(listen: usize, preserve: u32) -> Result<Self, Failure> {
        let preserve = usize::try_from(preserve).unwrap_or(usize::MAX);
        let mut preserved = Self { descriptors: Vec::new(), listen };
        for index in 0..listen.saturating_add(preserve) {
            let number = RawFd::try_from(index).ok().and_then(|index| index.checked_add(FIRST));
            let number = number.unwrap_or(RawFd::MAX);
            let fd = take_inherited_fd(number).map_err(|_closed| match index.checked_sub(listen) {
                // In runc's words.
                Some(index) => anyhow!(
                    "unable to stat preserved-fd {index} (of {preserve}): \
                     stat /proc/self/fd/{number}: no such file or directory"
                ),
                None => anyhow!("descriptor {number} of LISTEN_FDS={listen} is not open"),
            })?;
            let kind = kind::of(fd.as_fd()).map_err(|refusal| anyhow!("descriptor {number} {refusal}"))?;
            preserved.descriptors.push(Descriptor { fd, kind });
        }
        match preserved.descriptors.len() {
            0..=MOST => Ok(preserved),
            asked => Err(anyhow!(
                "--preserve-fds and LISTEN_FDS ask for {asked} descriptors: at most {MOST} can be handed to a process"
            )
            .into()),
        }
    }

    /// What tells the workload of those of `LISTEN_FDS`, as runc has it: names (`LISTEN_FDNAMES`) are not passed on.
    pub(crate) fn environment(&self) -> Vec<String> {
        match self.listen {
            0 => Vec::new(),
            listen => vec![format!("LISTEN_FDS={listen}"), "LISTEN_PID=1".to_owned()],
        }
    }
}

/// What a process has inherited for its workload, by the plan for it.
pub(crate) fn arrived(fds: Vec<OwnedFd>, kinds: &[Kind]) -> Vec<Descriptor> {
    fds.into_iter().zip(kinds).map(|(fd, &kind)| Descriptor { fd, kind }).collect()
}

/// How many descriptors the caller has passed by `LISTEN_FDS`, if that is for this process.
pub(crate) fn listen_fds() -> usize {
    count(env::var_os("LISTEN_FDS"), || env::var_os("LISTEN_PID"), std::process::id())
}

fn count(fds: Option<OsString>, pid: impl FnOnce() -> Option<OsString>, own: u32) -> usize {
    let number = |text: OsString| text.to_str().and_then(|text| text.parse::<u32>().ok());
    let Some(fds) = fds.and_then(number) else { return 0 };
    if pid().and_then(number) == Some(own) { usize::try_from(fds).unwrap_or(usize::MAX) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_another_process_are_not_for_this_one() {
        let text = |text: &str| Some(OsString::from(text));
        let counted = |fds, pid| count(fds, || pid, 42);
        assert_eq!(counted(text("2"), text("42")), 2);
        for (fds, pid) in [
            (None, None),
            (text("2"), None),
            (text("2"), text("41")),
            (text(""), text("42")),
            (text("0"), text("42")),
            (text("-1"), text("42")),
            (text("two"), text("42")),
        ] {
            assert_eq!(counted(fds.clone(), pid.clone()), 0, "{fds:?} {pid:?}");
        }
    }

    #[test]
    fn only_those_that_listen_are_told_of() {
        assert!(Preserved::default().environment().is_empty());
        let preserved = Preserved { descriptors: Vec::new(), listen: 2 };
        assert_eq!(preserved.environment(), ["LISTEN_FDS=2", "LISTEN_PID=1"]);
    }
}
