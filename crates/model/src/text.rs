//! Text that others have written, where it must not do more than be read.

use std::fmt::Write as _;

/// Bytes as lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// An entry of a log as one line, whatever is in it: what could end the line before its end, move a
/// cursor or turn the direction of writing is escaped. The line feed at its end stays, and with `colors`
/// the escape characters that begin the writer's own.
#[must_use]
pub fn one_line(entry: &str, colors: bool) -> String {
    let text = entry.strip_suffix('\n').unwrap_or(entry);
    let mut line = String::with_capacity(entry.len());
    for c in text.chars() {
        if (c == '\u{1b}' && colors) || !steers(c) {
            line.push(c);
        } else {
            write!(line, "{}", c.escape_default()).expect("a String takes everything");
        }
    }
    if text.len() < entry.len() {
        line.push('\n');
    }
    line
}

fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn what_others_have_written_begins_no_line() {
        assert_eq!(one_line("INFO plain: ä \u{1F600}\n", false), "INFO plain: ä \u{1F600}\n");
        let forged = "WARN client=a\n2026-11-25 INFO forged\r\u{85}\u{2028}\u{202e}\u{9b}m\n";
        let expected =
            "WARN client=a\\n2026-11-25 INFO forged\\r\\u{85}\\u{2028}\\u{202e}\\u{9b}m\n";
        assert_eq!(one_line(forged, false), expected);
        assert_eq!(one_line(forged, true), expected);
        let colored = "\u{1b}[33mWARN\u{1b}[0m a\tb\n";
        assert_eq!(one_line(colored, true), "\u{1b}[33mWARN\u{1b}[0m a\\tb\n");
        assert_eq!(one_line(colored, false), "\\u{1b}[33mWARN\\u{1b}[0m a\\tb\n");
        assert_eq!(one_line("no end", false), "no end");
    }
}
