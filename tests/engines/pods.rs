//! Containers that share a machine, as engines make them: podman's pods, `play kube`, and `--ipc container:ID`.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::{Deadline, together};

use crate::engine::{Answer, Engine, IMAGE};

crate::engine::each_engine! {
    a_container_joins_the_namespaces_of_another,
    namespaces_of_the_host_are_those_of_the_machine,
}

/// Runs until it is told to end.
const UNTIL_TERM: &str = "trap 'exit 3' TERM; echo started; while :; do sleep 0.1; done";

/// Of the kernel that a container has.
const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

fn a_container_joins_the_namespaces_of_another(engine: &Engine) -> Result<()> {
    let _order = together();
    let first = engine.start(&["--ipc", "shareable"], UNTIL_TERM)?;
    let boot = first.exec(&[], BOOT_ID)?.expect(0)?.stdout;
    let name = format!("container:{}", first.id);
    let script = "cat /proc/sys/kernel/random/boot_id; readlink /proc/self/ns/ipc";
    let run = ["run", "--rm", "--network", "none", "--ipc", &name, IMAGE, "sh", "-c", script];
    let second = engine.call(run)?.expect(0)?;
    let ipc = first.exec(&[], "readlink /proc/self/ns/ipc")?.expect(0)?.stdout;
    assert_eq!(second.stdout, format!("{boot}{ipc}"), "{}", engine.name);

    let run = ["run", "--rm", "--network", &name, "--pid", &name, IMAGE, "sh", "-c"];
    let script = format!("{BOOT_ID}; cat /proc/1/cmdline");
    let third = engine.call(run.iter().copied().chain([script.as_str()]))?.expect(0)?;
    ensure!(third.stdout.starts_with(&boot) && third.stdout.contains("trap"), "{third:?}");
    first.exec(&[], "true")?.expect(0)?;
    Ok(())
}

/// Engines leave the namespace out of the list then.
fn namespaces_of_the_host_are_those_of_the_machine(engine: &Engine) -> Result<()> {
    let _order = together();
    let options = ["--ipc", "host", "--pid", "host", "--uts", "host"];
    let answer = engine.run(&options, "cat /proc/1/comm")?.expect(0)?;
    // The guest's PID 1, which is the agent.
    assert_eq!(answer.stdout, "init\n", "{}", engine.name);
    Ok(())
}

#[test]
fn podman_puts_a_container_into_the_user_namespace_of_another() -> Result<()> {
    let _order = together();
    let podman = Engine::podman()?;
    let first = podman.start(&["--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000"], UNTIL_TERM)?;
    let name = format!("container:{}", first.id);
    let script = format!(
        "{BOOT_ID}; readlink /proc/self/ns/user; tr -s ' ' </proc/self/uid_map; echo x >/new && stat -c %u /new"
    );
    let seen = first.exec(&[], &script)?.expect(0)?.stdout;
    ensure!(seen.ends_with("\n 0 100000 5000\n0\n"), "{seen}");
    let run = ["run", "--rm", "--network", "none", "--userns", &name, IMAGE, "sh", "-c", &script];
    assert_eq!(podman.call(run)?.expect(0)?.stdout, seen);
    first.exec(&[], "true")?.expect(0)?;
    Ok(())
}

/// A pod, removed with its end.
struct Pod {
    engine: &'static Engine,
    name: &'static str,
}

impl Pod {
    /// One with podman's own infra container.
    fn create(name: &'static str) -> Result<Self> {
        let engine = Engine::podman()?;
        engine.call(["pod", "create", "--name", name, "--network", "none"])?.expect(0)?;
        Ok(Self { engine, name })
    }

    fn call(&self, command: &[&str]) -> Result<Answer> {
        self.engine.call(command)
    }

    fn inspect(&self, container: &str, field: &str) -> Result<String> {
        let format = format!("{{{{{field}}}}}");
        Ok(self.call(&["inspect", "--format", &format, container])?.expect(0)?.stdout.trim().to_owned())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // What a test asserts of removal, it calls itself.
        let _ = self.engine.call(["pod", "rm", "--force", "--time", "0", self.name]);
    }
}

