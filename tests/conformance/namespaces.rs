//! config-linux.md, "Namespaces".

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use e2e::{Bundle, Deadline, Program};
use serde_json::json;

use crate::{both, pairs};

const SCRIPT: &str = r#"echo "pid=$$"; echo "host=$(hostname)"; echo "links=$(echo $(ls /sys/class/net))"
echo "groups=$(cut -d : -f 3 /proc/self/cgroup | sort -u | tr -d '\n')"
for kind in pid net ipc uts mnt cgroup; do echo "ns-$kind=$(readlink /proc/self/ns/$kind)"; done"#;

fn link(pid: &str, kind: &str) -> Result<String> {
    let path = format!("/proc/{pid}/ns/{kind}");
    Ok(fs::read_link(&path).context(path)?.to_string_lossy().into_owned())
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[test]
fn namespaces() -> Result<()> {
    both(
        "namespaces",
        |_| Bundle::shell(SCRIPT),
        |subject| {
            let host = host_name();
            let answer = subject.runtime.call(&["run", "c1"])?.expect(0)?;
            let seen = pairs(&answer.stdout);
            let get = |key: &str| seen.get(key).copied().unwrap_or_default();
            let effects = [get("pid"), get("host"), get("links"), get("groups")];
            let kinds = ["pid", "net", "ipc", "uts", "mnt", "cgroup"].into_iter();
            // Numbers of another kernel's namespaces say nothing.
            let others = |kind| {
                Ok(subject.program == Program::Runv || get(&format!("ns-{kind}")) != link("self", kind)?)
            };
            let new = kinds.map(others).collect::<Result<Vec<_>>>()?.into_iter().all(|new| new);
            let unchanged = host_name() == host;
            subject.must(
                "linux.namespace-new",
                new && unchanged && effects == ["1", "runc", "lo", "/"],
                &answer,
            );

            let directory = subject.bundle.edited(|spec| {
                spec["hostname"] = json!("");
                if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
                    namespaces.retain(|namespace| namespace["type"] != "uts");
                }
            })?;
            let answer = subject.runtime.call(&["run", "--bundle", &directory, "c2"])?.expect(0)?;
            let inherited = pairs(&answer.stdout).get("host") == Some(&host.as_str());
            subject.must("linux.namespace-inherit", inherited, &answer);
            join(subject)
        },
    )
}

fn join(subject: &crate::Subject<'_>) -> Result<()> {
    let mut other = Command::new("unshare").args(["--net", "sleep", "1000"]).stdin(Stdio::null()).spawn()?;
    let pid = other.id().to_string();
    let own = link("self", "net")?;
    let there = || Ok((link(&pid, "net")? != own).then_some(()));
    let joined = Deadline::generous()?.wait_for("the other namespace", there).and_then(|()| {
        let directory = subject.bundle.edited(|spec| {
            for namespace in spec["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
                if namespace["type"] == "network" {
                    namespace["path"] = json!(format!("/proc/{pid}/ns/net"));
                }
            }
        })?;
        let create = ["create", "--bundle", &directory, "--pid-file", "pid", "c3"];
        subject.runtime.leave(&create)?.expect(0)?;
        let container = link(&subject.runtime.read("pid"), "net")?;
        subject.must("linux.namespace-path", container == link(&pid, "net")?, container);
        subject.runtime.call(&["delete", "--force", "c3"])?.expect(0)
    });
    other.kill()?;
    other.wait()?;
    joined.map(|_| ())
}
