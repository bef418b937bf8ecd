//! The user of a process: numbers as given, or a name looked up in the container's own /etc/passwd.
//!
//! Called in the container's init after the change of root: the files read here are the image's, and
//! may be anything.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// A database larger than this is not read: it is no database.
const LARGEST_DATABASE: u64 = 16 << 20;

/// setgroups(2): `NGROUPS_MAX`.
pub const MOST_GROUPS: usize = 65536;

/// The user that was asked for.
#[derive(Clone, Debug, Default)]
pub struct User {
    /// Used unless there is a name.
    pub uid: u32,
    /// Used unless there is a name.
    pub gid: u32,
    /// Groups besides the primary one.
    pub additional_gids: Vec<u32>,
    /// A name of /etc/passwd.
    pub name: Option<String>,
}

/// Who the process will be.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: String,
}

/// Why the user cannot be.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such name.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    Unknown(String),
    /// The file is not readable, or not a file.
    #[error("cannot read {path} of the root file system")]
    Read {
        /// Which one.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Refused by the kernel.
    #[error("cannot become user {uid}, group {gid}")]
    Become {
        /// Wanted.
        uid: u32,
        /// Wanted.
        gid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A line of passwd(5) that is whole.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl User {
    /// Looks the user up in the databases of the root file system.
    ///
    /// # Errors
    ///
    /// [`UserError`]; a missing database is an error only if a name has to be found in it.
    pub fn identify(&self) -> Result<Identity, UserError> {
        let passwd = open(PASSWD).map_err(|source| UserError::Read { path: PASSWD, source });
        let Some(name) = &self.name else {
            // Only the home directory depends on it; an unreadable file is as good as none.
            let home = passwd.ok().flatten().and_then(|file| find_home(file, self.uid));
            let home = home.unwrap_or_else(|| "/".to_owned());
            return Ok(Identity { uid: self.uid, gid: self.gid, groups: self.additional_gids.clone(), home });
        };
        let mut identity = match passwd? {
            Some(file) => find_name(file, name).map_err(|source| UserError::Read { path: PASSWD, source })?,
            None => None,
        }
        .ok_or_else(|| UserError::Unknown(name.clone()))?;
        let groups = open(GROUP).and_then(|file| match file {
            Some(file) => groups_of(file, name),
            None => Ok(Vec::new()),
        });
        identity.groups = groups.map_err(|source| UserError::Read { path: GROUP, source })?;
        identity.groups.extend(&self.additional_gids);
        identity.groups.truncate(MOST_GROUPS);
        Ok(identity)
    }
}

impl Identity {
    /// The user's number.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The home directory, `/` if unknown.
    pub fn home(&self) -> &str {
        &self.home
    }

    /// Makes the calling process this user, for good.
    ///
    /// # Errors
    ///
    /// [`UserError::Become`].
    pub fn assume(&self) -> Result<(), UserError> {
        let groups: Vec<Gid> = self.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // The process has one thread, so what the calls change for a thread they change for the process.
        set_thread_groups(&groups)
            .and_then(|()| set_thread_res_gid(gid, gid, gid))
            .and_then(|()| set_thread_res_uid(uid, uid, uid))
            .map_err(|error| UserError::Become { uid: self.uid, gid: self.gid, source: error.into() })
    }
}

/// Becomes root of the user namespace that the calling process is in, of whose ids it has none yet.
///
/// # Errors
///
/// Those of setresuid(2) and setresgid(2): `EINVAL` where the namespace has no root.
pub fn become_root() -> io::Result<()> {
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_groups(&[])?;
    Ok(set_thread_res_uid(uid, uid, uid)?)
}

/// `None` if there is no such file. Never blocks, even on a named pipe.
fn open(path: &str) -> io::Result<Option<BufReader<io::Take<File>>>> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > LARGEST_DATABASE {
        return Err(io::Error::other("larger than 16 MiB"));
    }
    Ok(Some(BufReader::new(file.take(LARGEST_DATABASE))))
}

fn find_name(database: impl BufRead, name: &str) -> io::Result<Option<Identity>> {
    find(database, |line| {
        let account = Account::parse(line).filter(|account| account.name == name)?;
        let (uid, gid) = (account.uid, account.gid);
        Some(Identity { uid, gid, groups: Vec::new(), home: account.home.to_owned() })
    })
}

fn find_home(database: impl BufRead, uid: u32) -> Option<String> {
    find(database, |line| {
        Account::parse(line).filter(|account| account.uid == uid).map(|account| account.home.to_owned())
    })
    .ok()
    .flatten()
    .filter(|home| home.starts_with('/'))
}

/// The groups that list `name` as a member.
fn groups_of(database: impl BufRead, name: &str) -> io::Result<Vec<u32>> {
    let mut groups = Vec::new();
    find(database, |line| -> Option<()> {
        // group(5): name:password:gid:member,member
        let mut fields = line.splitn(4, ':').skip(2);
        let (gid, members) = (fields.next()?.parse().ok()?, fields.next()?);
        if valid(gid) && members.split(',').any(|member| member == name) && groups.len() < MOST_GROUPS {
            groups.push(gid);
        }
        None
    })?;
    Ok(groups)
}

/// The first thing that `wanted` finds in a line. Lines that are not text are passed over.
fn find<T>(mut database: impl BufRead, mut wanted: impl FnMut(&str) -> Option<T>) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    while database.read_until(b'\n', &mut line)? != 0 {
        let found = std::str::from_utf8(&line).ok().and_then(|text| wanted(text.trim_end_matches('\n')));
        if found.is_some() {
            return Ok(found);
        }
        line.clear();
    }
    Ok(None)
}

