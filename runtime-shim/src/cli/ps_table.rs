//! What `ps` prints of a guest's processes: the arguments of ps(1) that say which columns, and the table.
//!
//! A guest may have no ps(1), and the host's cannot look into it. Which processes are chosen has no say here: it is all
//! of the container, as with runc.

use std::time::{SystemTime, UNIX_EPOCH};

use agent_protocol::agent::ProcessInfo;

/// What is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PsError {
    /// An argument.
    #[error(
        "argument `{0}` of ps is not supported; these are: -e, -f, -ef, aux, -o COLUMNS, and combinations of them"
    )]
    Argument(String),
    /// A column.
    #[error("column `{name}` of ps is not supported; these are: {}", names())]
    Column {
        /// As it was asked for.
        name: String,
    },
    /// No columns.
    #[error("option o of ps needs a list of columns")]
    NoColumns,
}

type Show = fn(&ProcessInfo) -> String;

struct Kind {
    names: &'static [&'static str],
    title: &'static str,
    /// Numbers are aligned to the right.
    right: bool,
    show: Show,
}

const KINDS: [Kind; 18] = [
    Kind { names: &["pid", "tgid"], title: "PID", right: true, show: |it| it.pid.to_string() },
    Kind { names: &["ppid"], title: "PPID", right: true, show: |it| it.parent_pid.to_string() },
    Kind { names: &["uid", "euid"], title: "UID", right: false, show: |it| it.uid.to_string() },
    Kind { names: &["user", "euser", "uname"], title: "USER", right: false, show: |it| it.uid.to_string() },
    Kind { names: &["gid", "egid"], title: "GID", right: false, show: |it| it.gid.to_string() },
    Kind { names: &["group", "egroup"], title: "GROUP", right: false, show: |it| it.gid.to_string() },
    Kind { names: &["comm", "ucmd", "ucomm"], title: "COMMAND", right: false, show: |it| it.name.clone() },
    Kind { names: &["args", "command"], title: "COMMAND", right: false, show: command },
    Kind { names: &["cmd"], title: "CMD", right: false, show: command },
    Kind { names: &["tty", "tt", "tname"], title: "TTY", right: false, show: tty },
    Kind { names: &["stat", "state", "s"], title: "STAT", right: false, show: |it| it.state.clone() },
    Kind { names: &["start", "start_time", "bsdstart"], title: "START", right: false, show: start },
    Kind { names: &["stime"], title: "STIME", right: false, show: start },
    Kind { names: &["time", "cputime", "bsdtime"], title: "TIME", right: true, show: time },
    Kind { names: &["%cpu", "pcpu", "c"], title: "%CPU", right: true, show: load },
    Kind {
        names: &["vsz", "vsize"],
        title: "VSZ",
        right: true,
        show: |it| (it.virtual_bytes / 1024).to_string(),
    },
    Kind {
        names: &["rss", "rssize", "rsz"],
        title: "RSS",
        right: true,
        show: |it| (it.resident_bytes / 1024).to_string(),
    },
    Kind { names: &["nlwp", "thcount"], title: "NLWP", right: true, show: |it| it.threads.to_string() },
];

fn names() -> String {
    KINDS.iter().flat_map(|kind| kind.names).copied().collect::<Vec<_>>().join(", ")
}

fn command(process: &ProcessInfo) -> String {
    if process.args.is_empty() { format!("[{}]", process.name) } else { process.args.join(" ") }
}

fn tty(process: &ProcessInfo) -> String {
    if process.tty.is_empty() { "?".to_owned() } else { process.tty.clone() }
}

fn start(process: &ProcessInfo) -> String {
    let of_day = process.start_seconds % 86400;
    format!("{:02}:{:02}", of_day / 3600, of_day / 60 % 60)
}

fn time(process: &ProcessInfo) -> String {
    let seconds = process.cpu_microseconds / 1_000_000;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Since it was started, in percent with one digit.
fn load(process: &ProcessInfo) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let alive = now.saturating_sub(process.start_seconds).max(1);
    let tenths = process.cpu_microseconds / 1000 / alive;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A column of the table.
struct Column {
    title: String,
    right: bool,
    show: Show,
}

/// Columns of a table.
pub(super) struct Columns(Vec<Column>);

impl std::fmt::Debug for Columns {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.0.iter().map(|column| &column.title)).finish()
    }
}

/// Width of a column that is not the last one.
const WIDEST: usize = 128;

const FULL: &str = "uid,pid,ppid,c=C,stime,tty,time,cmd";
const SHORT: &str = "pid,tty,time,comm=CMD";
const FOR_USERS: &str = "user,pid,%cpu,vsz,rss,tty,stat,start,time,command";

