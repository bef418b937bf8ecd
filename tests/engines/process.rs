//! What a process is given: streams, terminal, environment, user; in the container and by exec.

use std::io::{Read, Write, pipe};
use std::thread;

use anyhow::{Context, Result};
use e2e::descriptors::{finish, with_descriptors};
use e2e::together;

use crate::engine::{Engine, IMAGE};

crate::engine::each_engine! {
    stdin_goes_in_and_ends,
    a_terminal_is_one,
    environment_user_and_directory_are_as_asked,
    exec_is_in_the_container,
    top_and_logs_tell,
}

const UNTIL_KILLED: &str = "echo started; while :; do sleep 0.1; done";

fn stdin_goes_in_and_ends(engine: &Engine) -> Result<()> {
    let _order = together();
    let run = ["run", "--rm", "--interactive", "--network", "none", IMAGE, "cat"];
    assert_eq!(engine.call_with(run, "one\ntwo\n")?.expect(0)?.stdout, "one\ntwo\n");
    let container = engine.start(&[], UNTIL_KILLED)?;
    let exec = ["exec", "--interactive", &container.id, "cat"];
    assert_eq!(engine.call_with(exec, "three\n")?.expect(0)?.stdout, "three\n", "{}", engine.name);
    Ok(())
}

fn a_terminal_is_one(engine: &Engine) -> Result<()> {
    let _order = together();
    let answer = engine.run(&["--tty"], "tty; test -t 0 && test -t 1 && test -t 2 && echo all")?.expect(0)?;
    assert!(answer.stdout.contains("/dev/") && answer.stdout.contains("all"), "{answer:?}");
    Ok(())
}

fn environment_user_and_directory_are_as_asked(engine: &Engine) -> Result<()> {
    let _order = together();
    let options = ["--env", "ANSWER=42", "--user", "1000:50", "--workdir", "/tmp", "--hostname", "guest"];
    let answer = engine.run(&options, "echo $ANSWER $(id -u):$(id -g) $(pwd) $(hostname)")?.expect(0)?;
    assert_eq!(answer.stdout, "42 1000:50 /tmp guest\n", "{}", engine.name);
    let container = engine.start(&options, UNTIL_KILLED)?;
    let script = "echo $ANSWER $OTHER $(id -u) $(pwd)";
    let answer = container.exec(&["--env", "OTHER=7", "--user", "0", "--workdir", "/"], script)?.expect(0)?;
    assert_eq!(answer.stdout, "42 7 0 /\n", "{}", engine.name);
    Ok(())
}

fn exec_is_in_the_container(engine: &Engine) -> Result<()> {
    let _order = together();
    let container = engine.start(&[], &format!("echo here >/tmp/mark; {UNTIL_KILLED}"))?;
    container.wrote("started")?;
    let answer =
        container.exec(&[], "cat /tmp/mark; cat /proc/1/cmdline | tr '\\0' ' '; echo error >&2; exit 9")?;
    let answer = answer.expect(9)?;
    assert!(answer.stdout.starts_with("here\nsh -c echo here"), "{answer:?}");
    assert_eq!(answer.stderr.lines().next(), Some("error"), "{answer:?}");
    Ok(())
}

fn top_and_logs_tell(engine: &Engine) -> Result<()> {
    let _order = together();
    let container = engine.start(&[], UNTIL_KILLED)?;
    container.wrote("started")?;
    let answer = container.call(&["top"])?.expect(0)?;
    assert!(answer.stdout.lines().count() >= 2, "{}: {answer:?}", engine.name);
    Ok(())
}

/// docker has no way to ask for it. conmon hands them to the runtime.
#[test]
fn podman_hands_descriptors_over_by_run_and_by_exec() -> Result<()> {
    let _order = together();
    let engine = Engine::podman()?;
    let container = engine.start(&[], UNTIL_KILLED)?;
    let script = "cat <&3 >&4";
    let run = ["run", "--rm", "--preserve-fds", "2", "--network", "none", IMAGE, "sh", "-c", script];
    let exec = ["exec", "--preserve-fds", "2", &container.id, "sh", "-c", script];
    for arguments in [&run[..], &exec] {
        let ((to_read, mut input), (mut output, to_write)) = (pipe()?, pipe()?);
        let command = with_descriptors(engine.command(arguments), vec![to_read.into(), to_write.into()])?;
        let ended = thread::spawn(move || finish(command));
        input.write_all(b"by podman")?;
        drop(input);
        let (code, said) = ended.join().ok().context("it panicked")??;
        assert_eq!((code, said.as_str()), (Some(0), ""), "{arguments:?}");
        let mut text = String::new();
        output.read_to_string(&mut text)?;
        assert_eq!(text, "by podman", "{arguments:?}");
    }
    Ok(())
}
