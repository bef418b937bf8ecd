//! `list`: the containers of a root.

use std::io::{self, Write};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::flags::Global;
use crate::container::state::State;
use crate::failure::Failure;

/// List containers
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A table, or JSON
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Only names
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

pub(super) fn main(arguments: &Arguments, global: &Global) -> Result<u8, Failure> {
    let states: Vec<State> = global.store().all()?.iter().map(State::of).collect();
    let text = match (arguments.quiet, arguments.format) {
        (true, _) => states.iter().map(|state| format!("{}\n", state.id)).collect(),
        (false, Format::Json) if states.is_empty() => "null".to_owned(),
        (false, Format::Json) => serde_json::to_string(&states).context("cannot write JSON")?,
        (false, Format::Table) => table(&states),
    };
    io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")?;
    Ok(0)
}

/// Columns as runc has them, each as wide as its widest cell and at least twelve.
fn table(states: &[State]) -> String {
    let heading = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows = states.iter().map(|state| {
        [
            state.id.clone(),
            state.pid.to_string(),
            state.status.to_owned(),
            state.bundle.display().to_string(),
            state.created.clone(),
            state.owner.clone(),
        ]
    });
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count() + 3);
        cells.max().unwrap_or(0).max(12)
    };
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    rows.iter().map(line).collect()
}
