//! `sandbox check`: whether and how this host can run sandboxes.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::check::{Finding, Report, Status, Verdict, look};
use crate::config;
use crate::exit_code::OWN_ERROR;
use crate::failure::Failure;
use crate::sandbox::installation::Installation;

/// Say whether and how this host can run sandboxes
///
/// One line for each thing that matters: `ok`, `warn` (sandboxes run, but slower or with less) or `FAIL` (none
/// runs), what was found, and what to do about it. The last line says which driver `sandbox run` would take.
/// The exit status is 0 if sandboxes can run, else 1.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sandbox check
  sandbox check --json | jq .driver")]
pub(super) struct Arguments {
    /// Print JSON instead of lines
    #[arg(long)]
    json: bool,
    /// Configuration file [default: /etc/runv/config.toml, if there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn main(arguments: &Arguments) -> Result<u8, Failure> {
    let config = config::load(arguments.config.as_deref())?;
    let report = look(&config, &Installation::of_this_program()?);
    let text = if arguments.json { json(&report)? } else { lines(&report) };
    io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")?;
    Ok(if report.verdict.can_run { 0 } else { OWN_ERROR })
}

fn json(report: &Report) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(report).context("cannot write JSON")?;
    Ok(text + "\n")
}

fn lines(report: &Report) -> String {
    let mut text: String = report.checks.iter().map(line).collect();
    text.push_str(&conclusion(&report.verdict));
    text.push('\n');
    text
}

fn line(finding: &Finding) -> String {
    let status = match finding.status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    };
    let remedy = finding.remedy.map(|remedy| format!(" -> {remedy}")).unwrap_or_default();
    format!("{status:<4}  {:<14}  {}{remedy}\n", finding.name, finding.found)
}

fn conclusion(verdict: &Verdict) -> String {
    match (verdict.driver, verdict.can_run) {
        (Some(driver), true) => format!("sandboxes can run, with the driver {driver}: {}", verdict.reason),
        (Some(driver), false) => format!(
            "sandboxes cannot run until what FAILs above is there; the driver would be {driver}: {}",
            verdict.reason
        ),
        (None, _) => format!("sandboxes cannot run: {}", verdict.reason),
    }
}
