//! Terminals by `--console-socket`: the engine gets the master before the command returns.

use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result};
use e2e::{Bundle, ConsoleSocket, Deadline, Output, Runtime, Terminal, together};
use rustix::termios::{Winsize, tcsetwinsize};

fn resize(terminal: &File, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).context("cannot size the terminal")
}

#[test]
fn a_container_has_the_terminal_its_size_and_the_changes_of_it() -> Result<()> {
    let _order = together();
    let script = "stty size; read line; echo got $line; trap 'stty size; exit' WINCH; echo armed; while :; do sleep 0.1; done";
    let bundle = Bundle::shell(script)?.edit(|spec| spec["process"]["terminal"] = true.into())?;
    let runv = Runtime::new(&bundle)?;
    runv.leave(&["create", "c1"])?.refused("without setting console socket")?;
    let socket = ConsoleSocket::bind(&runv.file("console"))?;
    runv.leave(&["create", "--console-socket", "console", "c1"])?.expect(0)?;
    let mut terminal = File::from(socket.terminal()?);
    let output = Output::collect(terminal.try_clone()?);
    resize(&terminal, 11, 22)?;
    runv.call(&["start", "c1"])?.expect(0)?;
    let deadline = Deadline::generous()?;
    output.wait_for("11 22", deadline)?;
    terminal.write_all(b"typed\n")?;
    output.wait_for("got typed", deadline)?;
    output.wait_for("armed", deadline)?;
    resize(&terminal, 33, 44)?;
    output.wait_for("33 44", deadline)?;
    runv.wait_for_status("c1", "stopped")?;
    Ok(())
}

#[test]
fn exec_has_a_terminal_of_its_own() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let socket = ConsoleSocket::bind(&runv.file("console"))?;
    let script = "test -t 0 && test -t 1 && read line && echo got $line";
    let exec = ["exec", "--tty", "--detach", "--console-socket", "console", "c1", "sh", "-c", script];
    runv.leave(&exec)?.expect(0)?;
    let mut terminal = File::from(socket.terminal()?);
    let output = Output::collect(terminal.try_clone()?);
    terminal.write_all(b"typed\n")?;
    output.wait_for("got typed", Deadline::generous()?)?;
    let refused = runv.call(&["exec", "--tty", "--detach", "c1", "true"])?.expect(255)?;
    assert!(refused.stderr.contains("without setting console socket"), "{refused:?}");
    Ok(())
}

/// As people call it, without an engine.
#[test]
fn run_and_exec_are_on_the_callers_terminal() -> Result<()> {
    const SIZES: &str = "stty size; read line; echo got $line; trap 'stty size; exit 5' WINCH; echo armed; while :; do sleep 0.1; done";
    let _order = together();
    let bundle = Bundle::shell(SIZES)?.edit(|spec| spec["process"]["terminal"] = true.into())?;
    let runv = Runtime::new(&bundle)?;
    let waiting = Bundle::shell("sleep 1000")?;
    let container = Runtime::new(&waiting)?;
    container.run_detached("c1")?;
    for command in [
        runv.command(&["run", "--bundle", &bundle.path().to_string_lossy(), "c1"])?,
        container.command(&["exec", "--tty", "c1", "sh", "-c", SIZES])?,
    ] {
        let deadline = Deadline::generous()?;
        let (mut child, mut terminal) = Terminal::run(&command, 11, 22)?;
        terminal.output().wait_for("11 22", deadline)?;
        terminal.type_in("typed\n")?;
        terminal.output().wait_for("got typed", deadline)?;
        terminal.output().wait_for("armed", deadline)?;
        terminal.resize(33, 44)?;
        terminal.output().wait_for("33 44", deadline)?;
        let ended = || child.try_wait().context("cannot wait");
        assert_eq!(deadline.wait_for("the end of the command", ended)?.code(), Some(5), "{command:?}");
    }
    runv.call(&["state", "c1"])?.refused("container does not exist")?;
    Ok(())
}
