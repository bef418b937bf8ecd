//! Real work in a Debian system: packages, a database, compilers, interpreters, docker in docker. Each does the same,
//! and says the same, with runc.
//!
//! The root file system is made before (`tests/workloads/make`): here is no network. On a host without KVM for guests
//! each instruction is emulated, so the work is small; it is real all the same.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Deadline, together};

use crate::engine::Engine;
use crate::network::Network;

/// The image of the root file system.
const IMAGE: &str = "workloads";

/// Enough for the slowest on a machine that emulates.
const PATIENCE: Duration = Duration::from_secs(900);

/// Imports the image, the first time.
fn engine() -> Result<&'static Engine> {
    static IMPORTED: Mutex<bool> = Mutex::new(false);
    let engine = Engine::docker()?;
    let mut imported = IMPORTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*imported {
        let root =
            std::env::var_os("RUNV_WORKLOADS").context("RUNV_WORKLOADS is not set; use tests/run engines")?;
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(root).args(["-cf", "-", "."]).stdout(Stdio::piped());
        let mut tar = tar.spawn().context("cannot start tar")?;
        let mut import = engine.command(["import", "-", IMAGE]);
        let status = import.stdin(tar.stdout.take().context("no stdout")?).stdout(Stdio::null()).status()?;
        ensure!(tar.wait()?.success() && status.success(), "cannot import the root file system");
        *imported = true;
    }
    Ok(engine)
}

/// What a script says with a runtime.
fn run(runtime: &str, options: &[&str], script: &str) -> Result<String> {
    let fixed = ["run", "--rm", "--network", "none", "--memory", "1g", "--runtime", runtime];
    let workload = [IMAGE, "sh", "-euc", script];
    let command = fixed.iter().chain(options).chain(&workload);
    Ok(engine()?.call_within(PATIENCE, command, "")?.expect(0)?.stdout)
}

/// The same with both, and the same from both.
fn same_as_with_runc(options: &[&str], script: &str) -> Result<String> {
    let expected = run("runc", options, script)?;
    assert_eq!(run("runv", options, script)?, expected);
    Ok(expected)
}

