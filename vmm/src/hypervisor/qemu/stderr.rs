//! The last of what QEMU wrote to its standard error, made fit for an error message.

use std::collections::VecDeque;

/// How much is kept. QEMU's messages are a line or two; a guest can make it warn without end.
const KEPT: usize = 4096;

/// Longest text that [`one_line`] makes.
const LONGEST: usize = 600;

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub(crate) struct Tail(VecDeque<u8>);

impl Tail {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let bytes = bytes.get(bytes.len().saturating_sub(KEPT)..).unwrap_or(bytes);
        let excess = (self.0.len() + bytes.len()).saturating_sub(KEPT);
        self.0.drain(..excess);
        self.0.extend(bytes);
    }

    /// The last lines as one, empty if nothing was written.
    pub(crate) fn text(&self) -> String {
        one_line(&self.0.iter().copied().collect::<Vec<u8>>())
    }
}

/// Makes one line of untrusted bytes: lines joined by "; ", the program's name taken off, control
/// characters escaped, at most the last [`LONGEST`] bytes or so.
pub(crate) fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| line.strip_prefix("qemu-system-x86_64: ").unwrap_or(line))
        .map(|line| line.chars().flat_map(escaped).collect())
        .collect();
    let joined = lines.join("; ");
    let mut start = joined.len().saturating_sub(LONGEST);
    while !joined.is_char_boundary(start) {
        start += 1;
    }
    match joined.get(start..) {
        Some(end) if start > 0 => format!("...{end}"),
        _ => joined,
    }
}

fn escaped(character: char) -> Vec<char> {
    if character.is_control() { character.escape_default().collect() } else { vec![character] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_become_one_line_without_the_program_name() {
        let mut tail = Tail::default();
        tail.push(b"qemu-system-x86_64: cannot set up");
        tail.push(b" guest memory 'ram'\n\nsecond\x1b[2J\n");
        assert_eq!(tail.text(), "cannot set up guest memory 'ram'; second\\u{1b}[2J");
    }

    #[test]
    fn only_the_end_of_much_is_kept() {
        let mut tail = Tail::default();
        for _ in 0..10_000 {
            tail.push("warning: öö\n".as_bytes());
        }
        tail.push(&[b'x'; 100_000]);
        tail.push(b"\nthe end\n");
        assert!(tail.0.len() <= KEPT);
        assert!(tail.text().starts_with("...xxx"));
        assert!(tail.text().ends_with("; the end"));
        assert!(tail.text().len() < LONGEST + 10);
    }
}
