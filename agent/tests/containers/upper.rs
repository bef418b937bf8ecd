//! A root file system whose changes stay in the guest.

use std::fs;

use agent_protocol::agent as api;
use agent_protocol::agent::namespace::Kind;

use crate::Test;
use crate::guest::{Guest, shell, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("changes_stay_in_the_upper_layer", changes),
    ("the_upper_layer_is_as_large_as_asked", size),
    ("a_read_only_root_with_an_upper_layer_is_read_only", readonly),
    ("root_of_a_user_namespace_has_an_upper_layer_too", user_namespace),
];

fn with_upper(script: &str, mib: u64) -> api::CreateContainerRequest {
    let mut request = shell(&script.replace("BB", "busybox"));
    request.root.mut_or_insert_default().tmpfs_upper_bytes = mib << 20;
    request
}

/// All that is in the root file system, with the contents of small files.
fn snapshot(guest: &Guest) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![guest.rootfs()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let text = if metadata.len() < 4096 { fs::read_to_string(&path).ok() } else { None };
            found.push(format!("{path:?} {:?} {text:?}", metadata.permissions()));
            if metadata.is_dir() {
                left.push(path);
            }
        }
    }
    found.sort();
    found
}

const CHANGES: &str =
    "set -e; echo new >/etc/new; echo more >>/etc/group; rm /etc/passwd; test ! -e /etc/passwd
    BB mv /old /moved; cat /moved/deep/file; ln /etc/new /etc/linked; BB stat -c %h /etc/new
    rm -r /gone; mkdir /gone; ls -A /gone; BB chmod 700 /bin/busybox; BB tail -n 1 /etc/group";

fn fill(guest: &Guest) {
    for directory in ["old/deep", "gone/deep"] {
        fs::create_dir_all(guest.rootfs().join(directory)).unwrap();
        fs::write(guest.rootfs().join(directory).join("file"), "kept\n").unwrap();
    }
}

fn changes() {
    with_guest(async |guest| {
        fill(&guest);
        let before = snapshot(&guest);
        let output = guest.run(with_upper(CHANGES, 8)).await.unwrap().success();
        assert_eq!(output, "kept\n2\nmore\n");
        assert_eq!(snapshot(&guest), before);
    });
}

fn size() {
    with_guest(async |guest| {
        let script = "dd if=/dev/zero of=/file bs=1M count=9; ls -l /file; df -k / | BB tail -n 1";
        let outcome = guest.run(with_upper(script, 8)).await.unwrap();
        assert!(outcome.stderr.contains("No space left on device"), "{outcome:?}");
        assert!(outcome.success().contains(" 8192 "));
    });
}

fn readonly() {
    with_guest(async |guest| {
        let before = snapshot(&guest);
        let mut request = with_upper("touch /file; touch /made/file", 8);
        request.root.mut_or_insert_default().readonly = true;
        request.mounts.push(crate::guest::mount_of("tmpfs", "tmpfs", "/made", &[]));
        let outcome = guest.run(request).await.unwrap();
        assert_eq!(outcome.stderr.matches("Read-only file system").count(), 1, "{outcome:?}");
        outcome.success();
        assert_eq!(snapshot(&guest), before);
    });
}

fn user_namespace() {
    with_guest(async |guest| {
        fill(&guest);
        let mut request = with_upper(CHANGES, 8);
        // With a network, for the sake of sysfs.
        for kind in [Kind::KIND_USER, Kind::KIND_NETWORK] {
            request.namespaces.push(api::Namespace { kind: kind.into(), ..Default::default() });
        }
        let whole = api::IdMapping { container_id: 0, host_id: 0, size: 65536, ..Default::default() };
        request.uid_mappings = vec![whole.clone()];
        request.gid_mappings = vec![whole];
        let before = snapshot(&guest);
        assert_eq!(guest.run(request).await.unwrap().success(), "kept\n2\nmore\n");
        assert_eq!(snapshot(&guest), before);
    });
}
