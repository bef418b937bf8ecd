//! What networks of sandboxes stand on: the tun device, nf_tables' redirection, and vhost-net where it is wanted.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use super::Finding;
use crate::config::Vhost;
use crate::network::vhost;
use crate::report::chain;

pub(super) fn check(wanted: Vhost) -> Vec<Finding> {
    let opened = vhost::open_once().map(drop);
    let mut found = vec![vhost_vsock(), vhost_net(wanted, opened), tun(Path::new("/dev/net/tun"))];
    found.extend(redirection());
    found
}

/// A sandbox has a vsock device in a process of its own, so the kernel's is never needed.
fn vhost_vsock() -> Finding {
    let there = Path::new("/dev/vhost-vsock").exists();
    Finding::ok("vhost-vsock", if there { "there (not used)" } else { "not there (not needed)" })
}

fn vhost_net(wanted: Vhost, opened: io::Result<()>) -> Finding {
    let name = "vhost-net";
    match (wanted, opened) {
        (Vhost::Off, Ok(())) => Finding::ok(name, "there (not used: network.vhost is \"off\")"),
        (Vhost::Off, Err(_)) => Finding::ok(name, "not there (not needed)"),
        (Vhost::Auto | Vhost::On, Ok(())) => Finding::ok(name, "moves the frames of networks"),
        (Vhost::Auto, Err(_)) => Finding::ok(name, "not there (the device process moves frames)"),
        (Vhost::On, Err(error)) => Finding::warn(
            name,
            format!("cannot open {}: {}", vhost::PATH, chain(&error)),
            "modprobe vhost_net, or network.vhost = \"auto\" (for networks)",
        ),
    }
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

/// The kernel's parts that join a container's interface with a tap, and what each is for.
const MODULES: [(&str, &str); 4] = [
    ("nf_tables", "use a kernel with this module (for networks)"),
    ("nft_fwd_netdev", "use a kernel with this module (for networks)"),
    ("nft_dup_netdev", "use a kernel with this module (for docker's name server on networks of one's own)"),
    ("nft_limit", "use a kernel with this module (for network.receive_limit and network.send_limit)"),
];

fn redirection() -> [Finding; 4] {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let folder = Path::new("/lib/modules").join(release);
    let lists = [folder.join("modules.builtin"), folder.join("modules.dep"), "/proc/modules".into()];
    let known: String = lists.iter().filter_map(|list| fs::read_to_string(list).ok()).collect();
    modules_of(&known)
}

/// `known` is what the lists of modules say together, in which files are named with _ or -.
fn modules_of(known: &str) -> [Finding; 4] {
    let known = known.replace('-', "_");
    let is_known = |module: &str| {
        let mut words = known.split(|letter: char| letter.is_whitespace() || letter == '/' || letter == ':');
        words.any(|word| word.split('.').next() == Some(module))
    };
    MODULES.map(|(module, remedy)| {
        if is_known(module) {
            Finding::ok(module, "there")
        } else {
            Finding::warn(module, "cannot tell whether this kernel has it", remedy)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_module_is_known_by_its_whole_name_in_any_list() {
        let known = "kernel/net/netfilter/nf_tables.ko\nkernel/net/netfilter/nft-dup-netdev.ko.xz: a.ko\n\
                     nft_limit 12288 0 - Live 0x0\nnf_tables_set 1 0\n";
        let found = modules_of(known).map(|finding| (finding.name, finding.status));
        let expected = [
            ("nf_tables", Status::Ok),
            ("nft_fwd_netdev", Status::Warn),
            ("nft_dup_netdev", Status::Ok),
            ("nft_limit", Status::Ok),
        ];
        assert_eq!(found, expected);
        let remedies = modules_of("nf_tables_set").map(|finding| finding.remedy);
        assert!(remedies.iter().all(Option::is_some), "{remedies:?}");
    }
}
