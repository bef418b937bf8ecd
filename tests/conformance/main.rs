//! Every MUST of the OCI runtime specification, asked of `runv`, and of `runc` in the same run, so that a test that
//! is wrong shows itself.
//!
//! [`musts`] has the list, with what is known to differ and why; each test below asks some of them, many in one
//! container where they do not disturb each other. docs/conformance.md is the list as a table.

mod cgroups;
mod descriptors;
mod hooks;
mod life;
mod mounts;
mod musts;
mod namespaces;
mod process;
mod refusals;
mod table;
mod terminal;
mod words;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::{Context, Result, bail, ensure};
use e2e::{Bundle, Program, Runtime};
use musts::{MUSTS, Outcome};

/// A runtime that is asked.
struct Subject<'bundle> {
    program: Program,
    bundle: &'bundle Bundle,
    runtime: Runtime<'bundle>,
    verdicts: RefCell<BTreeMap<&'static str, Result<(), String>>>,
}

impl Subject<'_> {
    /// Notes whether a MUST holds, and what was seen if not. Asked several times, it has to hold each time.
    fn must(&self, id: &'static str, holds: bool, seen: impl Debug) {
        let mut verdicts = self.verdicts.borrow_mut();
        let verdict = verdicts.entry(id).or_insert(Ok(()));
        if !holds && verdict.is_ok() {
            *verdict = Err(format!("{seen:?}"));
        }
    }

    /// Whether nothing of a container is known to the runtime, or in a cgroup.
    fn knows_nothing_of(&self, id: &str) -> Result<bool> {
        let state = self.runtime.call(&["state", id])?;
        Ok(state.code != 0 && !self.runtime.root().join(id).exists() && cgroups::of(self.bundle)?.is_empty())
    }
}

/// Asks both runtimes, each with a bundle of its own, and compares with what is expected.
fn both(
    test: &str,
    bundle: impl Fn(Program) -> Result<Bundle>,
    ask: impl Fn(&Subject<'_>) -> Result<()>,
) -> Result<()> {
    let _order = e2e::together();
    let mut wrong = Vec::new();
    for program in [Program::Runv, Program::Runc] {
        let bundle = bundle(program)?;
        let runtime = Runtime::of(program, &bundle)?;
        let subject = Subject { program, bundle: &bundle, runtime, verdicts: RefCell::default() };
        ask(&subject).with_context(|| program.name())?;
        wrong.extend(compare(test, program, &subject.verdicts.borrow())?);
    }
    ensure!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    Ok(())
}

/// Prints what was found; returns what is not as the list has it.
fn compare(
    test: &str,
    program: Program,
    verdicts: &BTreeMap<&'static str, Result<(), String>>,
) -> Result<Vec<String>> {
    if let Some(unlisted) = verdicts.keys().find(|id| !MUSTS.iter().any(|must| must.id == **id)) {
        bail!("{unlisted} is not in the list");
    }
    let mut wrong = Vec::new();
    for must in MUSTS.iter().filter(|must| must.test == test) {
        let expected = must.of(program);
        let found = verdicts.get(must.id);
        let line = format!("{}: {} ({}: {})", program.name(), must.id, must.place, must.text);
        match (expected, found) {
            (Outcome::Holds, Some(Ok(()))) => println!("holds    {line}"),
            (Outcome::Differs(why), Some(Err(seen))) => println!("differs  {line}: {why}; seen: {seen}"),
            (Outcome::Untried(why), None) => println!("untried  {line}: {why}"),
            (_, found) => wrong.push(format!("{line}: expected {expected:?}, found {found:?}")),
        }
    }
    Ok(wrong)
}

/// What a script has printed as lines of `key=value`.
fn pairs(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}
