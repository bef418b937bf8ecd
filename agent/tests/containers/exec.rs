//! Another process in a container: it is where the init is, and its own in all else.

use std::fs;
use std::sync::Arc;

use agent::container::Container;
use agent::container::request::ExecSpec;
use agent::process::lifeline::lifeline;
use agent::reaper::Exit;
use agent_protocol::agent as api;
use agent_protocol::agent::namespace::Kind;
use protobuf::MessageField;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Test;
use crate::guest::{Guest, command, exec_of, with_guest};

pub(crate) const TESTS: &[Test] = &[
    ("it_is_in_every_namespace_and_the_cgroup_of_the_init", namespaces),
    ("it_has_the_session_keyring_of_the_init", keyring),
    ("without_a_pid_namespace_it_works_too", shared_pids),
    ("user_environment_and_directory_are_its_own", identity),
    ("a_missing_working_directory_is_not_made", working_directory),
    ("a_terminal_is_its_own_and_its_controlling_one", terminal),
    ("a_fake_ptmx_is_not_opened", fake_ptmx),
    ("its_background_children_do_not_hold_its_end_up", background),
    ("it_can_be_had_in_a_created_container", created),
    ("it_ends_with_the_container", container_end),
    ("a_stopped_container_is_refused", stopped),
    ("a_paused_container_is_refused_unless_told_otherwise", paused),
    ("it_goes_into_the_cgroup_that_is_named", cgroup),
    ("where_the_cgroup_has_no_place_for_it_that_of_the_init_is_taken", full_cgroup),
];

async fn sleeper(guest: &Guest) -> Arc<Container> {
    let mut request = command(&["sleep", "1000"]);
    request.hostname = "box".to_owned();
    let container = guest.create(request).await.unwrap();
    container.start().await.unwrap();
    container
}

/// One of the container's name, not the agent's, and not another for each process.
fn keyring() {
    with_guest(async |guest| {
        let container = sleeper(&guest).await;
        let script = "grep -o 'keyring .*_ses.*' /proc/keys";
        let outcome = guest.exec(&container, exec_of(&["sh", "-c", script])).await.unwrap().success();
        let own = format!("_ses.{}: empty", container.id());
        assert_eq!(outcome.lines().filter(|line| line.ends_with(&own)).count(), 1, "{outcome}");
    });
}

