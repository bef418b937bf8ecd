//! The face for people: `sandbox run`, `sandbox check`, `sandbox spec`.

mod check;
mod run;
mod spec;

use clap::{Parser, Subcommand};

use crate::{exit_code, report};

/// Runs OCI bundles, each in a virtual machine of its own.
#[derive(Debug, Parser)]
#[command(name = "sandbox", version, after_help = EXAMPLES, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  sandbox check                      can this host run sandboxes, and how?
  sandbox spec mybundle              write mybundle/config.json
  sandbox run mybundle               run it";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Check(check::Arguments),
    Spec(spec::Arguments),
}

/// Parses the command line and obeys; returns the exit status.
pub(crate) fn main() -> u8 {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            return explain(&error);
        }
    };
    let result = match arguments.command {
        Command::Run(arguments) => run::main(&arguments),
        Command::Check(arguments) => check::main(&arguments),
        Command::Spec(arguments) => spec::main(&arguments).map(|()| 0),
    };
    result.unwrap_or_else(|failure| {
        report::failure(&failure);
        failure.exit_code
    })
}

/// Prints help, or what is wrong with the command line in one line as all errors are.
fn explain(error: &clap::Error) -> u8 {
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand as NoArguments, DisplayVersion,
    };
    if matches!(error.kind(), DisplayHelp | DisplayVersion | NoArguments) {
        // Nobody to tell when printing fails.
        let _ = error.print();
        return if error.kind() == NoArguments { exit_code::OWN_ERROR } else { 0 };
    }
    let text = error.to_string();
    let words = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ");
    report::usage(words.strip_prefix("error: ").unwrap_or(&words));
    exit_code::OWN_ERROR
}