#[test]
fn packages_are_installed_and_interpreters_run() -> Result<()> {
    let _order = together();
    let script = "
        dpkg --install /usr/src/hello.deb >/dev/null; hello; dpkg --verify hello; dpkg-query --status hello | grep Status
        dpkg --purge hello >/dev/null; test -e /usr/bin/hello || echo purged
        python3 -c 'import hashlib, subprocess, threading
total = []
threads = [threading.Thread(target=lambda n=n: total.append(n * n)) for n in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sum(total), hashlib.sha256(b\"x\" * 1000000).hexdigest()[:16], subprocess.run([\"echo\", \"child\"], capture_output=True).stdout)'
        node -e 'const { Worker } = require(\"worker_threads\"), fs = require(\"fs\");
fs.writeFileSync(\"/tmp/file\", \"written\"); const text = fs.readFileSync(\"/tmp/file\", \"utf8\");
new Worker(\"require(\\\"worker_threads\\\").parentPort.postMessage(6 * 7)\", { eval: true })
  .on(\"message\", answer => console.log(text, answer, process.version));'";
    let said = same_as_with_runc(&[], script)?;
    assert!(
        said.starts_with("Hello, world!\n") && said.contains("purged\n140 ") && said.contains("written 42 v"),
        "{said}"
    );
    Ok(())
}

#[test]
fn lua_is_compiled_to_the_same_program() -> Result<()> {
    let _order = together();
    let script = "
        cd /usr/src/lua/src; make --silent --jobs 2 posix CFLAGS='-O0 -std=gnu99 -DLUA_USE_POSIX' 2>&1
        sha256sum lua luac
        ./lua -e 'local function f(n) return n < 2 and n or f(n - 1) + f(n - 2) end print(f(20), #arg)'";
    let said = same_as_with_runc(&["--cpus", "2"], script)?;
    assert!(said.contains("  luac\n6765\t"), "{said}");
    Ok(())
}

/// By the compiler with which these tests were compiled, which the container sees where it is.
#[test]
fn rust_is_compiled() -> Result<()> {
    let _order = together();
    let sysroot =
        Command::new("rustc").args(["--print", "sysroot"]).output().context("cannot start rustc")?;
    let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout)?.trim());
    let volume = format!("{}:/rust:ro", sysroot.display());
    let script = "
        printf '%s\\n' 'use std::collections::BTreeMap;' 'fn main() {' \\
            '    let all: BTreeMap<_, _> = (0..5).map(|n| (n, std::thread::spawn(move || n * n))).collect();' \\
            '    println!(\"{}\", all.into_values().map(|t| t.join().unwrap()).sum::<i32>());' '}' >/tmp/sum.rs
        /rust/bin/rustc --edition 2021 -o /tmp/sum /tmp/sum.rs; /tmp/sum";
    assert_eq!(same_as_with_runc(&["--volume", &volume], script)?, "30\n");
    Ok(())
}

/// Its data are on a volume, and there for the next container.
#[test]
fn postgresql_keeps_its_promises_under_pgbench() -> Result<()> {
    let _order = together();
    const START: &str = "
        export LC_ALL=C PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/data/db PGHOST=/tmp PGDATABASE=postgres; cd /tmp
        test -d $PGDATA || initdb --no-sync --auth trust >/dev/null
        pg_ctl --wait --timeout 300 --silent --log /tmp/log --options \"-c listen_addresses= -c unix_socket_directories=/tmp\" start";
    const WORK: &str = "
        pgbench --initialize --quiet --scale 1 2>/dev/null
        pgbench --client 2 --transactions 50 2>/dev/null | grep -E 'actually|failed'";
    const LOOK: &str = "
        psql -Atc 'select count(*) from pgbench_history'
        psql -Atc 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)'
        pg_ctl --wait --timeout 300 --silent stop";
    const EXPECTED: &str =
        "number of transactions actually processed: 100/100\nnumber of failed transactions: 0 (0.000%)\n";
    for runtime in ["runc", "runv"] {
        let data = Volume::new()?;
        let options = ["--user", "postgres", "--shm-size", "256m", "--volume", &data.option];
        let said = run(runtime, &options, &format!("{START}{WORK}{LOOK}"))?;
        assert_eq!(said, format!("{EXPECTED}100\nt\n"), "{runtime}");
        if runtime == "runv" {
            assert_eq!(run(runtime, &options, &format!("{START}{LOOK}"))?, "100\nt\n");
        }
    }
    Ok(())
}

/// On a network, to a client of runc. The database is made by runc too, as that is much work, and nothing of a network.
#[test]
fn postgresql_serves_a_client_with_another_runtime() -> Result<()> {
    let _order = together();
    const MAKE: &str = "
        export LC_ALL=C PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/data/db; cd /tmp
        initdb --no-sync --auth trust >/dev/null; echo host all all all trust >>$PGDATA/pg_hba.conf";
    const SERVE: &str = "
        export LC_ALL=C PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/data/db; cd /tmp
        exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off";
    const ASK: &str = "
        export PGHOST=database PGUSER=postgres PGDATABASE=postgres; psql -qc 'create table history (client int)'
        echo 'insert into history values (:client_id);' >/tmp/insert
        pgbench --no-vacuum --client 4 --transactions 25 --file /tmp/insert 2>/dev/null | grep -E 'actually|failed'
        psql -Atc 'select count(*), count(distinct client) from history'
        psql -Atc \"select repeat('y', 3000000)\" | tr -d '\\n' | wc -c";
    let data = Volume::new()?;
    let user = ["--user", "postgres", "--volume", &data.option];
    run("runc", &user, MAKE)?;
    let network = Network::new("served", &["--subnet", "10.78.13.0/24"])?;
    let serve = ["run", "--detach", "--network", "served", "--name", "database", "--memory", "1g"];
    let workload = ["--shm-size", "256m", IMAGE, "sh", "-euc", SERVE];
    let serve = serve.iter().chain(&user).chain(&workload);
    let docker = engine()?;
    docker.call(serve)?.expect(0)?;
    let server = docker.existing("database");
    Deadline::after(PATIENCE)?.wait_for("PostgreSQL", || {
        ensure!(server.inspect(".State.Running")? == "true", "{:?}", server.call(&["logs"])?);
        Ok(server.call(&["logs"])?.stderr.contains("ready to accept connections").then_some(()))
    })?;
    let ask = ["run", "--rm", "--network", network.name, "--runtime", "runc", IMAGE, "sh", "-euc", ASK];
    assert_eq!(
        docker.call_within(PATIENCE, ask, "")?.expect(0)?.stdout,
        "number of transactions actually processed: 100/100\nnumber of failed transactions: 0 (0.000%)\n\
         100|4\n3000000\n"
    );
    Ok(())
}

/// For a minute, by a published port; each connection asks for a page and for a large file by turns. nginx closes a
/// connection after 1,000 requests, so there are new ones all the time.
#[test]
fn nginx_answers_every_request_of_a_minute() -> Result<()> {
    let _order = together();
    const SERVE: &str = "
        head -c 100000 /dev/urandom >/var/www/html/large
        exec nginx -g 'daemon off; error_log stderr notice;'";
    const PATHS: &str = "
        local count = 0
        request = function()
            count = count + 1
            return wrk.format('GET', count % 8 == 0 and '/large' or '/')
        end";
    let docker = engine()?;
    let options = ["--publish", "8093:80", "--memory", "512m"];
    let serve = ["run", "--detach", "--network", "bridge"].iter().chain(&options);
    let id = docker.call(serve.chain(&[IMAGE, "sh", "-euc", SERVE]))?.expect(0)?.stdout;
    let server = docker.existing(id.trim());
    Deadline::after(PATIENCE)?.wait_for("nginx", || {
        ensure!(server.inspect(".State.Running")? == "true", "{:?}", server.call(&["logs"])?);
        Ok(server.call(&["logs"])?.stderr.contains("start worker processes").then_some(()))
    })?;
    let mut script = tempfile::NamedTempFile::new().context("cannot make a file")?;
    script.write_all(PATHS.as_bytes()).context("cannot write the script")?;
    let gateway = server.inspect("(index .NetworkSettings.Networks \"bridge\").Gateway")?;
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads", "1", "--connections", "8", "--duration", "60s", "--timeout", "20s", "--latency"]);
    let wrk = wrk.arg("--script").arg(script.path()).arg(format!("http://{gateway}:8093")).output();
    let wrk = wrk.context("cannot run wrk; apt-get install wrk")?;
    let said = String::from_utf8_lossy(&wrk.stdout);
    println!("{said}");
    ensure!(wrk.status.success(), "{wrk:?}");
    // wrk has lines for what fails only if something does.
    ensure!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    let requests = said.lines().find_map(|line| line.trim().split_once(" requests in "));
    let requests: u32 = requests.context("no count of requests")?.0.parse()?;
    // As nginx has counted them, but for those that were on their way at the end.
    let counted =
        server.exec(&[], "wc -l </var/log/nginx/access.log; grep -c ' 200 ' /var/log/nginx/access.log")?;
    let counted = counted.expect(0)?.stdout;
    let counted = counted.lines().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    ensure!(
        counted[0] == counted[1] && (requests..=requests + 8).contains(&counted[0]),
        "{requests}, {counted:?}"
    );
    ensure!(requests > 1000, "{said}");
    Ok(())
}

/// A directory of the host that everybody may write to.
struct Volume {
    _directory: tempfile::TempDir,
    option: String,
}

impl Volume {
    fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::Builder::new().prefix("volume.").tempdir()?;
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777))?;
        let option = format!("{}:/data", directory.path().display());
        Ok(Self { _directory: directory, option })
    }
}

/// An engine, its containerd and runc in the guest, whose kernel has what they need.
#[test]
fn docker_runs_in_docker() -> Result<()> {
    let _order = together();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/docker-in-docker");
    let volume = format!("{}:/docker-in-docker:ro", script.display());
    let options = ["--privileged", "--tmpfs", "/var/lib/docker", "--tmpfs", "/run", "--volume", &volume];
    let said = run("runv", &options, "exec /docker-in-docker")?;
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        matches!(lines.as_slice(), ["overlay2", kernel, "52428800", "4"] if kernel.ends_with("-runv")),
        "{said}"
    );
    Ok(())
}
