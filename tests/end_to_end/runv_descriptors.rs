//! `--preserve-fds` and `LISTEN_FDS`: descriptors of the caller's, and what the workload has in their stead.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write, pipe};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use e2e::descriptors::{activated, finish, with_descriptors};
use e2e::{Bundle, Census, Deadline, Process, Runtime, alone, together};

fn to_end(mut from: impl Read) -> Result<String> {
    let mut text = String::new();
    from.read_to_string(&mut text).context("cannot read")?;
    Ok(text)
}

/// What a client gets that says something to its end.
fn ask(mut client: UnixStream, question: &str) -> Result<String> {
    client.write_all(question.as_bytes()).context("cannot ask")?;
    client.shutdown(Shutdown::Write).context("cannot end")?;
    to_end(client)
}

#[test]
fn pipes_files_and_sockets_are_there_from_3_on() -> Result<()> {
    let _order = together();
    let script = "ls /proc/self/fd | tr '\\n' ' '; cat <&3 >&4; cat <&5 >&6; cat <&7; echo more >&7; \
                  text=$(cat <&8); echo \"heard $text\" >&8; exit 5";
    let bundle = Bundle::shell(script)?;
    let runv = Runtime::new(&bundle)?;
    let (to_read, mut input) = pipe()?;
    let (output, to_write) = pipe()?;
    let (socket, peer) = UnixStream::pair()?;
    for (name, text) in [("read", "of a file"), ("both", "there; ")] {
        fs::write(runv.file(name), text)?;
    }
    let fds = vec![
        to_read.into(),
        to_write.into(),
        File::open(runv.file("read"))?.into(),
        File::create(runv.file("written"))?.into(),
        File::options().read(true).write(true).open(runv.file("both"))?.into(),
        socket.into(),
    ];
    let command =
        with_descriptors(runv.command(&["--log", "log", "run", "--preserve-fds", "6", "c1"])?, fds)?;
    let run = thread::spawn(move || finish(command));
    input.write_all(b"through pipes")?;
    drop(input);
    // The workload answers at the end of the question, and reads on that of the answer.
    let answered = ask(peer, "a question")?;
    let (code, said) = run.join().ok().context("it panicked")??;
    assert_eq!((code, said.as_str()), (Some(5), "0 1 2 3 4 5 6 7 8 9 there; "), "{}", runv.read("log"));
    assert_eq!(to_end(output)?, "through pipes");
    assert_eq!(runv.read("written"), "of a file");
    // Each direction has its own position.
    assert_eq!(runv.read("both"), "more\n; ");
    assert_eq!(answered, "heard a question\n");
    Ok(())
}

/// The processes beside this one that have a file open.
fn holders(link: &Path) -> Vec<i32> {
    let has = |pid: &i32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target == link)
    };
    let own = std::process::id().cast_signed();
    Process::all().into_iter().flat_map(BTreeMap::into_keys).filter(|pid| *pid != own).filter(has).collect()
}

/// Of the runtime's processes, only the one that is the container has them.
#[test]
fn clients_of_sockets_that_listen_are_served_by_the_workload() -> Result<()> {
    let _order = alone();
    let census = Census::take()?;
    let bundle = Bundle::new(&["probe", "activated"])?;
    let runv = Runtime::new(&bundle)?;
    let path = runv.file("listener");
    let (unix, tcp) = (UnixListener::bind(&path)?, TcpListener::bind("127.0.0.1:0")?);
    let address = tcp.local_addr()?;
    // The last is for nobody, though `create` has it.
    let (stray, _far) = UnixStream::pair()?;
    let links = [unix.as_raw_fd(), tcp.as_raw_fd(), stray.as_raw_fd()]
        .map(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default());
    let fds = vec![unix.try_clone()?.into(), tcp.try_clone()?.into(), stray.try_clone()?.into()];
    let mut create = activated(&runv.command(&["create", "--pid-file", "pid", "c1"])?, 2, fds)?;
    create
        .stdin(Stdio::null())
        .stdout(File::create(runv.file("out"))?)
        .stderr(File::create(runv.file("err"))?);
    let status = create.status().context("cannot create")?;
    drop(create);
    ensure!(status.success(), "{}", runv.read("err"));

    let monitor: i32 = runv.read("pid").parse().context("no pid")?;
    assert_eq!(links.each_ref().map(|link| holders(link)), [vec![monitor], vec![monitor], vec![]]);

    // Who comes before there is a server waits for it.
    let early = UnixStream::connect(&path)?;
    runv.call(&["start", "c1"])?.expect(0)?;
    assert_eq!(ask(early, "early")?, "3: early");
    runv.wait_for_text("out", "ready with 2\n")?;
    assert_eq!(ask(OwnedFd::from(TcpStream::connect(address)?).into(), "by TCP")?, "4: by TCP");
    // One that is slow holds up nobody else.
    let slow = UnixStream::connect(&path)?;
    let crowd: Vec<_> = (0..10)
        .map(|number| {
            let client = UnixStream::connect(&path)?;
            Ok(thread::spawn(move || ask(client, &number.to_string())))
        })
        .collect::<Result<_>>()?;
    for (number, client) in crowd.into_iter().enumerate() {
        assert_eq!(client.join().ok().context("a client panicked")??, format!("3: {number}"));
    }
    assert_eq!(ask(slow, "slow")?, "3: slow");

    runv.call(&["kill", "c1", "KILL"])?.expect(0)?;
    runv.wait_for_status("c1", "stopped")?;
    runv.call(&["delete", "c1"])?.expect(0)?;
    drop((unix, tcp));
    fs::remove_file(path)?;
    census.restored(Deadline::generous()?)
}

