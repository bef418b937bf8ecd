//! What this program says to people: one line each on stderr, with the face's name in front.

use std::error::Error;
use std::io::Write;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The user's act failed: the error and its causes.
pub(crate) fn error(error: &dyn Error) {
    line("error", &chain(error));
}

/// The command line makes no sense.
pub(crate) fn usage(text: &str) {
    line("error", &format!("{text}; see --help"));
}

/// Odd, but the act goes on.
pub(crate) fn warning(text: &str) {
    line("warning", text);
}

/// More about an error that follows.
pub(crate) fn detail(text: &str) {
    line("console", text);
}

fn line(kind: &str, text: &str) {
    let text = text.replace(['\n', '\r'], " ");
    // Nobody to tell when stderr fails.
    let _ = writeln!(std::io::stderr(), "sandbox: {kind}: {text}");
}

/// An error and its causes, joined with `: `.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    without_numbers(&text)
}

/// Rust prints the number of a system's error behind its text; people need it not.
fn without_numbers(text: &str) -> String {
    let mut pieces = text.split(" (os error ");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let rest = piece.trim_start_matches(|c: char| c.is_ascii_digit());
        plain.push_str(rest.strip_prefix(')').unwrap_or(rest));
    }
    plain
}

/// Shows what is logged, for `--debug`. The environment variable `RUNV_LOG` chooses levels and modules.
pub(crate) fn show_log() {
    let everything = Targets::new().with_default(LevelFilter::DEBUG);
    let filter = std::env::var("RUNV_LOG").ok().and_then(|text| text.parse().ok()).unwrap_or(everything);
    let log = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false);
    let log = log.with_writer(std::io::stderr).finish().with(filter);
    // Fails only if there is a log already.
    let _ = log.try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_words_and_no_numbers() {
        let error = std::io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(chain(&error), "No such file or directory");
        assert_eq!(without_numbers("a (os error 2): b (os error 13)"), "a: b");
    }
}
