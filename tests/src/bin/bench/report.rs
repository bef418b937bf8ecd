//! Measurements, as JSON and as a table.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// One number, beside what it is compared with.
#[derive(Debug, Clone)]
pub(crate) struct Measurement {
    /// Which benchmark, such as `B4`.
    pub(crate) id: &'static str,
    /// What was measured.
    pub(crate) name: String,
    /// In `unit`.
    pub(crate) value: f64,
    /// `M instr.`, `KiB`, ...
    pub(crate) unit: &'static str,
    /// At most this is the goal.
    pub(crate) goal: Option<f64>,
    /// Name and value of each peer; "(quoted)" marks what was measured elsewhere.
    pub(crate) peers: Vec<(String, f64)>,
}

impl Measurement {
    pub(crate) fn new(id: &'static str, name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { id, name: name.into(), value, unit, goal: None, peers: Vec::new() }
    }

    pub(crate) fn goal(mut self, goal: f64) -> Self {
        self.goal = Some(goal);
        self
    }

    pub(crate) fn peer(mut self, name: impl Into<String>, value: f64) -> Self {
        self.peers.push((name.into(), value));
        self
    }

    fn to_json(&self) -> Value {
        let peers: serde_json::Map<_, _> =
            self.peers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({ "id": self.id, "name": self.name, "value": self.value, "unit": self.unit,
            "goal": self.goal, "peers": peers })
    }
}

/// What a run of the benchmarks found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    measurements: Vec<Measurement>,
    failures: Vec<String>,
}

impl Report {
    /// Adds the results of one subject; its failure does not lose those of others.
    pub(crate) fn add(&mut self, subject: &str, measure: impl FnOnce() -> Result<Vec<Measurement>>) {
        eprintln!("bench: {subject}");
        match measure() {
            Ok(results) => self.measurements.extend(results),
            Err(error) => {
                eprintln!("bench: error: {subject}: {error:#}");
                self.failures.push(subject.to_owned());
            }
        }
    }

    pub(crate) fn print(&self) -> Result<()> {
        let all: Vec<_> = self.measurements.iter().map(Measurement::to_json).collect();
        println!("{}", serde_json::to_string_pretty(&all).context("cannot write JSON")?);
        ensure!(self.failures.is_empty(), "failed: {}", self.failures.join(", "));
        Ok(())
    }
}

/// The measurements of the files, in order of their ids.
fn read(files: &[String]) -> Result<Vec<Value>> {
    let mut all: Vec<Value> = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        all.extend(serde_json::from_str::<Vec<Value>>(&text).with_context(|| format!("{file} is not JSON"))?);
    }
    all.sort_by_key(|one| {
        let id = one["id"].as_str().unwrap_or_default().trim_start_matches('B').to_owned();
        id.trim_end_matches(char::is_alphabetic).parse::<u32>().unwrap_or(u32::MAX)
    });
    Ok(all)
}

/// Prints the measurements of the files as one JSON array.
pub(crate) fn merge(files: &[String]) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(&read(files)?).context("cannot write JSON")?);
    Ok(())
}

/// Prints the measurements of the files for people.
pub(crate) fn table(files: &[String]) -> Result<()> {
    let all = read(files)?;
    println!("{:4} {:58} {:>11} {:10} {:14} peers", "", "what", "value", "unit", "goal");
    for one in &all {
        let value = one["value"].as_f64().unwrap_or(f64::NAN);
        let goal = one["goal"].as_f64().map_or(String::new(), |goal| {
            format!("<= {} {}", number(goal), if value <= goal { "met" } else { "MISSED" })
        });
        let peers: Vec<String> = one["peers"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name} {}", number(value.as_f64().unwrap_or(f64::NAN))))
            .collect();
        let text = |key: &str| one[key].as_str().unwrap_or_default();
        println!(
            "{:4} {:58} {:>11} {:10} {:14} {}",
            text("id"),
            text("name"),
            number(value),
            text("unit"),
            goal,
            peers.join(", ")
        );
    }
    Ok(())
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e9 { format!("{value:.0}") } else { format!("{value:.2}") }
}
