//! What of the host is visible in the share: the exports of the configuration as binds of the jail's root.
//!
//! The binds are inert (see `jail::root`): the guest can store device nodes and set-user-id bits, as a
//! container's root can under runc, but this process, tricked into opening or executing one, gets an error from
//! the host's kernel. A mount that the host makes below an export later does not appear. The shim may add
//! exports while the process runs, and take them away again, in this process's mount namespace (`jail::tree`): they are
//! found below [`ROOT`] when the guest asks for them by a name that was never there before.

use std::path::{Path, PathBuf};

use device_config::Export;
use jail::{Bind, RootPlan};

/// Where the share is in the jail's root.
pub const ROOT: &str = "/share";

/// The root directory that shows `exports` under [`ROOT`] and nothing else.
#[must_use]
pub fn root_plan(exports: &[Export]) -> RootPlan {
    let share = Path::new(ROOT.trim_start_matches('/'));
    let bind = |export: &Export| Bind {
        source: export.source.clone(),
        destination: destination(share, &export.destination),
        read_only: export.read_only,
        id_map: export.id_map.clone(),
    };
    RootPlan { directories: vec![share.into()], binds: exports.iter().map(bind).collect() }
}

/// An absolute or empty destination must not silently become the share itself or leave it: it stays as it is,
/// for the plan's check to refuse.
fn destination(share: &Path, destination: &Path) -> PathBuf {
    if destination.as_os_str().is_empty() || destination.is_absolute() {
        return destination.into();
    }
    share.join(destination)
}
