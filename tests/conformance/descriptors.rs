//! Descriptors from 3 on, as both programs hand them to a container.

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use anyhow::{Context, Result};
use e2e::descriptors::{activated, finish};
use e2e::{Bundle, Program, Runtime, together};

const SCRIPT: &str = "env | grep LISTEN | sort; test -S /dev/fd/3 && echo socket; \
    cat <&4 >&5; cat <&6; text=$(cat <&7); echo \"heard $text\" >&7; exit 5";

/// Status, output, and what came back by the pipe and the socket.
fn seen(program: Program) -> Result<(Option<i32>, String, String, String)> {
    let bundle = Bundle::shell(SCRIPT)?;
    let runtime = Runtime::of(program, &bundle)?;
    let listener = UnixListener::bind(runtime.file("listener"))?;
    let ((to_read, mut input), (mut output, to_write)) = (pipe()?, pipe()?);
    std::fs::write(runtime.file("file"), "of a file\n")?;
    let file = File::open(runtime.file("file"))?;
    let (socket, mut peer) = UnixStream::pair()?;
    let fds = vec![listener.into(), to_read.into(), to_write.into(), file.into(), socket.into()];
    let command = activated(&runtime.command(&["run", "--preserve-fds", "4", "c1"])?, 1, fds)?;
    let run = thread::spawn(move || finish(command));
    input.write_all(b"through pipes")?;
    drop(input);
    peer.write_all(b"a question")?;
    peer.shutdown(Shutdown::Write)?;
    let (code, said) = run.join().ok().context("it panicked")??;
    let (mut by_pipe, mut by_socket) = (String::new(), String::new());
    output.read_to_string(&mut by_pipe)?;
    peer.read_to_string(&mut by_socket)?;
    Ok((code, said, by_pipe, by_socket))
}

#[test]
fn descriptors_are_those_that_runc_hands_over() -> Result<()> {
    let _order = together();
    let ours = seen(Program::Runv)?;
    assert_eq!(ours, seen(Program::Runc)?);
    assert_eq!(ours.0, Some(5), "{ours:?}");
    assert_eq!(ours.1, "LISTEN_FDS=1\nLISTEN_PID=1\nsocket\nof a file\n");
    assert_eq!((ours.2.as_str(), ours.3.as_str()), ("through pipes", "heard a question\n"));
    Ok(())
}
