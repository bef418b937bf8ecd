//! The processes of one sandbox, found in `/proc`.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Which part of a sandbox a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `sandbox` itself.
    Shim,
    /// `runv-vmm` or QEMU.
    Vmm,
    /// `runv-devices`.
    Devices,
}

/// A process as it was when looked at.
#[derive(Debug, Clone)]
pub struct Process {
    /// Process id.
    pub pid: Pid,
    /// Parent.
    pub parent: i32,
    /// Name of its executable file.
    pub program: String,
    start_time: u64,
}

impl Process {
    /// The process and all that descends from it.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn tree(root: Pid) -> Result<Vec<Self>> {
        let all = Self::all()?;
        let mut tree: Vec<Self> = all.get(&root.as_raw_nonzero().get()).cloned().into_iter().collect();
        let mut next = 0;
        while let Some(parent) = tree.get(next).map(|process| process.pid.as_raw_nonzero().get()) {
            tree.extend(all.values().filter(|process| process.parent == parent).cloned());
            next += 1;
        }
        Ok(tree)
    }

    /// Every process of the machine by its id.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn all() -> Result<BTreeMap<i32, Self>> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir("/proc").context("cannot read /proc")? {
            let name = entry.context("cannot read /proc")?.file_name();
            // A process that has ended meanwhile is not one.
            if let Some(process) = name.to_str().and_then(|name| name.parse().ok()).and_then(Self::look) {
                all.insert(process.pid.as_raw_nonzero().get(), process);
            }
        }
        Ok(all)
    }

    /// proc_pid_stat(5): the fields after the name in parentheses begin with the third, the state.
    fn look(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let program = fs::read_link(format!("/proc/{pid}/exe"))
            .ok()
            .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
            .or_else(|| name.split_once('(').map(|(_, name)| name.to_owned()))?;
        Some(Self {
            pid: Pid::from_raw(pid)?,
            parent: fields.get(1)?.parse().ok()?,
            program,
            start_time: fields.get(19)?.parse().ok()?,
        })
    }

    /// The first of [`Process::tree`] that is this part of a sandbox.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn part(root: Pid, role: Role) -> Result<Option<Self>> {
        Ok(Self::tree(root)?.into_iter().find(|process| process.role() == Some(role)))
    }

    /// Which part of a sandbox it is.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        match self.program.as_str() {
            "runv" | "sandbox" => Some(Role::Shim),
            "runv-vmm" => Some(Role::Vmm),
            "runv-devices" => Some(Role::Devices),
            program if program.starts_with("qemu-system") => Some(Role::Vmm),
            _ => None,
        }
    }

    /// Whether its environment, as it was when it was started, has the entry.
    #[must_use]
    pub fn environment_has(&self, entry: &str) -> bool {
        fs::read(format!("/proc/{}/environ", self.pid.as_raw_nonzero()))
            .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|one| one == entry.as_bytes()))
    }

    /// Whether this very process is still there, as a zombie or alive.
    #[must_use]
    pub fn exists(&self) -> bool {
        Self::look(self.pid.as_raw_nonzero().get()).is_some_and(|now| now.start_time == self.start_time)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When there is no such process any more.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid, signal).with_context(|| format!("cannot signal {self:?}"))
    }
}