/// A container in the machine of another, and a process besides it, have them like any.
#[test]
fn members_of_a_pod_and_processes_besides_them_have_descriptors_too() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("infra")?;
    let other = Bundle::new(&["probe", "activated"])?.edit(|spec| {
        spec["annotations"] = serde_json::json!({
            "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "infra",
        });
    })?;
    let member = Runtime::with_root_of(&runv, &other);
    let path = member.file("listener");
    let listener = UnixListener::bind(&path)?;
    let mut run = activated(&member.command(&["run", "--detach", "app"])?, 1, vec![listener.into()])?;
    run.stdin(Stdio::null())
        .stdout(File::create(member.file("out"))?)
        .stderr(File::create(member.file("err"))?);
    let status = run.status().context("cannot run")?;
    drop(run);
    ensure!(status.success(), "{}", member.read("err"));
    assert_eq!(ask(UnixStream::connect(&path)?, "member")?, "3: member");

    let (socket, peer) = UnixStream::pair()?;
    let exec =
        ["exec", "--preserve-fds", "1", "app", "sh", "-c", "read line <&3; echo \"exec $line\" >&3; exit 6"];
    let exec = with_descriptors(member.command(&exec)?, vec![socket.into()])?;
    let exec = thread::spawn(move || finish(exec));
    assert_eq!(ask(peer, "line\n")?, "exec line\n");
    assert_eq!(exec.join().ok().context("it panicked")??, (Some(6), String::new()));

    // By a process of its own. That nobody takes what it writes holds up its end no longer than a moment.
    let (socket, _peer) = UnixStream::pair()?;
    let (output, writer) = pipe()?;
    let script =
        "echo started >&4; exec 4>&-; dd if=/dev/zero bs=64k count=64 >&3 2>/dev/null & sleep 0.1; exit 7";
    let exec = ["exec", "--detach", "--preserve-fds", "2", "--pid-file", "pid", "app", "sh", "-c", script];
    let (code, said) = finish(with_descriptors(member.command(&exec)?, vec![socket.into(), writer.into()])?)?;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(to_end(output)?, "started\n");
    let proxy = format!("/proc/{}/fd", member.read("pid"));
    Deadline::generous()?.wait_for("the end of the process", || {
        // Of a zombie, which it is when nobody waits for it, nothing is open.
        let is_open = fs::read_dir(&proxy).is_ok_and(|mut open| open.next().is_some());
        Ok((!is_open).then_some(()))
    })
}

#[test]
fn what_another_kernel_cannot_have_is_refused_by_name() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("env; ls /proc/self/fd | tr '\\n' ' '")?;
    let runv = Runtime::new(&bundle)?;
    let directory = || -> Result<OwnedFd> { Ok(File::open("/")?.into()) };
    let null = || -> Result<OwnedFd> { Ok(File::open("/dev/null")?.into()) };
    let (datagrams, _other) = UnixDatagram::pair()?;
    for (fds, words) in [
        (
            vec![directory()?],
            "descriptor 3 is a directory, which another kernel cannot have: bind it by a mount",
        ),
        (vec![null()?, datagrams.into()], "descriptor 4 is a datagram socket"),
    ] {
        let count = fds.len().to_string();
        let command = runv.command(&["create", "--preserve-fds", &count, "c1"])?;
        let (code, said) = finish(with_descriptors(command, fds)?)?;
        assert!(code == Some(1) && said.contains(words), "{said}");
        assert!(!runv.root().join("c1").exists());
    }
    // Descriptors of a shell are all closed but those that it is told to open.
    let closed = runv.words(&["--log", "log", "create", "--preserve-fds", "2", "c1"])?;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "exec 3</dev/null 4<&-; exec \"$@\"", "sh"]).args(closed).current_dir(bundle.path());
    let (code, said) = finish(shell)?;
    let words = "unable to stat preserved-fd 1 (of 2): stat /proc/self/fd/4: no such file or directory";
    assert!(code == Some(1) && said.contains(words), "{said}");
    let (code, said) = finish(activated(&runv.command(&["create", "c1"])?, 1, vec![directory()?])?)?;
    assert!(code == Some(1) && said.contains("descriptor 3 is a directory"), "{said}");

    // Those that are somebody else's, or that nobody has asked for, are left alone.
    let mut run = with_descriptors(runv.command(&["run", "c1"])?, vec![directory()?])?;
    run.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    let (code, said) = finish(run)?;
    assert!(code == Some(0) && said.ends_with("0 1 2 3 ") && !said.contains("LISTEN"), "{said}");
    Ok(())
}
