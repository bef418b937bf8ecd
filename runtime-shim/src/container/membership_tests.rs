//! Containers of a root as files; the process that each stands for is this one, or nobody's.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use serde_json::{Value, json};

use super::*;
use crate::bundle::load::Bundle;
use crate::container::process::ProcessId;
use crate::container::record::Member;

fn spec(namespaces: &Value, annotations: &Value) -> Spec {
    let linux = json!({ "namespaces": namespaces });
    serde_json::from_value(json!({ "ociVersion": "1.0.2", "linux": linux, "annotations": annotations }))
        .unwrap()
}

fn labelled(namespaces: &Value, label: &str) -> Spec {
    let process = json!({ "cwd": "/", "user": { "uid": 0, "gid": 0 }, "selinuxLabel": label });
    let linux = json!({ "namespaces": namespaces });
    serde_json::from_value(json!({ "ociVersion": "1.0.2", "process": process, "linux": linux })).unwrap()
}

/// What this process has open is what all tests have open: one that looks there has to be alone.
static OPEN: RwLock<()> = RwLock::new(());

struct Root {
    _open: Option<RwLockReadGuard<'static, ()>>,
    _folder: tempfile::TempDir,
    store: Store,
    path: PathBuf,
}

impl Root {
    fn new() -> Self {
        let open = OPEN.read().unwrap_or_else(PoisonError::into_inner);
        Self { _open: Some(open), ..Self::of_one_alone() }
    }

    fn of_one_alone() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        Self { store: Store::new(path.clone()), path, _folder: folder, _open: None }
    }

    /// A container of this process, or of one that has gone.
    fn add(&self, id: &str, is_alive: bool, member: Option<Member>) -> Folder {
        let bundle = Bundle { directory: "/bundle".into(), spec: spec(&json!([]), &json!({})) };
        let mut record = Record::new(id.parse().unwrap(), &bundle).unwrap();
        record.member = member;
        if !is_alive {
            record.monitor = ProcessId { start_time: 0, ..record.monitor };
        }
        self.store.create(&record).unwrap()
    }

    /// One that this process stands for, its machine's processes in a SELinux context.
    fn add_labelled(&self, id: &str, label: &str) {
        let bundle = Bundle { directory: "/bundle".into(), spec: labelled(&json!([]), label) };
        self.store.create(&Record::new(id.parse().unwrap(), &bundle).unwrap()).unwrap();
    }

    fn find(&self, namespaces: &Value, annotations: &Value) -> Result<Option<Membership>, String> {
        find(&self.store, &spec(namespaces, annotations)).map_err(|error| error.to_string())
    }
}

fn own(name: &str) -> String {
    format!("/proc/{}/ns/{name}", std::process::id())
}

#[test]
fn paths_of_a_containers_process_lead_into_its_machine() {
    let root = Root::new();
    root.add("infra", true, None);
    let namespaces = json!([
        {"type": "ipc", "path": own("ipc")}, {"type": "network", "path": own("net")}, {"type": "pid"}
    ]);
    let membership = root.find(&namespaces, &json!({})).unwrap().unwrap();
    assert_eq!(membership.sandbox, root.path.join("infra"));
    let owner = || "sandbox".to_owned();
    let expected = [(LinuxNamespaceType::Ipc, owner()), (LinuxNamespaceType::Network, owner())];
    assert_eq!(membership.joined, expected);
}

#[test]
fn a_member_leads_into_the_machine_that_it_is_in_and_to_its_own_namespaces() {
    let root = Root::new();
    root.add("app", true, Some(Member { sandbox: "/run/runv/infra".into(), number: 3 }));
    let membership = root.find(&json!([{"type": "uts", "path": own("uts")}]), &json!({})).unwrap().unwrap();
    assert_eq!(membership.sandbox, Path::new("/run/runv/infra"));
    assert_eq!(membership.joined, [(LinuxNamespaceType::Uts, "member-3".to_owned())]);
}

#[test]
fn a_process_of_another_root_is_found_by_the_folder_that_it_has_open() {
    let _alone = OPEN.write().unwrap_or_else(PoisonError::into_inner);
    let (root, other) = (Root::of_one_alone(), Root::of_one_alone());
    let _open = other.add("infra", true, None);
    let membership = root.find(&json!([{"type": "ipc", "path": own("ipc")}]), &json!({})).unwrap().unwrap();
    assert_eq!(membership.sandbox, other.path.join("infra"));
}

#[test]
fn annotations_name_a_sandbox_whose_namespaces_stand_for_paths_of_the_host() {
    let root = Root::new();
    root.add("infra", true, None);
    let namespaces = json!([{"type": "ipc", "path": "/run/ipcns/1"}, {"type": "uts"}]);
    for (kind, name) in ANNOTATIONS {
        let membership = root.find(&namespaces, &json!({kind: "container", name: "infra"})).unwrap().unwrap();
        assert_eq!(membership.joined, [(LinuxNamespaceType::Ipc, "sandbox".to_owned())]);
        assert!(root.find(&json!([]), &json!({kind: "sandbox", name: "infra"})).unwrap().is_none());
        assert!(root.find(&json!([]), &json!({kind: "container", name: "other"})).unwrap().is_none());
    }
}

#[test]
fn without_either_the_machine_is_its_own() {
    let network = json!([{"type": "network", "path": "/run/netns/x"}, {"type": "ipc"}]);
    assert_eq!(Root::new().find(&network, &json!({})), Ok(None));
}

#[test]
fn all_in_one_machine_have_its_label() {
    let root = Root::new();
    root.add_labelled("infra", "u:r:t:s0:c1,c2");
    let namespaces = json!([{"type": "ipc", "path": own("ipc")}]);
    assert!(find(&root.store, &labelled(&namespaces, "u:r:t:s0:c1,c2")).unwrap().is_some());
    let error = find(&root.store, &labelled(&namespaces, "u:r:t:s0:c3,c4")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "process.selinuxLabel `u:r:t:s0:c3,c4` is not that of container infra, `u:r:t:s0:c1,c2`, whose machine this \
         container joins; give both the same"
    );
}

#[test]
fn what_cannot_be_joined_is_told_by_field() {
    let root = Root::new();
    root.add("infra", true, None);
    for (namespaces, error) in [
        (
            json!([{"type": "pid"}, {"type": "ipc", "path": "/proc/1/ns/ipc"}]),
            "linux.namespaces[1] (ipc): its path leads to no container of this runtime; a namespace of the host is of \
             another kernel and cannot be joined",
        ),
        (
            json!([{"type": "ipc", "path": own("uts")}]),
            "linux.namespaces[0] (ipc): its path is that of a namespace of another type",
        ),
    ] {
        assert_eq!(root.find(&namespaces, &json!({})), Err(error.to_owned()));
    }
    let root = Root::new();
    root.add("infra", false, None);
    let stopped = root.find(&json!([{"type": "ipc", "path": own("ipc")}]), &json!({}));
    assert_eq!(
        stopped,
        Err("container infra, which linux.namespaces[0] (ipc) names, has stopped".to_owned())
    );
}
