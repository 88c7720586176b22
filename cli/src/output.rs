//! How answers are printed: tables for people, JSON for programs.
//!
//! What comes from elsewhere (names, notes, labels) reaches a terminal without control characters.
//! Logs have their own way out, [`crate::log_writer`].

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;
use crate::log_filter::turns_the_line;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs; fields are only ever added.
    Json,
}

/// Standard output and standard error in the format that was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    format: Format,
    has_colours: bool,
}

impl Output {
    /// Prints in `format`, on a terminal with colours unless `NO_COLOR` is set.
    pub fn new(format: Format, has_colours: bool) -> Self {
        Self { format, has_colours }
    }

    /// Whether a person sees standard output as it comes.
    pub fn is_terminal(self) -> bool {
        self.format == Format::Table && io::stdout().is_terminal()
    }

    /// Whether a person wants colours.
    pub fn has_colours(self) -> bool {
        self.has_colours
    }

    /// Whether programs read it.
    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints an answer: `value` for programs, `text` for people.
    pub fn answer(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let text = match self.format {
            Format::Json => pretty(value),
            Format::Table => text(),
        };
        self.bytes(text.trim_end_matches('\n').as_bytes())?;
        self.bytes(b"\n")
    }

    /// Prints one line of JSON of a stream of them.
    pub fn line(self, value: &impl Serialize) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(value).expect("our own answers have text keys");
        line.push(b'\n');
        self.bytes(&line)
    }

    /// Prints a part of a log, where it begins and its text, as a line of JSON.
    pub fn log_part(self, part: Option<(u64, String)>) -> Result<(), Failure> {
        let Some((from, text)) = part else { return Ok(()) };
        self.line(&json!({ "event": "log", "from": from, "text": text }))
    }

    /// Writes bytes to standard output as they are, and at once.
    #[expect(clippy::unused_self, reason = "all output goes through one value")]
    pub fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            // The reader has seen enough, as `head` does.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            other => Ok(other?),
        }
    }

    /// Tells a person on standard error what is going on. Programs do not get it.
    pub fn note(self, text: &str) {
        if self.format == Format::Table {
            // Nothing is left to be told about a closed standard error.
            let _closed = writeln!(io::stderr().lock(), "{}", clean(text));
        }
    }

    /// Says why the program fails.
    pub fn failure(self, failure: &Failure) {
        let text = match self.format {
            Format::Json => json!({"error": {
                "message": failure.to_string(),
                "next": failure.next_step(),
                "code": failure.code() as u8,
            }})
            .to_string(),
            Format::Table => match failure.next_step() {
                Some(next) => {
                    format!("error: {}\n next: {}", clean(&failure.to_string()), clean(next))
                }
                None => format!("error: {}", clean(&failure.to_string())),
            },
        };
        let _closed = writeln!(io::stderr().lock(), "{text}");
    }
}

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("our own answers have text keys")
}

/// `text` without what would move a terminal's cursor or change its colours.
pub fn clean(text: &str) -> String {
    let steers = |c: char| c.is_control() && c != '\n' || turns_the_line(c);
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// Columns as wide as their widest cell. No rows make a sentence.
pub fn table<const N: usize>(head: [&str; N], rows: &[[String; N]], none: &str) -> String {
    if rows.is_empty() {
        return none.to_owned();
    }
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| row.each_ref().map(|it| clean(it).replace('\n', " "))).collect();
    let mut widths = head.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let head = head.map(str::to_owned);
    for row in std::iter::once(&head).chain(&rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _infallible = write!(line, "{cell:<width$}  ", width = *width);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Names and values, one pair a line.
pub fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().fold(String::new(), |mut text, (name, value)| {
        let _infallible = writeln!(text, "{name:<width$}  {}", clean(value).trim_end());
        text
    })
}

/// A name with its id, which is said once where both are the same.
pub fn named(name: &str, id: &str) -> String {
    if name == id { name.to_owned() } else { format!("{name} ({id})") }
}

/// A word that a shell takes as it is.
pub fn shell_word(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,@+%".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A moment as RFC 3339, from seconds since 1970.
pub fn time(seconds: i64) -> String {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(253_402_300_799));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".into(), "long name".into()], ["bbb".into(), "x".into()]];
        assert_eq!(table(["ID", "NAME"], &rows, ""), "ID   NAME\na    long name\nbbb  x\n");
        assert_eq!(table(["ID"], &[], "no runs yet"), "no runs yet");
    }

    #[test]
    fn a_path_can_be_pasted_into_a_shell() {
        assert_eq!(shell_word("net/pool.key"), "net/pool.key");
        assert_eq!(shell_word("my pool's.key"), r"'my pool'\''s.key'");
    }

    #[test]
    fn a_name_is_said_once() {
        assert_eq!(named("net", "net"), "net");
        assert_eq!(named("Net", "net"), "Net (net)");
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(1_795_264_800), "2026-11-21T12:40:00Z");
        assert_eq!(time(-1), "1970-01-01T00:00:00Z");
        assert_eq!(time(i64::MAX), "9999-12-31T23:59:59Z");
    }
}
