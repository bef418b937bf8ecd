//! The OCI command line: runc's verbs and flags, as engines call them. A file for each verb.
//!
//! Standard output has the document that was asked for and nothing else; errors go where `--log` says, in runc's
//! words where engines read them.

mod arguments;
mod create;
mod delete;
mod flags;
mod internal;
mod kill;
mod list;
mod run;
mod start;
mod state;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::failure::Failure;
use crate::report::{self, EngineLog, Stderr};
use flags::Global;

/// OCI runtime that runs each container in a virtual machine of its own.
#[derive(Debug, Parser)]
#[command(name = "runv", disable_version_flag = true, max_term_width = 100, after_help = EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    /// Print the versions of this program and of the runtime specification
    #[arg(long, short = 'v')]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "Engines call this program; people may prefer `sandbox`. Examples:
  docker run --runtime runv ...      with runv in the runtimes of /etc/docker/daemon.json
  podman --runtime /usr/local/bin/runv run ...
  runv run --bundle mybundle mycontainer";

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Arguments),
    Start(start::Arguments),
    Run(run::Arguments),
    State(state::Arguments),
    Kill(kill::Arguments),
    Delete(delete::Arguments),
    List(list::Arguments),
    #[command(hide = true)]
    Monitor(internal::Arguments),
}

/// Parses the command line and obeys; returns the exit status.
pub(crate) fn main() -> u8 {
    let command = Arguments::command();
    let words = arguments::normalize(&command, std::env::args_os());
    let parsed =
        command.try_get_matches_from(words).and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => return arguments::explain(&error),
    };
    if arguments.version {
        return print_version();
    }
    let Some(command) = arguments.command else {
        // Nobody to tell when printing fails.
        let _ = Arguments::command().print_help();
        return 0;
    };
    match prepare(&arguments.global).and_then(|()| obey(command, &arguments.global)) {
        Ok(status) => status,
        Err(failure) => {
            report::error(failure.error.as_ref());
            failure.exit_code
        }
    }
}

fn prepare(global: &Global) -> Result<(), Failure> {
    let file = global.log.as_deref().map(report::open_log).transpose();
    let (file, error) = match file {
        Ok(file) => (file, None),
        Err(error) => (None, Some(error)),
    };
    report::speak_to_engine(EngineLog { file, format: global.log_format, stderr: Stderr::Ours });
    if global.debug {
        report::show_log();
    }
    match error {
        Some(error) => Err(anyhow::Error::new(error).context("cannot open the file of --log").into()),
        None => Ok(()),
    }
}

fn obey(command: Command, global: &Global) -> Result<u8, Failure> {
    match command {
        Command::Create(arguments) => create::main(&arguments, global),
        Command::Start(arguments) => start::main(&arguments, global),
        Command::Run(arguments) => run::main(&arguments, global),
        Command::State(arguments) => state::main(&arguments, global),
        Command::Kill(arguments) => kill::main(&arguments, global),
        Command::Delete(arguments) => delete::main(&arguments, global),
        Command::List(arguments) => list::main(&arguments, global),
        Command::Monitor(arguments) => internal::monitor(&arguments),
    }
}

fn print_version() -> u8 {
    println!("runv version {}\nspec: {}", env!("CARGO_PKG_VERSION"), crate::bundle::version::IMPLEMENTED);
    0
}
