//! `runv` on bundles and command lines that nobody would write: an error in one line, and nothing is left.
//!
//! They follow from `RUNV_TEST_SEED`, which is printed; `RUNV_TEST_MUTATIONS` says how many there are.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Answer, Bundle, Census, Deadline, Runtime, Setup, alone, pattern};
use serde_json::{Value, json};

/// In all of these at most: exit statuses of an error of runv's own, of a program that is not there, and of exec.
const STATUSES: [i32; 4] = [1, 126, 127, 255];

const VERBS: &[&str] = &[
    "create",
    "start",
    "run",
    "state",
    "kill",
    "delete",
    "exec",
    "list",
    "ps",
    "pause",
    "resume",
    "update",
    "events",
    "features",
    "checkpoint",
    "restore",
    "monitor",
    "proxy",
    "none",
    "",
];

const WORDS: &[&str] = &[
    "--bundle",
    // Nobody can make this one, were it taken for a log's or a pid file's name.
    "/proc/nonexistent",
    "--pid-file",
    "--console-socket",
    "none",
    "--force",
    "c1",
    "--",
    "-",
    "",
    "\n",
    "-x",
    "--plan-fd",
    "99",
    "0",
    "-1",
    "--socket-fd=1",
    "--process",
    "--interval=0",
    "--resources",
    "rootfs",
    "KILL",
    "--all",
    "--detach",
    "--format=x",
    "--user=x",
    "--cap",
    "--preserve-fds",
    "--root",
    "--log",
    "rootfs/bin",
    "\u{1b}[2J",
];

struct Random {
    seed: u64,
    index: u64,
}

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.index += 1;
        usize::try_from(pattern::random(self.seed, self.index) % end.max(1) as u64).unwrap_or(0)
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> Result<&'a T> {
        all.get(self.below(all.len())).context("nothing to pick")
    }
}

/// How many of each kind.
fn count() -> Result<u64> {
    Setup::times("RUNV_TEST_MUTATIONS", Setup::get()?.repeats("bad bundles and command lines", 100, 20))
}

fn random() -> Result<Random> {
    let seed = Setup::times("RUNV_TEST_SEED", u64::from(std::process::id()))?;
    println!("RUNV_TEST_SEED={seed}");
    Ok(Random { seed, index: 0 })
}

/// Every pointer into a document (RFC 6901).
fn places(value: &Value, here: &str, all: &mut Vec<String>) {
    all.push(here.to_owned());
    match value {
        Value::Array(elements) => {
            elements.iter().enumerate().for_each(|(index, one)| places(one, &format!("{here}/{index}"), all));
        }
        Value::Object(members) => {
            members.iter().for_each(|(name, one)| {
                places(one, &format!("{here}/{}", name.replace('~', "~0").replace('/', "~1")), all);
            });
        }
        _ => {}
    }
}

fn expect_an_error(answer: &Answer) -> Result<()> {
    ensure!(STATUSES.contains(&answer.code), "{answer:?}");
    let text = answer.stderr.trim_end();
    ensure!(!text.is_empty() && !text.contains(char::is_control), "not one line: {answer:?}");
    ensure!(!text.contains("panicked"), "{answer:?}");
    Ok(())
}

#[test]
fn of_configurations_that_nobody_would_write_nothing_is_left() -> Result<()> {
    let _order = alone();
    let bundle = Bundle::new(&["true"])?;
    let runv = Runtime::new(&bundle)?;
    let before = Census::take()?;
    let spec: Value = serde_json::from_slice(&fs::read(bundle.config())?)?;
    let mut all = Vec::new();
    places(&spec, "", &mut all);
    let odd = [
        json!(null),
        json!(-1),
        json!(u64::MAX),
        json!("\0"),
        json!("a\nb"),
        json!("../.."),
        json!([[]]),
        json!({"a": {}}),
        json!("x".repeat(70_000)),
        json!(1.5),
        json!([null]),
        json!("/"),
    ];
    let mut random = random()?;
    let mut refused = 0;
    for index in 0..count()? {
        let (place, value) = (random.pick(&all)?, random.pick(&odd)?.clone());
        let directory = bundle.edited(|spec| {
            if let Some(place) = spec.pointer_mut(place) {
                *place = value.clone();
            }
            // A machine takes a second, and that of a good bundle is not what is asked here.
            if let Some(args) = spec.pointer_mut("/process/args").filter(|_| place.len() % 2 == 0) {
                *args = json!([]);
            }
        })?;
        let answer = runv.leave(&["create", "--bundle", &directory, "c1"])?;
        let found = || format!("{index}: {place} = {value}");
        if answer.code == 0 {
            runv.call(&["delete", "--force", "c1"])?.expect(0).with_context(found)?;
        } else {
            refused += 1;
            expect_an_error(&answer).with_context(found)?;
        }
        ensure!(fs::read_dir(runv.root())?.count() == 0, "{} has left something", found());
    }
    ensure!(refused > 0, "all were accepted");
    before.restored(Deadline::after(Duration::from_secs(2))?)
}

#[test]
fn of_command_lines_that_nobody_would_write_nothing_is_left() -> Result<()> {
    let _order = alone();
    let bundle = Bundle::new(&["true"])?;
    let runv = Runtime::new(&bundle)?;
    let before = Census::take()?;
    let mut random = random()?;
    for index in 0..count()? {
        let mut line = vec![*random.pick(VERBS)?];
        for _ in 0..random.below(6) {
            line.push(*random.pick(WORDS)?);
        }
        // By chance it may be a good one, of a container that keeps its streams.
        let answer = runv.leave(&line).with_context(|| format!("{index}: {line:?}"))?;
        ensure!(!answer.stderr.contains("panicked"), "{line:?}: {answer:?}");
        ensure!(answer.code == 0 || STATUSES.contains(&answer.code), "{line:?}: {answer:?}");
        for made in fs::read_dir(runv.root())? {
            let id = made?.file_name();
            runv.call(&["delete", "--force", &id.to_string_lossy()])?
                .expect(0)
                .with_context(|| format!("{line:?}"))?;
        }
        ensure!(fs::read_dir(runv.root())?.count() == 0, "{line:?} has left something: {answer:?}");
    }
    before.restored(Deadline::after(Duration::from_secs(2))?)
}
