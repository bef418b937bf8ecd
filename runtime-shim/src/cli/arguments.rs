//! Command lines as Go's flag package reads them, which engines write for runc: `-bundle` is `--bundle`, and a switch
//! may say `=true`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Command, CommandFactory};

use crate::{exit_code, report};

/// Rewrites what only Go reads into what clap reads. Words that belong to a container are left alone.
pub(super) fn normalize(root: &Command, words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words = words;
    let mut normal: Vec<OsString> = words.next().into_iter().collect();
    let mut command = root;
    while let Some(word) = words.next() {
        let Some(text) = word.to_str() else {
            normal.push(word);
            continue;
        };
        if text == "--" {
            normal.push(word);
            break;
        }
        if let Some(flag) = Flag::find(command, text) {
            normal.extend(flag.word());
            if flag.takes_next() {
                normal.extend(words.next());
            }
            continue;
        }
        let is_name = !text.starts_with('-');
        let sub = if is_name { command.find_subcommand(text) } else { None };
        normal.push(word);
        match sub {
            Some(sub) => command = sub,
            // The rest is the container's own command line.
            None if is_name && has_trailing(command) => break,
            None => {}
        }
    }
    normal.extend(words);
    normal
}

fn has_trailing(command: &Command) -> bool {
    command.get_positionals().any(clap::Arg::is_trailing_var_arg_set)
}

/// A flag of a command as it was written.
struct Flag<'a> {
    name: &'a str,
    value: Option<&'a str>,
    takes_value: bool,
}

impl<'a> Flag<'a> {
    /// A long flag with one dash or two; a short one that takes a value.
    fn find(command: &Command, text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix('-')?;
        let (dashes, rest) = rest.strip_prefix('-').map_or((1, rest), |rest| (2, rest));
        let (name, value) = rest.split_once('=').map_or((rest, None), |(name, value)| (name, Some(value)));
        let argument = command.get_arguments().find(|argument| {
            let short = argument.get_short().is_some_and(|short| name.chars().eq([short]));
            argument.get_long() == Some(name) || (dashes == 1 && short)
        })?;
        Some(Self { name, value, takes_value: argument.get_action().takes_values() })
    }

    fn takes_next(&self) -> bool {
        self.takes_value && self.value.is_none()
    }

    fn word(&self) -> Option<OsString> {
        let dashes = if self.name.chars().count() == 1 { "-" } else { "--" };
        match self.value {
            Some(value) if self.takes_value => Some(format!("{dashes}{}={value}", self.name).into()),
            Some("false" | "0" | "f" | "F" | "FALSE" | "False") => None,
            _ => Some(OsStr::new(&format!("{dashes}{}", self.name)).to_owned()),
        }
    }
}

/// Prints help, or what is wrong with the command line in one line as all errors are, and where they are told.
pub(super) fn explain(error: &clap::Error, words: impl Iterator<Item = OsString>) -> u8 {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayVersion) {
        // Nobody to tell when printing fails.
        let _ = error.print();
        return 0;
    }
    let log = LogFlags::find(words);
    report::speak_to_engine(report::EngineLog {
        // The error in hand is the one to tell.
        file: log.file.and_then(|path| report::open_log(Path::new(&path)).ok()),
        format: log.format,
        stderr: report::Stderr::Ours,
    });
    report::usage(&in_one_line(error));
    exit_code::OWN_ERROR
}

/// Where an engine reads errors, in a command line that cannot be parsed.
#[derive(Debug, Default, PartialEq, Eq)]
struct LogFlags {
    file: Option<OsString>,
    format: report::LogFormat,
}

impl LogFlags {
    /// They stand before the verb, each as one word or as two.
    fn find(words: impl Iterator<Item = OsString>) -> Self {
        let verbs = super::Arguments::command();
        let mut found = Self::default();
        let mut words = words.skip(1);
        while let Some(word) = words.next() {
            if verbs.find_subcommand(&word).is_some() {
                break;
            }
            let Some(flag) = word.to_str().map(|word| word.trim_start_matches('-')) else { continue };
            let (name, value) =
                flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
            let value = value.map(OsString::from);
            match name {
                "log" => found.file = value.or_else(|| words.next()),
                "log-format" if value.or_else(|| words.next()).is_some_and(|format| format == "json") => {
                    found.format = report::LogFormat::Json;
                }
                _ => {}
            }
        }
        found
    }
}

/// The first paragraph of what clap says; usage and tips follow it.
pub(super) fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let words = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ");
    words.strip_prefix("error: ").unwrap_or(&words).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_found_in_a_line_that_makes_no_sense() {
        let find = |line: &str| LogFlags::find(line.split(' ').map(OsString::from));
        let json = LogFlags { file: Some("f".into()), format: report::LogFormat::Json };
        assert_eq!(find("runv --root r --log f --log-format json create ../c1"), json);
        assert_eq!(find("runv -log-format=json --log=f --none"), json);
        assert_eq!(find("runv exec c1 --log f"), LogFlags::default());
    }
}
