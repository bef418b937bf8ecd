//! What engines read of the answers, word for word and status for status, from both programs.

use std::fs;

use anyhow::Result;
use e2e::{Bundle, Program, Runtime, together};
use serde_json::Value;

/// What a program has said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    /// Command, exit status, and the error in the log.
    answers: Vec<(String, i32, String)>,
    /// Names of the fields of documents.
    fields: Vec<Vec<String>>,
}

impl Said {
    fn ask(&mut self, runtime: &Runtime<'_>, arguments: &[&str]) -> Result<()> {
        let log = runtime.file("log");
        fs::write(&log, "")?;
        let flags = ["--log", "log", "--log-format", "json"];
        let answer = runtime.call(&[&flags, arguments].concat())?;
        let log = fs::read_to_string(log)?;
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let error = lines.rfind(|line| line["level"] == "error").unwrap_or_default();
        let message = error["msg"].as_str().unwrap_or_default().replace("runc", "runv");
        self.answers.push((format!("{arguments:?}"), answer.code, message));
        Ok(())
    }

    fn fields_of(&mut self, document: &Value) {
        self.fields.push(document.as_object().into_iter().flat_map(|all| all.keys().cloned()).collect());
    }

    /// Of a container in each status, and of one that there is not.
    fn all_of(program: Program) -> Result<Self> {
        let bundle = Bundle::new(&["sleep", "1000"])?;
        let runtime = Runtime::of(program, &bundle)?;
        let mut said = Self::default();
        for verb in ["state", "start", "kill", "delete", "pause", "resume", "ps", "events"] {
            said.ask(&runtime, &[verb, "none"])?;
        }
        said.ask(&runtime, &["delete", "--force", "none"])?;
        runtime.run_detached("c1")?;
        for arguments in [
            &["create", "c1"][..],
            &["create", "../c2"],
            &["start", "c1"],
            &["resume", "c1"],
            &["delete", "c1"],
            &["kill", "c1", "NONE"],
            &["exec", "c1", "false"],
            &["exec", "c1", "sh", "-c", "kill -9 $$"],
        ] {
            said.ask(&runtime, arguments)?;
        }
        said.fields_of(&runtime.state("c1")?);
        let list = runtime.call(&["list", "--format", "json"])?.expect(0)?.stdout;
        said.fields_of(&serde_json::from_str::<Value>(&list)?[0]);
        runtime.call(&["pause", "c1"])?.expect(0)?;
        for arguments in [&["exec", "c1", "true"][..], &["start", "c1"], &["delete", "c1"]] {
            said.ask(&runtime, arguments)?;
        }
        runtime.call(&["resume", "c1"])?.expect(0)?;
        runtime.call(&["kill", "c1", "KILL"])?.expect(0)?;
        runtime.wait_for_status("c1", "stopped")?;
        for verb in ["kill", "start", "pause", "resume"] {
            said.ask(&runtime, &[verb, "c1"])?;
        }
        said.ask(&runtime, &["kill", "--all", "c1", "KILL"])?;
        said.ask(&runtime, &["exec", "c1", "true"])?;
        said.fields_of(&runtime.state("c1")?);
        Ok(said)
    }
}

#[test]
fn words_and_statuses_that_engines_read_are_the_same() -> Result<()> {
    let _order = together();
    let (ours, theirs) = (Said::all_of(Program::Runv)?, Said::all_of(Program::Runc)?);
    assert_eq!(ours.fields, theirs.fields);
    for (our, their) in ours.answers.iter().zip(&theirs.answers) {
        // With arguments that no engine gives, only the status counts.
        let odd = ["../c2", "NONE"].iter().any(|argument| our.0.contains(argument));
        assert!(our.2.is_empty() == their.2.is_empty(), "{our:?} {their:?}");
        assert_eq!((our.1, &our.2), (their.1, if odd { &our.2 } else { &their.2 }), "{}", our.0);
    }
    Ok(())
}
