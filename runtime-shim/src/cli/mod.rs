//! The OCI command line: runc's verbs and flags, as engines call them. A file for each verb.
//!
//! Standard output has the document that was asked for and nothing else; errors go where `--log` says, in runc's
//! words where engines read them.

mod arguments;
mod checkpoint;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod flags;
mod internal;
mod kill;
mod list;
mod pause;
mod ps;
mod ps_table;
mod run;
mod spec;
mod start;
mod state;
mod update;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::failure::Failure;
use crate::host_oom;
use crate::preserved::Preserved;
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
    Exec(exec::Arguments),
    List(list::Arguments),
    Ps(ps::Arguments),
    Pause(pause::PauseArguments),
    Resume(pause::ResumeArguments),
    Update(update::Arguments),
    Events(events::Arguments),
    Spec(spec::Arguments),
    Features(features::Arguments),
    Checkpoint(checkpoint::Arguments),
    Restore(checkpoint::Arguments),
    #[command(hide = true)]
    Monitor(internal::Arguments),
    #[command(hide = true)]
    Proxy(internal::Arguments),
    #[command(hide = true)]
    Scope(internal::ScopeArguments),
    /// Take memory until the kernel ends it
    #[command(hide = true)]
    Exhaust {
        /// Bytes to take at most
        most: usize,
    },
}

/// Parses the command line and obeys; returns the exit status.
pub(crate) fn main() -> u8 {
    let arguments = match parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return arguments::explain(&error, std::env::args_os()),
    };
    if arguments.version {
        return print_version();
    }
    let Some(command) = arguments.command else {
        // Nobody to tell when printing fails.
        let _ = Arguments::command().print_help();
        return 0;
    };
    // Before anything is opened, which would take a number of theirs.
    let taken = match &command {
        Command::Create(arguments) => arguments.making.take_descriptors(),
        Command::Run(arguments) => arguments.making.take_descriptors(),
        Command::Exec(arguments) => arguments.take_descriptors(),
        _ => Ok(Preserved::default()),
    };
    let prepared = match &command {
        // What they say, and where, is in their plan.
        Command::Monitor(_) | Command::Proxy(_) | Command::Exhaust { .. } => Ok(()),
        _ => prepare(&arguments.global),
    };
    match prepared.and_then(|()| obey(command, &arguments.global, taken)) {
        Ok(status) => status,
        Err(failure) => {
            report::failure(&failure);
            failure.exit_code
        }
    }
}

fn parse(words: impl Iterator<Item = OsString>) -> clap::error::Result<Arguments> {
    // As with Go's flags, the last one counts.
    let command = Arguments::command()
        .args_override_self(true)
        .mut_subcommands(|command| command.args_override_self(true));
    let words = arguments::normalize(&command, words);
    command.try_get_matches_from(words).and_then(|matches| Arguments::from_arg_matches(&matches))
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

fn obey(command: Command, global: &Global, taken: Result<Preserved, Failure>) -> Result<u8, Failure> {
    match command {
        Command::Create(arguments) => create::main(&arguments, global, taken),
        Command::Start(arguments) => start::main(&arguments, global),
        Command::Run(arguments) => run::main(&arguments, global, taken),
        Command::State(arguments) => state::main(&arguments, global),
        Command::Kill(arguments) => kill::main(&arguments, global),
        Command::Delete(arguments) => delete::main(&arguments, global),
        Command::List(arguments) => list::main(&arguments, global),
        Command::Exec(arguments) => exec::main(&arguments, global, taken),
        Command::Ps(arguments) => ps::main(&arguments, global),
        Command::Pause(arguments) => pause::pause(&arguments, global),
        Command::Resume(arguments) => pause::resume(&arguments, global),
        Command::Update(arguments) => update::main(&arguments, global),
        Command::Events(arguments) => events::main(&arguments, global),
        Command::Spec(arguments) => spec::main(&arguments, global),
        Command::Features(arguments) => features::main(&arguments, global),
        Command::Checkpoint(arguments) | Command::Restore(arguments) => checkpoint::refuse(&arguments),
        Command::Proxy(arguments) => internal::proxy(&arguments),
        Command::Scope(arguments) => Ok(internal::scope(&arguments)),
        Command::Monitor(arguments) => internal::monitor(&arguments),
        Command::Exhaust { most } => Ok(host_oom::exhaust(most)),
    }
}

fn print_version() -> u8 {
    println!("runv version {}\nspec: {}", env!("CARGO_PKG_VERSION"), crate::bundle::version::IMPLEMENTED);
    0
}

#[cfg(test)]
#[path = "mutation_tests.rs"]
mod mutations;
