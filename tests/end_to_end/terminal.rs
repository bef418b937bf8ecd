//! `process.terminal`: one pseudo terminal, raw on the host's side, with the window's size.

use anyhow::Result;
use e2e::{Bundle, Deadline, Running, Sandbox, Terminal, together};
use serde_json::json;

fn with_terminal(script: &str) -> Result<Bundle> {
    Bundle::shell(script)?.edit(|spec| spec["process"]["terminal"] = json!(true))
}

fn start(bundle: &Bundle) -> Result<(Running<'_>, Terminal)> {
    Sandbox::run(bundle)?.start_on_terminal(24, 80)
}

#[test]
fn the_workload_has_a_terminal_and_its_output_comes_unchanged() -> Result<()> {
    let _order = together();
    let deadline = Deadline::generous()?;
    let bundle = with_terminal("test -t 0 && test -t 1 && test -t 2 && tty && stty size && echo err >&2")?;
    let (running, terminal) = start(&bundle)?;
    terminal.output().wait_for("err", deadline)?;
    running.finish(deadline)?.expect_code(0)?;
    // One translation of the line's end: the guest's terminal makes it, the host's is raw.
    assert_eq!(terminal.output().text(), "/dev/pts/0\r\n24 80\r\nerr\r\n");
    Ok(())
}

#[test]
fn a_resize_and_ctrl_c_reach_the_workload() -> Result<()> {
    let _order = together();
    let deadline = Deadline::generous()?;
    let bundle = with_terminal("exec probe signals")?;
    let (running, mut terminal) = start(&bundle)?;
    terminal.output().wait_for("ready", deadline)?;
    assert!(terminal.is_raw()?, "the terminal of the host has to be raw");
    terminal.resize(40, 132)?;
    terminal.output().wait_for("SIGWINCH 40 132", deadline)?;
    terminal.type_in("\x03")?;
    terminal.output().wait_for("SIGINT", deadline)?;
    running.signal(rustix::process::Signal::TERM)?;
    running.finish(deadline)?.expect_code(0)?;
    assert!(!terminal.is_raw()?, "the terminal has to be as it was before");
    Ok(())
}

#[test]
fn a_shell_can_be_talked_to() -> Result<()> {
    let _order = together();
    let deadline = Deadline::generous()?;
    let bundle = with_terminal("exec sh")?;
    let (running, mut terminal) = start(&bundle)?;
    terminal.type_in("echo $((6 * 7)) is it\n")?;
    terminal.output().wait_for("42 is it", deadline)?;
    terminal.type_in("exit 9\n")?;
    running.finish(deadline)?.expect_code(9)?;
    Ok(())
}
