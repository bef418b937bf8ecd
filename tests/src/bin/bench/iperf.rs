//! iperf3 on both ends of a container's network. Its files, loader and libraries are in one folder, so that it runs on any
//! root file system.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::{Bundle, Runtime};
use serde_json::Value;

/// Its folder among the guests, and in the container.
const FOLDER: &str = "iperf3";

const PORT: &str = "5201";

/// Puts it into the root file system of `bundle`.
pub(crate) fn install(guests: &Path, bundle: &Bundle) -> Result<()> {
    let to = bundle.rootfs().join(FOLDER);
    fs::create_dir(&to).context("cannot make a folder for iperf3")?;
    for file in fs::read_dir(guests.join(FOLDER)).context("no iperf3 among the guests")? {
        let file = file?;
        fs::copy(file.path(), to.join(file.file_name())).context("cannot copy iperf3")?;
    }
    Ok(())
}

/// MiB in a second and MiB in all, as the receiver counts them, of one connection that carries `mib` into container `c1` or
/// out of it.
pub(crate) fn stream(
    guests: &Path,
    runtime: &Runtime<'_>,
    host: &str,
    mib: usize,
    is_inward: bool,
) -> Result<(f64, f64)> {
    let mut server = Server::start(&guests.join(FOLDER), host)?;
    let direction = if is_inward { "--reverse" } else { "" };
    let there = format!("/{FOLDER}");
    let client = format!(
        "{there}/loader --library-path {there} {there}/iperf3 --client {host} --port {PORT} --bytes {mib}M --json {direction}"
    );
    let answer = runtime.call(&["exec", "c1", "sh", "-c", &client])?.expect(0)?;
    // It serves one client.
    ensure!(server.0.wait().context("cannot wait for iperf3")?.success(), "iperf3's server failed");
    let report: Value = serde_json::from_str(&answer.stdout).context("iperf3's report")?;
    let received = &report["end"]["sum_received"];
    let figure = |name: &str| received[name].as_f64().with_context(|| format!("iperf3 says no {name}"));
    let unit = f64::from(1 << 20);
    Ok((figure("bits_per_second")? / 8.0 / unit, figure("bytes")? / unit))
}

/// The end on this host.
struct Server(Child);

impl Server {
    /// It listens when this returns.
    fn start(folder: &Path, host: &str) -> Result<Self> {
        let mut command = Command::new(folder.join("loader"));
        command.arg("--library-path").arg(folder).arg(folder.join("iperf3"));
        command.args(["--server", "--one-off", "--forceflush", "--bind", host, "--port", PORT]);
        let mut server = Self(command.stdout(Stdio::piped()).spawn().context("cannot start iperf3")?);
        let mut said = BufReader::new(server.0.stdout.take().context("no stdout")?);
        let mut line = String::new();
        while !line.starts_with("Server listening") {
            line.clear();
            ensure!(
                said.read_line(&mut line).context("cannot read from iperf3")? > 0,
                "iperf3 does not listen"
            );
        }
        // It goes on to speak, to nobody.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where it has ended both say so.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
