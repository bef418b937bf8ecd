//! Limits: files of a cgroup, and what is written to them.

use std::fs;
use std::io;
use std::path::Path;

use rustix::thread::sched_getaffinity;

use crate::cgroup::Cgroup;

/// What one write to such a file may have.
const LONGEST_VALUE: usize = 4096;

/// Limits of memory are rounded to it.
const PAGE_SIZE: u64 = 4096;

/// Files that are not limits, but acts on processes or the shape of the hierarchy, which is the agent's.
const NO_LIMITS: &[&str] = &[
    "cgroup.events",
    "cgroup.freeze",
    "cgroup.kill",
    "cgroup.procs",
    "cgroup.subtree_control",
    "cgroup.threads",
    "cgroup.type",
];

/// A file and its new value, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    file: String,
    value: String,
}

/// A limit could not be set.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// No such file.
    #[error("cannot set {file}: the guest's kernel has no such limit")]
    Unknown {
        /// Which.
        file: String,
    },
    /// Refused by the kernel.
    #[error("cannot set {file} to {value:?}")]
    Write {
        /// Which.
        file: String,
        /// To what.
        value: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Controllers, of which the container's cgroup has its files.
    #[error("cannot turn the cgroup's controllers on")]
    Controllers(#[source] io::Error),
    /// More is in use.
    #[error("cannot set memory.max to {limit}: {used} bytes are in use")]
    InUse {
        /// The new limit in bytes.
        limit: u64,
        /// What is used in bytes.
        used: u64,
    },
    /// What is used could not be read.
    #[error("cannot read memory.current")]
    ReadUsage(#[source] io::Error),
    /// More than there is.
    #[error(
        "cannot set memory.max to {limit}: the machine of the container has {total} bytes of memory, and does not \
         grow while it runs"
    )]
    AboveMachine {
        /// The new limit in bytes.
        limit: u64,
        /// All that the guest's kernel has in bytes.
        total: u64,
    },
}

impl Setting {
    /// Whether it is one of that controller.
    pub fn is_of(&self, controller: &str) -> bool {
        self.file.split('.').next() == Some(controller)
    }

    /// A setting, if the file may be one of a limit.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn new(file: String, value: String) -> Result<Self, &'static str> {
        let parts = file.split('.');
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if parts.clone().count() < 2
            || !parts.clone().all(|part| !part.is_empty() && part.bytes().all(allowed))
        {
            return Err("that is no file of a cgroup");
        }
        if NO_LIMITS.contains(&file.as_str()) {
            return Err("that is no limit");
        }
        if value.is_empty() || value.len() > LONGEST_VALUE || value.contains('\0') {
            return Err("its value is empty or too long");
        }
        Ok(Self { file, value })
    }
}

impl Cgroup {
    /// Sets limits in their order.
    ///
    /// Some are refused as long as another has its old value (a burst above its quota), in an order that depends
    /// on those values: what is refused as invalid is tried again after the others.
    ///
    /// # Errors
    ///
    /// [`SettingError`] names the file; the other limits have been set then.
    pub fn set(&self, settings: &[Setting]) -> Result<(), SettingError> {
        let mut refused = Vec::new();
        for setting in settings {
            match self.write(setting) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => refused.push(setting),
                other => other.map_err(|source| setting.error(source))?,
            }
        }
        refused.into_iter().try_for_each(|one| self.write(one).map_err(|source| one.error(source)))
    }

    /// Lets its processes use the first `cpus` CPUs only, if there are more.
    ///
    /// # Errors
    ///
    /// [`SettingError`].
    pub fn set_cpus(&self, cpus: u32) -> Result<(), SettingError> {
        let Some(last) = cpus.checked_sub(1) else { return Ok(()) };
        let all = sched_getaffinity(None).map_or(0, |set| set.count());
        if cpus >= all {
            return Ok(());
        }
        self.set(&[Setting { file: "cpuset.cpus".to_owned(), value: format!("0-{last}") }])
    }

    /// Refuses a memory limit that is below what is in use.
    ///
    /// # Errors
    ///
    /// [`SettingError::InUse`].
    pub fn check_memory(&self, settings: &[Setting]) -> Result<(), SettingError> {
        let Some(limit) = memory_limit(settings) else { return Ok(()) };
        let used = fs::read_to_string(self.path().join("memory.current")).map_err(SettingError::ReadUsage)?;
        match used.trim().parse::<u64>() {
            Ok(used) if used > limit => Err(SettingError::InUse { limit, used }),
            _ => Ok(()),
        }
    }

    /// Refuses a memory limit that promises more than the machine has, unless it is the one that there is.
    ///
    /// # Errors
    ///
    /// [`SettingError::AboveMachine`].
    pub fn check_machine(&self, settings: &[Setting]) -> Result<(), SettingError> {
        let Some(limit) = memory_limit(settings) else { return Ok(()) };
        let machine = rustix::system::sysinfo();
        let total = machine.totalram.saturating_mul(u64::from(machine.mem_unit));
        let is_unchanged = || {
            let current = fs::read_to_string(self.path().join("memory.max")).ok()?;
            Some(current.trim().parse::<u64>().ok()? / PAGE_SIZE == limit / PAGE_SIZE)
        };
        if limit > total && is_unchanged() != Some(true) {
            return Err(SettingError::AboveMachine { limit, total });
        }
        Ok(())
    }

    fn write(&self, setting: &Setting) -> io::Result<()> {
        // Files like io.max take one device at a time.
        for line in setting.value.lines() {
            match fs::OpenOptions::new().write(true).open(self.path().join(&setting.file)) {
                // Without swap in the kernel none can be used.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && setting.file == "memory.swap.max" => {}
                file => io::Write::write_all(&mut file?, line.as_bytes())?,
            }
        }
        Ok(())
    }
}

impl Setting {
    fn error(&self, source: io::Error) -> SettingError {
        let file = self.file.clone();
        match source.kind() {
            io::ErrorKind::NotFound => SettingError::Unknown { file },
            _ => SettingError::Write { file, value: self.value.clone(), source },
        }
    }
}

/// The last `memory.max`, if it is a number.
fn memory_limit(settings: &[Setting]) -> Option<u64> {
    settings.iter().rfind(|setting| setting.file == "memory.max")?.value.parse().ok()
}

/// Turns on, for the cgroups below `parent`, every controller that it has.
///
/// # Errors
///
/// [`SettingError::Controllers`].
pub fn enable_controllers(parent: &Path) -> Result<(), SettingError> {
    let control = parent.join("cgroup.subtree_control");
    let read = |file: &Path| fs::read_to_string(file).map_err(SettingError::Controllers);
    let enabled = read(&control)?;
    let enabled: Vec<&str> = enabled.split_whitespace().collect();
    let missing: Vec<String> = read(&parent.join("cgroup.controllers"))?
        .split_whitespace()
        .filter(|name| !enabled.contains(name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    fs::write(control, missing.join(" ")).map_err(SettingError::Controllers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_limits_can_be_set() {
        let new = |file: &str, value: &str| Setting::new(file.to_owned(), value.to_owned()).is_ok();
        for file in ["memory.max", "cpu.max.burst", "hugetlb.2MB.max", "io.bfq.weight", "cgroup.max.depth"] {
            assert!(new(file, "1"), "{file}");
        }
        for file in ["", "memory", ".max", "memory.", "../memory.max", "a/b.c", "cgroup.procs", "cgroup.kill"]
        {
            assert!(!new(file, "1"), "{file}");
        }
        assert!(!new("memory.max", "") && !new("memory.max", &"1".repeat(5000)));
    }
}
