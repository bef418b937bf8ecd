//! The end of a container: nothing of it is left, all of its output is handed on, its status can be asked for.

use std::sync::Arc;

use crate::cgroup::{Cgroup, CgroupError};
use crate::container::Container;
use crate::container::status::Status;
use crate::failure::{Failure, FailureKind};
use crate::kmsg;
use crate::process::stdio::Relays;
use crate::reaper::Exit;
use crate::sockets;

/// Waits for the init's end, then clears up.
///
/// With a pid namespace of its own all its processes have died with the init. Without one, those that are
/// left are killed: a container is over when its init is.
pub(super) async fn supervise(container: Arc<Container>, relays: Relays, sockets: sockets::Relays) {
    let Some(exit) = container.init.exited().await else { return };
    container.set_status(Status::Stopped);
    kmsg::debug(|| format!("container {:?}: {exit:?}", container.id));
    container.final_oom_kills();
    if let Err(error) = clear(&container.cgroup).await {
        kmsg::error(&Failure::from_error(FailureKind::System, &error));
    }
    tokio::join!(relays.finish(), sockets.finish());
    container.init.settle(exit);
}

/// Kills what runs in the cgroup, waits until nothing does, and removes it.
pub(super) async fn clear(cgroup: &Cgroup) -> Result<(), CgroupError> {
    cgroup.kill()?;
    cgroup.emptied().await?;
    cgroup.remove()
}

impl Container {
    /// How many of its processes the kernel has killed for want of memory, when the init has ended. Whoever asks first
    /// reads it, and before the cgroup is gone, that is [`supervise`] at the latest.
    pub(super) fn final_oom_kills(&self) -> u64 {
        *self.final_oom_kills.get_or_init(|| self.cgroup.oom_kills().unwrap_or(0))
    }

    /// Waits until the init has ended and its output has been handed on. `None` only if the agent is ending.
    pub async fn wait(&self) -> Option<Exit> {
        self.init.wait().await
    }

    /// Waits until the init has ended, whatever becomes of its output.
    pub async fn exited(&self) -> Option<Exit> {
        self.init.exited().await
    }
}