#[test]
fn a_pod_is_one_machine_and_each_container_in_it_one_of_its_own() -> Result<()> {
    let _order = together();
    let pod = Pod::create("pod1")?;
    for name in ["pod1-a", "pod1-b"] {
        let run = ["run", "--detach", "--pod", "pod1", "--name", name, IMAGE, "sh", "-c", UNTIL_TERM];
        pod.call(&run)?.expect(0)?;
    }
    let exec = |name: &str, script: &str| pod.call(&["exec", name, "sh", "-c", script])?.expect(0);
    assert_eq!(exec("pod1-a", BOOT_ID)?.stdout, exec("pod1-b", BOOT_ID)?.stdout);
    assert_eq!(exec("pod1-a", "hostname")?.stdout, "pod1\n");
    exec("pod1-a", "echo shared >/dev/shm/file; echo own >/file")?;
    assert_eq!(exec("pod1-b", "cat /dev/shm/file; ls /file || true")?.stdout, "shared\n");
    let short = ["run", "--rm", "--pod", "pod1", IMAGE, "sh", "-c", "exit 7"];
    pod.call(&short)?.expect(7)?;

    pod.call(&["stop", "pod1-a"])?.expect(0)?;
    assert_eq!(pod.inspect("pod1-a", ".State.ExitCode")?, "3");
    exec("pod1-b", "true")?;
    pod.call(&["start", "pod1-a"])?.expect(0)?;
    assert_eq!(exec("pod1-a", "cat /file")?.stdout, "own\n");
    pod.call(&["pause", "pod1-a"])?.expect(0)?;
    exec("pod1-b", "true")?;
    pod.call(&["unpause", "pod1-a"])?.expect(0)?;

    pod.call(&["pod", "stop", "pod1"])?.expect(0)?;
    assert_eq!(pod.inspect("pod1-b", ".State.ExitCode")?, "3");
    pod.call(&["pod", "rm", "--force", "pod1"])?.expect(0)?;
    let left = fs::read_dir("/run/runv").map(Iterator::count).unwrap_or(0);
    Deadline::generous()?.wait_for("no more containers than others' tests have", || {
        let listed = pod.call(&["ps", "--all", "--quiet", "--filter", "name=pod1"])?.expect(0)?;
        Ok(listed.stdout.is_empty().then_some(()))
    })?;
    ensure!(left < 64, "{left} folders");
    Ok(())
}

#[test]
fn play_kube_makes_a_pod() -> Result<()> {
    let _order = together();
    let pod = Pod { engine: Engine::podman()?, name: "kube1" };
    let file = tempfile::NamedTempFile::new().context("cannot make a file")?;
    let container = |name: &str, script: &str| {
        format!(
            "  - name: {name}\n    image: localhost/{IMAGE}\n    command: [/bin/sh, -c, \"{script}\"]\n    \
             volumeMounts:\n    - name: data\n      mountPath: /data\n"
        )
    };
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: kube1\nspec:\n  restartPolicy: Never\n  volumes:\n  \
         - name: data\n    persistentVolumeClaim:\n      claimName: kube1-data\n  containers:\n{}{}",
        container("writer", "{BOOT} >/data/id; sleep 1000").replace("{BOOT}", BOOT_ID),
        container(
            "reader",
            "until cmp -s /data/id /proc/sys/kernel/random/boot_id; do sleep 0.1; done; echo same"
        ),
    );
    fs::write(file.path(), text).context("cannot write the pod")?;
    let path = file.path().to_string_lossy().into_owned();
    pod.call(&["play", "kube", "--network", "none", &path])?.expect(0)?;
    let waited = pod.call(&["wait", "kube1-reader"])?.expect(0)?;
    assert_eq!(waited.stdout, "0\n");
    assert_eq!(pod.call(&["logs", "kube1-reader"])?.expect(0)?.stdout, "same\n");
    pod.call(&["play", "kube", "--down", &path])?.expect(0)?;
    pod.call(&["volume", "rm", "--force", "kube1-data"])?.expect(0)?;
    Ok(())
}
