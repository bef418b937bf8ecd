//! Mount options: from the strings of the bundle to attributes, propagation and file system parameters.
//!
//! The table is that of the OCI specification (config.md, "Linux mount options"), which is mount(8)'s with
//! the recursive attributes of mount_setattr(2). What is not in the table is a parameter of the file system;
//! a bind mount has none, so there it is an error.

use crate::rootfs::propagation::Propagation;
use crate::sys::mount_api::{MountAttributes, UNCHANGED};

/// What the options of one mount ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// For the mount itself.
    pub attributes: MountAttributes,
    /// For the mount and all below it.
    pub recursive: MountAttributes,
    /// In the order given.
    pub propagation: Vec<Propagation>,
    /// `bind` or `rbind` was given.
    pub bind: Option<Bind>,
    /// Superblock flags, as fsconfig(2) names them.
    pub superblock: Vec<&'static str>,
    /// Parameters of the file system: `key` or `key=value`.
    pub data: Vec<String>,
    /// The ids of the bind are mapped, which has been done on the host.
    pub id_map: bool,
    /// `tmpcopyup` was given: a tmpfs begins with a copy of what is in its place.
    pub copy_up: bool,
    /// `remount` was given: a mount that is there is changed.
    pub remount: bool,
}

/// What a bind mount takes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// One mount.
    Single,
    /// All mounts below the source too.
    Recursive,
}

/// An option that cannot be honoured.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Not an option of any mount.
    #[error("mount option {0:?} is not one that a bind mount can have")]
    UnknownForBind(String),
    /// Known, but not done.
    #[error("mount option {0:?} is not supported")]
    Unsupported(String),
}

