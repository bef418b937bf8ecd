//! docs/conformance.md says what the list of the tests says.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::musts::{MUSTS, Must, Outcome};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance.md");

/// What stands before the table.
const MARK: &str = "| MUST | test | runv | runc | remark |\n|---|---|---|---|---|\n";

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Holds => "yes",
        Outcome::Differs(_) => "no",
        Outcome::Untried(_) => "–",
    }
}

fn remark(must: &Must) -> String {
    let of = |name: &str, outcome: &Outcome| match outcome {
        Outcome::Holds => None,
        Outcome::Differs(why) | Outcome::Untried(why) => Some(format!("{name}: {why}")),
    };
    let remarks = [of("runv", &must.runv), of("runc", &must.runc)];
    remarks.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn table() -> Result<String> {
    let mut text = MARK.to_owned();
    let mut place = "";
    for must in MUSTS {
        if must.place != place {
            place = must.place;
            writeln!(text, "| **{place}** | | | | |")?;
        }
        let (runv, runc, remark) = (word(&must.runv), word(&must.runc), remark(must));
        writeln!(text, "| {} | `{}`: {} | {runv} | {runc} | {remark} |", must.text, must.test, must.id)?;
    }
    Ok(text)
}

#[test]
fn the_table_in_the_documentation_is_this_one() -> Result<()> {
    // The sources are not where a test binary is taken along to.
    if !Path::new(FILE).exists() {
        println!("{FILE} is not here");
        return Ok(());
    }
    let document = fs::read_to_string(FILE).context(FILE)?;
    let start = document.find(MARK).context("docs/conformance.md has no table")?;
    let (before, _) = document.split_at(start);
    let wanted = format!("{before}{}", table()?);
    if std::env::var_os("RUNV_TEST_WRITE_TABLE").is_some() {
        fs::write(FILE, &wanted).context(FILE)?;
    }
    ensure!(
        fs::read_to_string(FILE).context(FILE)? == wanted,
        "docs/conformance.md is not the list's table: RUNV_TEST_WRITE_TABLE=1 tests/run conformance table writes it"
    );
    Ok(())
}

#[test]
fn ids_are_unique() {
    for (index, must) in MUSTS.iter().enumerate() {
        assert!(MUSTS.iter().take(index).all(|other| other.id != must.id), "{} is there twice", must.id);
    }
}
