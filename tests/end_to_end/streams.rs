//! stdin, stdout and stderr without a terminal: apart, complete, byte for byte.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use e2e::pattern::Pattern;
use e2e::{Bundle, Deadline, Sandbox, Setup, together};

#[test]
fn stdout_and_stderr_are_apart_and_complete() -> Result<()> {
    let _order = together();
    let length = Setup::get()?.size("bytes on each of stdout and stderr", 50 << 20, 10 << 20);
    let bundle = Bundle::new(&["probe", "both", &length.to_string()])?;
    let finished =
        Sandbox::run(&bundle)?.finish_by(Deadline::after(Duration::from_secs(180))?)?.expect_code(0)?;
    assert_eq!(Pattern::new(1).verify(&mut finished.stdout.as_slice())?, length);
    assert_eq!(Pattern::new(2).verify(&mut finished.stderr.as_slice())?, length);
    Ok(())
}

#[test]
fn stdin_arrives_whole_and_ends() -> Result<()> {
    let _order = together();
    let length = Setup::get()?.size("bytes on stdin", 100 << 20, 10 << 20);
    let mut input = Vec::new();
    Pattern::new(4).write(length, &mut input)?;
    let bundle = Bundle::new(&["probe", "verify", "4"])?;
    let finished = Sandbox::run(&bundle)?
        .input(input)
        .finish_by(Deadline::after(Duration::from_secs(180))?)?
        .expect_code(0)?;
    assert_eq!(finished.text(), format!("verified {length}\n"));
    Ok(())
}

#[test]
fn every_byte_value_passes_both_ways() -> Result<()> {
    let _order = together();
    let all: Vec<u8> = (0..=255).collect();
    let finished = Sandbox::run(&Bundle::new(&["cat"])?)?.input(all.clone()).finish()?.expect_code(0)?;
    assert_eq!(finished.stdout, all);
    Ok(())
}

#[test]
fn a_line_is_answered_while_stdin_stays_open() -> Result<()> {
    let _order = together();
    let deadline = Deadline::generous()?;
    let bundle = Bundle::new(&["cat"])?;
    let mut running = Sandbox::run(&bundle)?.start()?;
    for line in ["one\n", "two\n"] {
        running.stdin()?.write_all(line.as_bytes())?;
        running.stdout().wait_for(line, deadline)?;
    }
    running.close_stdin();
    let finished = running.finish(deadline)?.expect_code(0)?;
    assert_eq!(finished.text(), "one\ntwo\n");
    Ok(())
}

#[test]
fn an_open_stdin_does_not_hold_the_sandbox() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("echo done")?;
    let running = Sandbox::run(&bundle)?.start()?;
    let finished = running.finish(Deadline::generous()?)?.expect_code(0)?;
    assert_eq!(finished.text(), "done\n");
    Ok(())
}

#[test]
fn stdin_that_nobody_reads_does_not_hold_the_sandbox() -> Result<()> {
    let _order = together();
    let finished = Sandbox::run(&Bundle::shell("exit 5")?)?.input(vec![b'x'; 5 << 20]).finish()?;
    finished.expect_code(5)?;
    Ok(())
}

#[test]
fn what_is_written_just_before_the_end_is_not_lost() -> Result<()> {
    let _order = together();
    let bundle = Bundle::shell("probe write 300000 5; exit 1")?;
    let finished = Sandbox::run(&bundle)?.finish()?.expect_code(1)?;
    assert_eq!(Pattern::new(5).verify(&mut finished.stdout.as_slice())?, 300_000);
    Ok(())
}
