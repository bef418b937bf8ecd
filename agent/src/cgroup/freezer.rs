//! Pausing: every process of the cgroup stops where it is (cgroup-v2.rst, "cgroup.freeze").

use std::fs;

use crate::cgroup::{Cgroup, CgroupError};

impl Cgroup {
    /// Freezes every process in it and below it; answers when all stand still.
    ///
    /// A process in the kernel stands still when it comes back from there, so this may take as long as an
    /// uninterruptible wait does.
    ///
    /// # Errors
    ///
    /// [`CgroupError`].
    pub async fn freeze(&self) -> Result<(), CgroupError> {
        self.set_frozen(true).await
    }

    /// Lets them go on; answers when none stands still any more.
    ///
    /// # Errors
    ///
    /// [`CgroupError`].
    pub async fn thaw(&self) -> Result<(), CgroupError> {
        self.set_frozen(false).await
    }

    /// Whether its processes are held.
    ///
    /// # Errors
    ///
    /// [`CgroupError`].
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        let frozen = fs::read_to_string(self.path().join("cgroup.freeze"));
        Ok(frozen.map_err(|source| self.error("read the state of", source))?.trim_end() == "1")
    }

    async fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        let (act, value, event) =
            if frozen { ("freeze", "1", "frozen 1") } else { ("thaw", "0", "frozen 0") };
        fs::write(self.path().join("cgroup.freeze"), value).map_err(|source| self.error(act, source))?;
        self.wait_until("cgroup.events", |events| events.lines().any(|line| line == event))
            .await
            .map_err(|source| self.error(act, source))
    }
}
