//! What the host, and engines on it, see of a container: its files and processes, and nothing of the host.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use e2e::{Deadline, together};

use crate::engine::{Container, Engine};

crate::engine::each_engine! {
    copies_go_both_ways_whether_it_runs_or_not,
    the_containers_process_leads_to_the_containers_files,
    top_shows_what_runs_in_the_container,
    a_lack_of_memory_is_told,
}

const UNTIL_KILLED: &str = "echo inside >/etc/inside; echo started; while :; do sleep 0.1; done";

/// A directory of the host, as a volume in two places.
fn volume() -> Result<(tempfile::TempDir, [String; 2])> {
    let directory = tempfile::Builder::new().prefix("volume.").tempdir()?;
    fs::write(directory.path().join("file"), "of the volume\n")?;
    let path = directory.path().display();
    let volumes = [format!("{path}:/writable"), format!("{path}:/read-only:ro")];
    Ok((directory, volumes))
}

fn copies_go_both_ways_whether_it_runs_or_not(engine: &Engine) -> Result<()> {
    let _order = together();
    let (directory, [volume, _]) = volume()?;
    let container = engine.start(&["--volume", &volume], UNTIL_KILLED)?;
    container.wrote("started")?;
    copy_in_and_out(engine, &container, directory.path(), "running")?;
    let seen = container.exec(&[], "cat /etc/running /writable/running")?.expect(0)?;
    assert_eq!(seen.stdout, "running\nrunning\n", "{}", engine.name);
    container.call(&["kill"])?.expect(0)?;
    container.wait()?;
    copy_in_and_out(engine, &container, directory.path(), "stopped")
}

/// A file named for the container's state goes to its root file system, to its volume, and back from both.
fn copy_in_and_out(engine: &Engine, container: &Container<'_>, volume: &Path, state: &str) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let (source, copy) = (scratch.path().join(state), scratch.path().join("copy"));
    fs::write(&source, format!("{state}\n"))?;
    let name = |path: &str| format!("{}:{path}", container.id);
    let copied = |from: &str, to: &str| engine.call(["cp", from, to])?.expect(0);
    let (source, copy_path) = (source.display().to_string(), copy.display().to_string());
    for place in ["/etc/", "/writable/"] {
        copied(&source, &name(place))?;
    }
    assert_eq!(fs::read_to_string(volume.join(state))?, format!("{state}\n"), "{}", engine.name);
    let host = Path::new("/etc").join(state);
    assert!(!host.exists(), "{}: {} is on the host", engine.name, host.display());
    for (place, content) in [
        (format!("/etc/{state}"), format!("{state}\n")),
        ("/etc/inside".to_owned(), "inside\n".to_owned()),
        ("/writable/file".to_owned(), "of the volume\n".to_owned()),
    ] {
        copied(&name(&place), &copy_path)?;
        assert_eq!(fs::read_to_string(&copy)?, content, "{}: {place}", engine.name);
    }
    Ok(())
}

fn the_containers_process_leads_to_the_containers_files(engine: &Engine) -> Result<()> {
    let _order = together();
    let (_directory, [writable, read_only]) = volume()?;
    let options = ["--volume", &writable, "--volume", &read_only, "--tmpfs", "/scratch"];
    let container = engine.start(&options, UNTIL_KILLED)?;
    container.wrote("started")?;
    let process = PathBuf::from("/proc").join(container.inspect(".State.Pid")?);
    let namespace = |process: &Path| fs::read_link(process.join("ns/mnt")).context("no mount namespace");
    assert_ne!(namespace(&process)?, namespace(Path::new("/proc/self"))?, "{}", engine.name);
    let root = process.join("root");
    assert_ne!(fs::metadata(&root)?.ino(), fs::metadata("/")?.ino(), "{}", engine.name);
    assert_eq!(fs::read_to_string(root.join("etc/inside"))?, "inside\n", "{}", engine.name);
    for volume in ["writable", "read-only"] {
        assert_eq!(fs::read_to_string(root.join(volume).join("file"))?, "of the volume\n");
    }
    // What is read-only stays so, and what only the guest has takes no file that the guest would not see.
    for place in ["read-only", "scratch", "dev", "sys"] {
        let refused = fs::write(root.join(place).join("x"), "").err().map(|error| error.kind());
        assert_eq!(refused, Some(std::io::ErrorKind::ReadOnlyFilesystem), "{}: {place}", engine.name);
    }
    Ok(())
}

fn top_shows_what_runs_in_the_container(engine: &Engine) -> Result<()> {
    let _order = together();
    let container = engine.start(&["--user", "1000"], "sleep 4242 & echo started; wait")?;
    container.wrote("started")?;
    let top = container.call(&["top"])?.expect(0)?.stdout;
    assert!(top.contains("sleep 4242 & echo started"), "{}: {top}", engine.name);
    if engine.name == "docker" {
        // It shows the host process of each process that it has started itself.
        assert_eq!(top.lines().count(), 2, "{top}");
        return Ok(());
    }
    // The shell may be quicker than its child, which has the shell's command line until it executes its program.
    let top = Deadline::generous()?.wait_for("the shell's child", || {
        let top = container.call(&["top"])?.expect(0)?.stdout;
        Ok(top.lines().any(|row| row.trim_end().ends_with(" sleep 4242")).then_some(top))
    })?;
    let rows: Vec<&str> = top.lines().skip(1).map(str::trim_end).collect();
    assert_eq!(rows.len(), 2, "{top}");
    // By the name that the container's /etc/passwd has for the user.
    assert!(rows.iter().all(|row| row.starts_with("alice ")), "{top}");
    // Of its own columns, and as ps(1) of the image.
    let columns = ["top", &container.id, "pid", "ppid", "comm", "capeff", "seccomp"];
    let top = engine.call(columns)?.expect(0)?.stdout;
    let row = top.lines().nth(1).unwrap_or_default().split_whitespace().collect::<Vec<_>>();
    assert_eq!(row, ["1", "0", "sh", "none", "filter"], "{top}");
    let top = engine.call(["top", &container.id, "-o", "pid,args"])?.expect(0)?.stdout;
    assert!(top.contains("sleep 4242") && !top.contains("runv"), "{top}");
    Ok(())
}

fn a_lack_of_memory_is_told(engine: &Engine) -> Result<()> {
    let _order = together();
    // tail keeps all that it reads.
    let container = engine.start(&["--memory", "32m"], "exec tail /dev/zero")?;
    assert_eq!(container.wait()?, 137, "{}", engine.name);
    assert_eq!(container.inspect(".State.OOMKilled")?, "true", "{}", engine.name);
    // Another process than the first is told of too, and what did not happen is not.
    let container = engine.start(&["--memory", "32m"], "tail /dev/zero; exit 6")?;
    assert_eq!(container.wait()?, 6, "{}", engine.name);
    assert_eq!(container.inspect(".State.OOMKilled")?, "true", "{}", engine.name);
    let container = engine.start(&["--memory", "32m"], "exit 8")?;
    assert_eq!(container.wait()?, 8, "{}", engine.name);
    assert_eq!(container.inspect(".State.OOMKilled")?, "false", "{}", engine.name);
    Ok(())
}
