//! Command lines of odd words: each is read or refused in one line, and none makes this program panic.
//!
//! They follow from `RUNV_TEST_SEED`, which is printed; `RUNV_TEST_MUTATIONS` says how many there are.

use std::os::unix::ffi::OsStringExt;
use std::panic::catch_unwind;

use super::*;
use crate::bundle::load::mutations::{Random, number};

const ODD: [&str; 30] = [
    "",
    "-",
    "--",
    "---",
    "=",
    "-=",
    "--=",
    "--root",
    "--root=",
    "-b=",
    "a=b",
    "c1",
    "../c1",
    "\n",
    "a\nb",
    "\u{1b}[31m",
    "ä",
    "-ä",
    "--ä=ö",
    "18446744073709551616",
    "-1",
    "0",
    "1e9",
    "5s",
    "KILL",
    "SIGNONE",
    "json",
    "table",
    "true",
    "@file",
];

/// Every verb, and every flag of every verb.
fn vocabulary() -> Vec<String> {
    let command = Arguments::command();
    let mut words: Vec<String> = ODD.map(str::to_owned).into();
    for one in command.get_subcommands().chain([&command]) {
        words.push(one.get_name().to_owned());
        for argument in one.get_arguments() {
            words.extend(argument.get_long().map(|long| format!("--{long}")));
            words.extend(argument.get_long().map(|long| format!("-{long}=5")));
            words.extend(argument.get_short().map(|short| format!("-{short}")));
        }
    }
    words
}

#[test]
fn odd_command_lines_are_read_or_refused_in_one_line() {
    let seed = number("RUNV_TEST_SEED", u64::from(std::process::id()));
    println!("RUNV_TEST_SEED={seed}");
    let words = vocabulary();
    let verbs: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    let mut read = 0;
    for index in 0..number("RUNV_TEST_MUTATIONS", 1000) {
        let mut random = Random::new(seed, index);
        let mut line: Vec<OsString> = vec!["runv".into()];
        line.push((*random.pick(&verbs)).into());
        for _ in 0..random.below(8) {
            line.push(match random.below(20) {
                0 => OsString::from_vec(vec![0xff, b'-', random.below(256).to_le_bytes()[0]]),
                1 => "x".repeat(1 << random.below(17)).into(),
                _ => random.pick(&words).into(),
            });
        }
        let parsed = catch_unwind(|| parse(line.iter().cloned()));
        let Ok(parsed) = parsed else { panic!("line {index} of seed {seed} panics: {line:?}") };
        match parsed {
            Ok(_) => read += 1,
            Err(error) if !error.use_stderr() => read += 1,
            Err(error) => {
                let text = crate::report::one_line(&arguments::in_one_line(&error));
                assert!(!text.is_empty() && !text.contains(char::is_control), "{line:?} gave {text:?}");
            }
        }
    }
    assert!(read > 0, "none was read");
}
