//! config-linux.md, "Default Devices": the console of a container with a terminal.

use std::fs::File;

use anyhow::Result;
use e2e::{Bundle, ConsoleSocket, Deadline, Output};
use serde_json::json;

use crate::both;

const SCRIPT: &str = "test -t 0 && test -t 1 && test -t 2 && echo all-three
    test $(stat -c %t:%T /dev/console) = $(stat -c %t:%T $(tty)) && grep -q ' /dev/console ' /proc/self/mountinfo &&
    echo bound; stty size; echo end";

#[test]
fn terminal() -> Result<()> {
    let bundle = |_| {
        Bundle::shell(SCRIPT)?.edit(|spec| {
            spec["process"]["terminal"] = json!(true);
            spec["process"]["consoleSize"] = json!({ "height": 11, "width": 22 });
        })
    };
    both("terminal", bundle, |subject| {
        let socket = ConsoleSocket::bind(&subject.runtime.file("console"))?;
        subject.runtime.leave(&["create", "--console-socket", "console", "c1"])?.expect(0)?;
        let output = Output::collect(File::from(socket.terminal()?));
        subject.runtime.call(&["start", "c1"])?.expect(0)?;
        output.wait_for("end", Deadline::generous()?)?;
        let text = output.text();
        subject.must("linux.console", text.contains("bound"), &text);
        subject.must("config.terminal", text.contains("all-three") && text.contains("11 22"), &text);
        Ok(())
    })
}