fn namespaces() {
    with_guest(async |guest| {
        let mut request = command(&["sleep", "1000"]);
        request.hostname = "box".to_owned();
        let network = Kind::KIND_NETWORK.into();
        request.namespaces.push(api::Namespace { kind: network, ..Default::default() });
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        let script = "for n in mnt pid ipc uts cgroup net; do
                [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo other $n
            done
            hostname; grep ^0: /proc/self/cgroup; ls /; grep Sig[BI] /proc/self/status; ls /proc/self/fd | wc -l";
        let outcome = guest.exec(&container, exec_of(&["sh", "-c", script])).await.unwrap().success();
        let none = "0000000000000000";
        // The last: 0, 1, 2 and that of ls itself.
        assert_eq!(
            outcome,
            format!("box\n0::/\nbin\ndev\netc\nproc\nsys\ntmp\nSigBlk:\t{none}\nSigIgn:\t{none}\n4\n")
        );
    });
}

fn shared_pids() {
    with_guest(async |guest| {
        let mut request = command(&["sleep", "1000"]);
        request.namespaces.retain(|namespace| namespace.kind != Kind::KIND_PID.into());
        let container = guest.create(request).await.unwrap();
        container.start().await.unwrap();
        guest.exec(&container, exec_of(&["true"])).await.unwrap().success();
    });
}

fn identity() {
    with_guest(async |guest| {
        let container = sleeper(&guest).await;
        let mut request = exec_of(&["sh", "-c", "id; umask; echo $HOME $X; pwd; echo oops >&2; exit 3"]);
        let process = request.process.mut_or_insert_default();
        process.user = MessageField::some(api::User {
            uid: 1000,
            gid: 1001,
            additional_gids: vec![5, 6],
            umask: Some(0o077),
            ..Default::default()
        });
        process.env.push("X=y".to_owned());
        process.cwd = "/tmp".to_owned();
        let outcome = guest.exec(&container, request).await.unwrap();
        assert_eq!(outcome.stdout, "uid=1000(anna) gid=1001 groups=5,6\n0077\n/home/anna y\n/tmp\n");
        assert_eq!((outcome.stderr.as_str(), outcome.exit), ("oops\n", Exit::Code(3)));
    });
}

fn working_directory() {
    with_guest(async |guest| {
        let container = sleeper(&guest).await;
        let mut request = exec_of(&["true"]);
        request.process.mut_or_insert_default().cwd = "/nowhere".to_owned();
        let failure = guest.exec(&container, request).await.unwrap_err();
        assert!(
            failure.message.starts_with("chdir to cwd (\"/nowhere\") set in config.json failed"),
            "{failure}"
        );
    });
}

/// A shell script on a terminal, with the shim's end of that.
async fn on_terminal(
    guest: &Guest,
    container: &Arc<Container>,
    script: &str,
) -> Result<(Arc<agent::process::running::Running>, tokio::net::UnixStream), agent::failure::Failure> {
    let (stream, token) = guest.stream().await;
    let mut request = exec_of(&["sh", "-c", script]);
    let process = request.process.mut_or_insert_default();
    process.terminal = true;
    process.console_size =
        MessageField::some(api::WindowSize { columns: 90, rows: 30, ..Default::default() });
    process.streams = MessageField::some(api::Streams { terminal: token, ..Default::default() });
    let (holder, lifeline) = lifeline();
    let spec = ExecSpec::from_request(request).unwrap();
    let process = guest.containers.exec(Arc::clone(container), spec, lifeline).await?;
    tokio::spawn({
        let process = Arc::clone(&process);
        async move {
            process.wait().await;
            drop(holder);
        }
    });
    Ok((process, stream))
}

fn terminal() {
    with_guest(async |guest| {
        let container = sleeper(&guest).await;
        let (process, mut stream) =
            on_terminal(&guest, &container, "tty; stty size; read x; stty size </dev/tty; echo got $x")
                .await
                .unwrap();
        let mut seen = String::new();
        while !seen.contains("30 90") {
            let mut buffer = [0; 100];
            let length = stream.read(&mut buffer).await.unwrap();
            assert!(length > 0, "{seen}");
            seen.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        let size = agent::process::console::WindowSize { columns: 100, rows: 40 };
        process.terminal().unwrap().resize(size).unwrap();
        stream.write_all(b"it\n").await.unwrap();
        stream.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen.replace("\r\n", "\n"), "/dev/pts/0\n30 90\nit\n40 100\ngot it\n");
        assert_eq!(process.wait().await, Some(Exit::Code(0)));
    });
}

fn fake_ptmx() {
    with_guest(async |guest| {
        let script = "mount -t tmpfs t /dev/pts; mknod /dev/pts/ptmx c 1 3; touch /tmp/ready; sleep 1000";
        let container = guest.create(crate::guest::shell(script)).await.unwrap();
        container.start().await.unwrap();
        while !guest.rootfs().join("tmp/ready").exists() {
            tokio::task::yield_now().await;
        }
        let failure = on_terminal(&guest, &container, "true").await.unwrap_err();
        assert!(failure.message.contains("not that of a devpts"), "{failure}");
    });
}

fn background() {
    with_guest(async |guest| {
        let container = sleeper(&guest).await;
        let outcome = guest.exec(&container, exec_of(&["sh", "-c", "sleep 1000 & echo here"])).await.unwrap();
        assert_eq!(outcome.success(), "here\n");
    });
}

fn created() {
    with_guest(async |guest| {
        let container = guest.create(command(&["true"])).await.unwrap();
        let output = guest.exec(&container, exec_of(&["ls", "/"])).await.unwrap().success();
        assert_eq!(output, "bin\ndev\netc\nproc\nsys\ntmp\n");
    });
}

fn container_end() {
    with_guest(async |guest| {
        let container = sleeper(&guest).await;
        let (ended, killed) = tokio::join!(
            guest.exec(&container, exec_of(&["sh", "-c", "echo ready; exec sleep 1000"])),
            async {
                // Once it is known, it runs.
                while processes_of(&guest) < 2 {
                    tokio::task::yield_now().await;
                }
                container.signal(9)
            }
        );
        killed.unwrap();
        // It may have been killed before it could say anything.
        if let Ok(outcome) = ended {
            assert_eq!(outcome.exit, Exit::Signal(9));
        }
        container.wait().await;
    });
}

fn stopped() {
    with_guest(async |guest| {
        let container = sleeper(&guest).await;
        container.signal(9).unwrap();
        container.wait().await;
        let failure = guest.exec(&container, exec_of(&["true"])).await.unwrap_err();
        assert_eq!(failure.message, "cannot exec in a stopped container");
    });
}

fn paused() {
    with_guest(async |guest| {
        let container = sleeper(&guest).await;
        let freeze = cgroup_of(&guest).join("cgroup.freeze");
        fs::write(&freeze, "1").unwrap();
        let failure = guest.exec(&container, exec_of(&["true"])).await.unwrap_err();
        assert_eq!(failure.message, "cannot exec in a paused container (use --ignore-paused to override)");
        let mut request = exec_of(&["true"]);
        request.ignore_paused = true;
        let (ended, ()) = tokio::join!(guest.exec(&container, request), async {
            while processes_of(&guest) < 2 {
                tokio::task::yield_now().await;
            }
            fs::write(&freeze, "0").unwrap();
        });
        ended.unwrap().success();
    });
}

fn processes_of(guest: &Guest) -> usize {
    fs::read_to_string(cgroup_of(guest).join("cgroup.procs")).unwrap().lines().count()
}

fn cgroup_of(guest: &Guest) -> std::path::PathBuf {
    let mut cgroups = fs::read_dir(&guest.cgroups).unwrap().flatten().map(|entry| entry.path());
    cgroups.find(|path| path.is_dir()).unwrap()
}

fn cgroup() {
    with_guest(async |guest| {
        let container = sleeper(&guest).await;
        fs::create_dir_all(cgroup_of(&guest).join("a/b")).unwrap();
        let mut request = exec_of(&["grep", "^0:", "/proc/self/cgroup"]);
        request.cgroup = "/a/b".to_owned();
        assert_eq!(guest.exec(&container, request).await.unwrap().success(), "0::/a/b\n");
        let mut request = exec_of(&["true"]);
        request.cgroup = "none".to_owned();
        let failure = guest.exec(&container, request).await.unwrap_err();
        assert!(failure.message.starts_with("cannot open the cgroup") && failure.message.contains("none"));
    });
}

fn full_cgroup() {
    with_guest(async |guest| {
        let container = sleeper(&guest).await;
        let cgroup = cgroup_of(&guest);
        // As systemd in a container does. Any controller that this host has for version 2 will do.
        let controllers = fs::read_to_string(cgroup.join("cgroup.controllers")).unwrap();
        let Some(controller) = controllers.split_whitespace().next() else { return };
        fs::create_dir(cgroup.join("init")).unwrap();
        fs::write(cgroup.join("init/cgroup.procs"), container.pid().to_string()).unwrap();
        fs::write(cgroup.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
        let output = guest.exec(&container, exec_of(&["grep", "^0:", "/proc/self/cgroup"])).await.unwrap();
        assert_eq!(output.success(), "0::/init\n");
    });
}
