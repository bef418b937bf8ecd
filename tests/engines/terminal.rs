//! Terminals from end to end: a person's, the engine's client, its shim, the runtime, the guest.

use anyhow::Result;
use e2e::together;

use crate::engine::{Engine, IMAGE};

crate::engine::each_engine! {
    run_is_on_the_callers_terminal,
    exec_and_attach_are_on_the_callers_terminal,
}

/// Waits for a size, as clients tell of it after the start; for a line; and for another size, and ends with 5.
const SIZES: &str =
    "until [ \"$(stty size)\" = '11 22' ]; do sleep 0.05; done; echo sized; read line; echo got $line
    trap 'stty size; exit 5' WINCH; echo armed; while :; do sleep 0.05; done";

fn run_is_on_the_callers_terminal(engine: &Engine) -> Result<()> {
    let _order = together();
    let command = ["run", "--rm", "-it", "--network", "none", IMAGE, "sh", "-c", SIZES];
    follow_sizes(engine, &command)
}

fn exec_and_attach_are_on_the_callers_terminal(engine: &Engine) -> Result<()> {
    let _order = together();
    let container = engine.start(&["-it"], "read line; echo container got $line; read line; exit 6")?;
    follow_sizes(engine, &["exec", "-it", &container.id, "sh", "-c", SIZES])?;
    let mut attached = engine.on_terminal(["attach", &container.id], 24, 80)?;
    attached.type_in("first\n")?;
    attached.shows("container got first")?;
    attached.type_in("second\n")?;
    // podman's attach ends with 0, whatever the container ends with.
    assert_eq!(attached.end()?, if engine.name == "docker" { 6 } else { 0 }, "{}", engine.name);
    assert_eq!(container.wait()?, 6, "{}", engine.name);
    Ok(())
}

fn follow_sizes(engine: &Engine, command: &[&str]) -> Result<()> {
    let mut running = engine.on_terminal(command, 11, 22)?;
    running.shows("sized")?;
    running.type_in("typed\n")?;
    running.shows("got typed")?;
    running.shows("armed")?;
    running.terminal.resize(33, 44)?;
    running.shows("33 44")?;
    assert_eq!(running.end()?, 5, "{}: {command:?}", engine.name);
    Ok(())
}