impl Columns {
    /// Reads the arguments of ps(1); those of `ps -ef` if there are none.
    pub(super) fn parse(arguments: &[String]) -> Result<Self, PsError> {
        let mut list = if arguments.is_empty() { FULL } else { SHORT }.to_owned();
        let mut asked = Vec::new();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut columns = |rest: &str| {
                let rest = if rest.is_empty() { words.next().cloned() } else { Some(rest.to_owned()) };
                rest.filter(|rest| !rest.is_empty()).ok_or(PsError::NoColumns)
            };
            if let Some(rest) = word.strip_prefix("--format") {
                asked.push(columns(rest.strip_prefix('=').unwrap_or(rest))?);
                continue;
            }
            let unsupported = || PsError::Argument(word.clone());
            let is_unix = word.starts_with('-');
            let letters = word.strip_prefix('-').unwrap_or(word);
            for (at, letter) in letters.char_indices() {
                match letter {
                    'o' => {
                        asked.push(columns(letters.get(at + 1..).unwrap_or_default())?);
                        break;
                    }
                    'f' if is_unix => FULL.clone_into(&mut list),
                    // procps too takes `-aux` for `aux`.
                    'u' if !is_unix || word == "-aux" => FOR_USERS.clone_into(&mut list),
                    'e' | 'A' | 'a' | 'd' | 'x' | 'w' | 'f' => {}
                    _ => return Err(unsupported()),
                }
            }
            if letters.is_empty() {
                return Err(unsupported());
            }
        }
        if asked.is_empty() {
            asked.push(list);
        }
        let columns = asked.iter().map(|list| parse_list(list)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self(columns.into_iter().flatten().collect()))
    }

    /// The table: a line of titles, one for each process. The last column is as wide as its text, others as their widest,
    /// which no guest can make wider than [`WIDEST`].
    pub(super) fn table(&self, processes: &[ProcessInfo]) -> String {
        let last = self.0.len().saturating_sub(1);
        let cell = |at: usize, text: String| -> String {
            let most = if at == last { usize::MAX } else { WIDEST };
            text.chars().take(most).map(|c| if c.is_control() { '?' } else { c }).collect()
        };
        let titles = self.0.iter().map(|column| column.title.clone()).collect();
        let rows = processes
            .iter()
            .map(|process| self.0.iter().enumerate().map(|(at, it)| cell(at, (it.show)(process))).collect());
        let rows: Vec<Vec<String>> = std::iter::once(titles).chain(rows).collect();
        let mut widths = vec![0; self.0.len()];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for row in &rows {
            let cells = row.iter().zip(&self.0).zip(&widths).enumerate();
            let cells = cells.map(|(at, ((cell, column), &width))| match (column.right, at == last) {
                (true, _) => format!("{cell:>width$}"),
                (false, true) => cell.clone(),
                (false, false) => format!("{cell:<width$}"),
            });
            text.push_str(cells.collect::<Vec<_>>().join(" ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// `pid,comm=NAME`: a title of the caller's goes to the end of the list.
fn parse_list(list: &str) -> Result<Vec<Column>, PsError> {
    list.split([',', ' ']).filter(|word| !word.is_empty()).map(parse_column).collect()
}

fn parse_column(word: &str) -> Result<Column, PsError> {
    let (name, title) = word.split_once('=').map_or((word, None), |(name, title)| (name, Some(title)));
    let lower = name.to_ascii_lowercase();
    let kind = KINDS.iter().find(|kind| kind.names.contains(&lower.as_str()));
    let kind = kind.ok_or_else(|| PsError::Column { name: name.to_owned() })?;
    Ok(Column { title: title.unwrap_or(kind.title).to_owned(), right: kind.right, show: kind.show })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(arguments: &[&str]) -> Result<String, PsError> {
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        let columns = Columns::parse(&arguments)?;
        Ok(columns.0.iter().map(|column| column.title.as_str()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn arguments_choose_columns_as_with_ps() {
        for (arguments, expected) in [
            (&[][..], "UID PID PPID C STIME TTY TIME CMD"),
            (&["-ef"], "UID PID PPID C STIME TTY TIME CMD"),
            (&["-e"], "PID TTY TIME CMD"),
            (&["aux"], "USER PID %CPU VSZ RSS TTY STAT START TIME COMMAND"),
            (&["-aux"], "USER PID %CPU VSZ RSS TTY STAT START TIME COMMAND"),
            (&["-o", "pid,comm"], "PID COMMAND"),
            (&["-eo", "pid,comm=NAME"], "PID NAME"),
            (&["axo", "pid args"], "PID COMMAND"),
            (&["-opid", "-o", "rss"], "PID RSS"),
            (&["--format=user,nlwp"], "USER NLWP"),
        ] {
            assert_eq!(titles(arguments).as_deref(), Ok(expected), "{arguments:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        assert_eq!(titles(&["-eZ"]), Err(PsError::Argument("-eZ".into())));
        assert_eq!(titles(&["-u", "root"]), Err(PsError::Argument("-u".into())));
        assert_eq!(titles(&["-o", "pid,label"]), Err(PsError::Column { name: "label".into() }));
        assert_eq!(titles(&["-o"]), Err(PsError::NoColumns));
    }

    #[test]
    fn cells_are_aligned_and_nothing_of_a_guest_controls_the_terminal() {
        let process = ProcessInfo {
            pid: 7,
            name: "sh".into(),
            args: vec!["sh".into(), "\u{1b}[2J".into()],
            ..Default::default()
        };
        let columns = Columns::parse(&["-o".into(), "pid,ppid,args".into()]).unwrap();
        assert_eq!(columns.table(&[process]), "PID PPID COMMAND\n  7    0 sh ?[2J\n");
    }
    /// A name of megabytes beside many processes would take as many bytes for each of them.
    #[test]
    fn a_guest_cannot_make_the_table_wide() {
        let named = |name: String| ProcessInfo { pid: 7, name, ..Default::default() };
        let columns = Columns::parse(&["-o".into(), "comm,pid".into()]).unwrap();
        let table = columns.table(&[named("sh".into()), named("n".repeat(1 << 20))]);
        let widths: Vec<_> = table.lines().map(str::len).collect();
        assert_eq!(widths, [WIDEST + 4; 3]);
        let columns = Columns::parse(&["-o".into(), "pid,comm".into()]).unwrap();
        let table = columns.table(&[named("n".repeat(1000))]);
        assert!(table.ends_with(&format!("{}\n", "n".repeat(1000))), "the last column is not cut");
    }
}
