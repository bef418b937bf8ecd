//! What networks of sandboxes stand on: the tun device and nf_tables' redirection, and vhost for completeness.

use std::fs::{self, OpenOptions};
use std::path::Path;

use super::Finding;
use crate::report::chain;

pub(super) fn check() -> [Finding; 4] {
    [vhost("vhost-vsock"), vhost("vhost-net"), tun(Path::new("/dev/net/tun")), redirection()]
}

/// The devices of a sandbox run in a process of their own, so the kernel's are never needed.
fn vhost(name: &'static str) -> Finding {
    let there = Path::new("/dev").join(name).exists();
    Finding::ok(name, if there { "there (not used)" } else { "not there (not needed)" })
}

fn tun(path: &Path) -> Finding {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Finding::ok("tun", path.display().to_string()),
        Err(error) => Finding::warn(
            "tun",
            format!("cannot open {}: {}", path.display(), chain(&error)),
            "modprobe tun (for networks)",
        ),
    }
}

/// The kernel's parts that join a container's interface with a tap.
const MODULES: [&str; 3] = ["nf_tables", "nft_fwd_netdev", "nft_dup_netdev"];

fn redirection() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let folder = Path::new("/lib/modules").join(release);
    let lists = [folder.join("modules.builtin"), folder.join("modules.dep"), "/proc/modules".into()];
    let known: String = lists.iter().filter_map(|list| fs::read_to_string(list).ok()).collect();
    // Files in the lists are named with _ or -.
    let known = known.replace('-', "_");
    let missing: Vec<&str> = MODULES.into_iter().filter(|module| !known.contains(module)).collect();
    if missing.is_empty() {
        return Finding::ok("nf_tables", MODULES.join(", "));
    }
    let found = format!("cannot tell whether this kernel has {}", missing.join(", "));
    Finding::warn("nf_tables", found, "use a kernel with these modules (for networks)")
}