/// An option's effect.
enum Effect {
    Nothing,
    Set(u64),
    Clear(u64),
    /// A value of the access-time field.
    Time(u64),
    Superblock(&'static str),
    Bind(Bind),
    CopyUp,
    IdMap,
    Remount,
    Unsupported,
}

/// Options that `table` knows and that begin with `r` act on all mounts below as well.
const RECURSIVE: &[&str] = &[
    "rro",
    "rrw",
    "rnosuid",
    "rsuid",
    "rnodev",
    "rdev",
    "rnoexec",
    "rexec",
    "rnodiratime",
    "rdiratime",
    "rnoatime",
    "ratime",
    "rrelatime",
    "rnorelatime",
    "rstrictatime",
    "rnostrictatime",
    "rnosymfollow",
    "rsymfollow",
];

fn table(option: &str) -> Option<Effect> {
    use libc::{
        MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
        MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME,
    };
    Some(match option {
        "ro" => Effect::Set(MOUNT_ATTR_RDONLY),
        "rw" => Effect::Clear(MOUNT_ATTR_RDONLY),
        "nosuid" => Effect::Set(MOUNT_ATTR_NOSUID),
        "suid" => Effect::Clear(MOUNT_ATTR_NOSUID),
        "nodev" => Effect::Set(MOUNT_ATTR_NODEV),
        "dev" => Effect::Clear(MOUNT_ATTR_NODEV),
        "noexec" => Effect::Set(MOUNT_ATTR_NOEXEC),
        "exec" => Effect::Clear(MOUNT_ATTR_NOEXEC),
        "nodiratime" => Effect::Set(MOUNT_ATTR_NODIRATIME),
        "diratime" => Effect::Clear(MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => Effect::Set(MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => Effect::Clear(MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => Effect::Time(MOUNT_ATTR_NOATIME),
        "strictatime" => Effect::Time(MOUNT_ATTR_STRICTATIME),
        // `atime` undoes `noatime`, `nostrictatime` undoes `strictatime`: what is left is the kernel's default.
        "relatime" | "atime" | "norelatime" | "nostrictatime" => Effect::Time(MOUNT_ATTR_RELATIME),
        "sync" => Effect::Superblock("sync"),
        "async" => Effect::Superblock("async"),
        "dirsync" => Effect::Superblock("dirsync"),
        "lazytime" => Effect::Superblock("lazytime"),
        "nolazytime" => Effect::Superblock("nolazytime"),
        "mand" => Effect::Superblock("mand"),
        "nomand" => Effect::Superblock("nomand"),
        "bind" => Effect::Bind(Bind::Single),
        "rbind" => Effect::Bind(Bind::Recursive),
        // Those of mount(2) that Linux does not look at any more, or only for messages.
        "defaults" | "silent" | "loud" | "acl" | "noacl" | "iversion" | "noiversion" => Effect::Nothing,
        "tmpcopyup" => Effect::CopyUp,
        "idmap" | "ridmap" => Effect::IdMap,
        "remount" => Effect::Remount,
        "copy-symlink" => Effect::Unsupported,
        _ => return None,
    })
}

impl MountOptions {
    /// Reads the options of one mount; `bind` when its type says that it is one.
    ///
    /// # Errors
    ///
    /// [`OptionError`] names the option.
    pub fn parse(options: &[String], bind: bool) -> Result<Self, OptionError> {
        let mut parsed = Self {
            attributes: UNCHANGED,
            recursive: UNCHANGED,
            propagation: Vec::new(),
            bind: bind.then_some(Bind::Single),
            superblock: Vec::new(),
            data: Vec::new(),
            copy_up: false,
            id_map: false,
            remount: false,
        };
        for option in options {
            parsed.add(option)?;
        }
        match parsed.data.first() {
            _ if parsed.id_map && parsed.bind.is_none() => Err(OptionError::Unsupported("idmap".to_owned())),
            Some(unknown) if parsed.bind.is_some() => Err(OptionError::UnknownForBind(unknown.clone())),
            _ => Ok(parsed),
        }
    }

    /// The attributes of a mount that gets just those that are named, as mount(2) has it for `MS_REMOUNT`: others are
    /// taken away, but for the access time, which stays if none is named.
    pub fn just_these(&self) -> MountAttributes {
        let all = libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC
            | libc::MOUNT_ATTR_NODIRATIME
            | libc::MOUNT_ATTR_NOSYMFOLLOW;
        let mut attributes = self.attributes;
        attributes.attr_clr |= all & !attributes.attr_set;
        attributes
    }

    /// Whether the mount is to be read-only.
    pub fn is_readonly(&self) -> bool {
        (self.attributes.attr_set | self.recursive.attr_set) & libc::MOUNT_ATTR_RDONLY != 0
    }

    fn add(&mut self, option: &str) -> Result<(), OptionError> {
        if let Some(propagation) = Propagation::from_name(option) {
            self.propagation.push(propagation);
            return Ok(());
        }
        let (attributes, name) = if RECURSIVE.contains(&option) {
            (&mut self.recursive, option.get(1..).unwrap_or_default())
        } else {
            (&mut self.attributes, option)
        };
        match table(name) {
            Some(Effect::Nothing) => {}
            Some(Effect::Set(flag)) => change(attributes, flag, flag),
            Some(Effect::Clear(flag)) => change(attributes, 0, flag),
            Some(Effect::Time(time)) => change(attributes, time, libc::MOUNT_ATTR__ATIME),
            Some(Effect::Superblock(flag)) => self.superblock.push(flag),
            Some(Effect::Bind(Bind::Recursive)) => self.bind = Some(Bind::Recursive),
            Some(Effect::Bind(Bind::Single)) => self.bind = self.bind.or(Some(Bind::Single)),
            Some(Effect::CopyUp) => self.copy_up = true,
            Some(Effect::Remount) => self.remount = true,
            Some(Effect::IdMap) => self.id_map = true,
            Some(Effect::Unsupported) => return Err(OptionError::Unsupported(option.to_owned())),
            None => self.data.push(option.to_owned()),
        }
        Ok(())
    }
}

/// The last option about a field wins.
fn change(attributes: &mut MountAttributes, set: u64, field: u64) {
    attributes.attr_set = attributes.attr_set & !field | set;
    attributes.attr_clr = attributes.attr_clr & !field | (field & !set);
    // mount_setattr(2): the access-time values are one field, which has to be cleared as a whole to be set.
    if field == libc::MOUNT_ATTR__ATIME {
        attributes.attr_clr |= field;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::{MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};

    fn parse(options: &[&str], bind: bool) -> Result<MountOptions, OptionError> {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        MountOptions::parse(&options, bind)
    }

    #[test]
    fn the_last_of_two_contrary_options_wins() {
        let options = parse(&["ro", "nosuid", "rw"], false).unwrap();
        assert_eq!(options.attributes.attr_set, MOUNT_ATTR_NOSUID);
        assert_eq!(options.attributes.attr_clr, MOUNT_ATTR_RDONLY);
        assert!(!options.is_readonly());
    }

    #[test]
    fn an_access_time_clears_the_whole_field() {
        let options = parse(&["strictatime", "noatime"], false).unwrap();
        assert_eq!(options.attributes.attr_set, MOUNT_ATTR_NOATIME);
        assert_eq!(options.attributes.attr_clr, MOUNT_ATTR__ATIME);
    }

    #[test]
    fn a_remount_takes_away_what_is_not_named() {
        let attributes = parse(&["remount", "ro"], false).unwrap().just_these();
        assert_eq!(attributes.attr_set, MOUNT_ATTR_RDONLY);
        assert_eq!(attributes.attr_clr & (MOUNT_ATTR_NOSUID | MOUNT_ATTR__ATIME), MOUNT_ATTR_NOSUID);
    }

    #[test]
    fn recursive_options_act_apart_from_the_plain_ones() {
        let options = parse(&["rbind", "rro", "nosuid"], true).unwrap();
        assert_eq!(options.recursive.attr_set, MOUNT_ATTR_RDONLY);
        assert_eq!(options.attributes.attr_set, MOUNT_ATTR_NOSUID);
        assert_eq!(options.bind, Some(Bind::Recursive));
    }

    #[test]
    fn what_is_no_mount_option_is_a_parameter_of_the_file_system() {
        let options = parse(&["nosuid", "size=64m", "mode=1777", "newinstance"], false).unwrap();
        assert_eq!(options.data, ["size=64m", "mode=1777", "newinstance"]);
    }

    #[test]
    fn an_unknown_option_of_a_bind_is_named() {
        assert_eq!(parse(&["ro", "sizzle=1"], true), Err(OptionError::UnknownForBind("sizzle=1".into())));
        // `bind` may also come after the option, and make the mount one.
        assert_eq!(parse(&["sizzle=1", "rbind"], false), Err(OptionError::UnknownForBind("sizzle=1".into())));
    }

    #[test]
    fn every_recursive_option_has_its_plain_form_in_the_table() {
        for option in RECURSIVE {
            assert!(
                matches!(table(&option[1..]), Some(Effect::Set(_) | Effect::Clear(_) | Effect::Time(_))),
                "{option}"
            );
        }
    }

    #[test]
    fn propagation_keeps_its_order() {
        let options = parse(&["rshared", "slave"], true).unwrap();
        let kinds: Vec<_> = options.propagation.iter().map(|one| (one.kind, one.recursive)).collect();
        assert_eq!(kinds, [(libc::MS_SHARED, true), (libc::MS_SLAVE, false)]);
    }

    #[test]
    fn what_is_not_done_is_refused_rather_than_ignored() {
        let copy = "copy-symlink";
        assert_eq!(parse(&[copy], false), Err(OptionError::Unsupported(copy.into())));
        assert_eq!(parse(&["idmap"], false), Err(OptionError::Unsupported("idmap".into())));
        assert!(parse(&["idmap"], true).is_ok());
    }
}
