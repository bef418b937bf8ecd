//! What this program says: to people one line each on stderr, to engines what runc would have said.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, OnceLock};
use std::time::SystemTime;

use serde_json::json;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::failure::Failure;

/// Where engines want to read what went wrong.
#[derive(Debug)]
pub(crate) struct EngineLog {
    /// The file of `--log`; stderr without one.
    pub(crate) file: Option<File>,
    /// Of the file's lines.
    pub(crate) format: LogFormat,
    /// What stderr is.
    pub(crate) stderr: Stderr,
}

/// Whose stderr this process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stderr {
    /// The caller's.
    Ours,
    /// The container's: nothing of ours belongs there, but for what its user would else never learn, as engines show
    /// nothing of the log once a container runs.
    Containers,
}

/// `--log-format`
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
pub(crate) enum LogFormat {
    /// `time="…" level=error msg="…"`
    #[default]
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`
    Json,
}

/// Unset, the face is the one for people.
static ENGINE: OnceLock<EngineLog> = OnceLock::new();

/// Opens the file of `--log` as runc does: engines expect it to be there even if nothing goes wrong.
pub(crate) fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// From now on, what is said is for an engine.
pub(crate) fn speak_to_engine(log: EngineLog) {
    // Fails if it is set already, and then there is nothing to change.
    let _ = ENGINE.set(log);
}

/// What the programs of a machine have as stderr. What matters they say elsewhere, and the container's is not theirs: it ends
/// with the container's process, and is not for who may be the guest's by now.
pub(crate) fn machines_stderr() -> Stdio {
    if is_containers() { Stdio::null() } else { Stdio::inherit() }
}

/// Whether this process's stderr is a container's.
pub(crate) fn is_containers() -> bool {
    ENGINE.get().is_some_and(|engine| engine.stderr == Stderr::Containers)
}

/// The user's act failed: the error and its causes.
pub(crate) fn error(error: &dyn Error) {
    match ENGINE.get() {
        Some(engine) => engine.error(&chain(error)),
        None => line("error", &chain(error)),
    }
}

/// The same, and then what it has left. Only for people: podman reads the log of a failure as one document.
pub(crate) fn failure(failure: &Failure) {
    error(failure.error.as_ref());
    let Some(left) = &failure.left else { return };
    let text = format!("cannot clean up: {}", chain(left.as_ref()));
    match ENGINE.get() {
        Some(_) => {
            tracing::warn!("{text}");
            // Nobody to tell when stderr fails.
            let _ = writeln!(io::stderr(), "runv: warning: {text}");
        }
        None => line("warning", &text),
    }
}

/// The command line makes no sense.
pub(crate) fn usage(text: &str) {
    match ENGINE.get() {
        Some(engine) => engine.error(&one_line(text)),
        None => line("error", &format!("{text}; see --help")),
    }
}

/// Odd, but the act goes on. Engines take each line that they find for an error, so they get none.
pub(crate) fn warning(text: &str) {
    match ENGINE.get() {
        Some(_) => tracing::warn!("{text}"),
        None => line("warning", text),
    }
}

/// The same of a container that runs, whose user would else never learn of it.
pub(crate) fn late_warning(text: &str) {
    warning(text);
    if is_containers() {
        // Nobody to tell when stderr fails.
        let _ = writeln!(io::stderr(), "runv: warning: {}", one_line(text));
    }
}

/// More about an error that follows.
pub(crate) fn detail(text: &str) {
    match ENGINE.get() {
        Some(_) => tracing::info!(console = text),
        None => line("console", text),
    }
}

fn line(kind: &str, text: &str) {
    // Nobody to tell when stderr fails.
    let _ = writeln!(io::stderr(), "sandbox: {kind}: {}", one_line(text));
}

impl EngineLog {
    /// One line in the log, which engines read to its last, and podman as one document; and the text alone on
    /// stderr.
    fn error(&self, text: &str) {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let line = match self.format {
            LogFormat::Text => format!("time={time:?} level=error msg={text:?}\n"),
            LogFormat::Json => format!("{}\n", json!({"level": "error", "msg": text, "time": time})),
        };
        // Nobody to tell when either fails.
        if let Some(mut file) = self.file.as_ref() {
            let _ = file.write_all(line.as_bytes());
        }
        let _ = match (self.stderr, &self.file) {
            (Stderr::Ours, Some(_)) => writeln!(io::stderr(), "{text}"),
            (Stderr::Ours, None) => io::stderr().write_all(line.as_bytes()),
            (Stderr::Containers, _) => writeln!(io::stderr(), "runv: error: {text}"),
        };
    }
}

/// An error and its causes, joined with `: `, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    one_line(&without_numbers(&text))
}

/// Bundles and guests may put anything into what is told: line ends, which engines take for the next error, and
/// sequences that a terminal obeys.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
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

/// Shows what is logged, for `--debug`: on stderr, or in an engine's log. The environment variable `RUNV_LOG`
/// chooses levels and modules.
pub(crate) fn show_log() {
    let everything = Targets::new().with_default(LevelFilter::DEBUG);
    let filter = std::env::var("RUNV_LOG").ok().and_then(|text| text.parse().ok()).unwrap_or(everything);
    let log = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false);
    let engine =
        ENGINE.get().and_then(|engine| Some((engine.file.as_ref()?.try_clone().ok()?, engine.format)));
    // Each fails only if there is a log already.
    let _ = match engine {
        Some((file, LogFormat::Json)) => {
            log.json().with_writer(Mutex::new(file)).finish().with(filter).try_init()
        }
        Some((file, LogFormat::Text)) => log.with_writer(Mutex::new(file)).finish().with(filter).try_init(),
        None => log.with_writer(io::stderr).finish().with(filter).try_init(),
    };
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

    #[test]
    fn what_is_told_is_one_line_whatever_is_in_it() {
        assert_eq!(one_line("a\nb\tc\u{1b}[31md\0\n"), "a b c\\u{1b}[31md\\u{0}");
    }
}
