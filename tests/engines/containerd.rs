//! containerd by itself: its shim for runc with `runv` as the binary, as `ctr` and Kubernetes ask for it.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use e2e::{Bundle, Deadline, Setup, together};

/// A containerd of its own, which is killed with its end.
struct Containerd {
    directory: tempfile::TempDir,
    child: Child,
}

impl Containerd {
    fn start() -> Result<Self> {
        // Its sockets have to have short paths.
        let directory = tempfile::Builder::new().prefix("ctrd.").tempdir_in("/run")?;
        let path = |name: &str| directory.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("sock")
        );
        fs::write(path("config.toml"), config)?;
        let log = fs::File::create(path("log"))?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(path("config.toml"));
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let containerd = Self { child: child.context("cannot start containerd")?, directory };
        Deadline::generous()?
            .wait_for("containerd", || Ok((containerd.ctr(&["version"])?.0 == 0).then_some(())))?;
        Ok(containerd)
    }

    /// Exit status, and all that it said.
    fn ctr(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.directory.path().join("sock")).args(arguments);
        let output = command.output().context("cannot start ctr")?;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Ok((output.status.code().unwrap_or(-1), text.into_owned()))
    }

    fn run(&self, options: &[&str], root: &str, id: &str, command: &[&str]) -> Result<(i32, String)> {
        let runv: PathBuf = Setup::get()?.program("runv");
        let runv = runv.to_string_lossy();
        let fixed =
            ["run", "--runc-binary", &runv, "--runtime", "io.containerd.runc.v2", "--env", "PATH=/bin"];
        let all: Vec<&str> =
            fixed.iter().chain(options).chain(&["--rootfs", root, id]).chain(command).copied().collect();
        self.ctr(&all)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Shims that are left end with the PID namespace of the tests.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

#[test]
fn ctr_runs_executes_pauses_kills_and_deletes() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("")?;
    let root = bundle.rootfs().to_string_lossy().into_owned();
    let containerd = Containerd::start()?;
    let (code, text) = containerd.run(&["--rm"], &root, "one", &["sh", "-c", "uname -r; exit 3"])?;
    assert!(code == 3 && text.contains("-runv\n"), "{code} {text}");

    containerd.run(&["--detach"], &root, "two", &["sleep", "1000"])?;
    let status = |expected: &str| -> Result<()> {
        Deadline::generous()?.wait_for(expected, || {
            let (_, text) = containerd.ctr(&["tasks", "ls"])?;
            Ok(text.lines().any(|line| line.starts_with("two") && line.contains(expected)).then_some(()))
        })
    };
    status("RUNNING")?;
    let (code, text) =
        containerd.ctr(&["tasks", "exec", "--exec-id", "e1", "two", "sh", "-c", "echo inside; exit 4"])?;
    assert!(code == 4 && text.contains("inside"), "{code} {text}");
    assert_eq!(containerd.ctr(&["tasks", "pause", "two"])?.0, 0);
    status("PAUSED")?;
    assert_eq!(containerd.ctr(&["tasks", "resume", "two"])?.0, 0);
    assert_eq!(containerd.ctr(&["tasks", "kill", "--signal", "SIGKILL", "two"])?.0, 0);
    status("STOPPED")?;
    // Deletes the task, and says how it ended.
    let (_, text) = containerd.ctr(&["tasks", "delete", "two"])?;
    assert!(text.contains("137"), "{text}");
    assert_eq!(containerd.ctr(&["containers", "delete", "two"])?.0, 0);
    Ok(())
}