impl<'a> Account<'a> {
    /// passwd(5): name:password:UID:GID:comment:directory:shell. A line that is not whole names nobody: what it
    /// lacks must never be taken for 0, which is root.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = fields.nth(1)?.parse().ok().filter(|&uid| valid(uid))?;
        let gid = fields.next()?.parse().ok().filter(|&gid| valid(gid))?;
        let home = fields.nth(1)?;
        Some(Self { name, uid, gid, home })
    }
}

/// The highest number means "unchanged" to setresuid(2).
pub fn valid(id: u32) -> bool {
    id != u32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATABASE: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        half:x:\n\
        empty:x::0::/:\n\
        word:x:zero:0::/:\n\
        big:x:4294967296:0::/:\n\
        all:x:4294967295:0::/:\n\
        minus:x:-1:0::/:\n\
        \xff\xfe:x:0:0::/:\n\
        :x:0:0::/:\n\
        anna:x:1000:100:Anna,,,:/home/anna:/bin/sh\n\
        anna:x:0:0:second:/root:/bin/sh\n\
        last:x:7:8::/last";

    #[test]
    fn the_first_whole_line_with_the_name_counts() {
        let anna = find_name(DATABASE, "anna").unwrap().unwrap();
        assert_eq!((anna.uid, anna.gid, anna.home.as_str()), (1000, 100, "/home/anna"));
    }

    #[test]
    fn a_broken_line_names_nobody_and_above_all_not_root() {
        for name in ["half", "empty", "word", "big", "all", "minus", "", "x", "0", "1000", "ann", "anna:x"] {
            assert_eq!(find_name(DATABASE, name).unwrap(), None, "{name}");
        }
    }

    #[test]
    fn the_last_line_needs_neither_a_shell_nor_a_line_end() {
        let last = find_name(DATABASE, "last").unwrap().unwrap();
        assert_eq!((last.uid, last.gid), (7, 8));
    }

    #[test]
    fn the_home_is_found_by_number() {
        assert_eq!(find_home(DATABASE, 1000).as_deref(), Some("/home/anna"));
        assert_eq!(find_home(DATABASE, 4242), None);
        assert_eq!(find_home(&b"odd:x:5:5::relative:\n"[..], 5), None);
    }

    #[test]
    fn groups_are_those_that_list_the_whole_name() {
        let groups = b"wheel:x:10:root,anna\nann:x:11:ann\nbad:x:no:anna\nnone:x:12:\nlast:x:13:anna";
        assert_eq!(groups_of(&groups[..], "anna").unwrap(), [10, 13]);
    }
}
