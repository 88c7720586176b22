//! What a terminal gets of a log: text and colours, and nothing that steers it.
//!
//! A log is what somebody's program wrote. Sent to a terminal as it is, it could move the cursor over what
//! we say, change the title, fill the clipboard or ask the terminal to type an answer.

/// Takes a log as text, gives what is safe to show.
#[derive(Debug, Default)]
pub struct LogFilter {
    state: State,
    /// The parameters of the sequence that is being read.
    parameters: String,
    is_coloured: bool,
    keeps_colours: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// Between CSI and its last byte; whether it can still be a colour.
    Control { is_plain: bool },
    /// In a string for the terminal, such as a title.
    String,
    /// In such a string, after ESC.
    StringEscape,
    /// After a carriage return.
    Return,
}

/// The longest sequence of a colour that is passed on.
const MAX_PARAMETERS: usize = 64;
const RESET: &str = "\u{1b}[0m";

impl LogFilter {
    /// Lets colours pass, or not even those.
    pub fn new(keeps_colours: bool) -> Self {
        Self { keeps_colours, ..Self::default() }
    }

    /// Takes the next characters.
    pub fn push(&mut self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        for c in text.chars() {
            self.take(c, &mut shown);
        }
        shown
    }

    /// Ends the log: what follows it has the terminal's own colours.
    pub fn end(&mut self) -> &'static str {
        self.state = State::Text;
        if std::mem::take(&mut self.is_coloured) { RESET } else { "" }
    }

    fn take(&mut self, c: char, shown: &mut String) {
        match self.state {
            State::Text => self.text(c, shown),
            // Alone it would let what follows write over what was there.
            State::Return => {
                self.state = State::Text;
                if c != '\n' {
                    shown.push('\n');
                }
                self.text(c, shown);
            }
            State::Escape => match c {
                '[' => self.control(),
                ']' | 'P' | 'X' | '^' | '_' => self.state = State::String,
                // A sequence of two or three characters: those between are not its last one.
                ' '..='/' => {}
                '\n' | '\u{1b}' => {
                    self.state = State::Text;
                    self.text(c, shown);
                }
                _ => self.state = State::Text,
            },
            State::Control { is_plain } => match c {
                '0'..='9' | ';' | ':' if self.parameters.len() < MAX_PARAMETERS => {
                    self.parameters.push(c);
                }
                'm' if is_plain => {
                    self.state = State::Text;
                    if self.keeps_colours {
                        shown.push_str("\u{1b}[");
                        shown.push_str(&self.parameters);
                        shown.push('m');
                        self.is_coloured = !matches!(self.parameters.as_str(), "" | "0");
                    }
                }
                ' '..='?' => self.state = State::Control { is_plain: false },
                '\n' | '\u{1b}' => {
                    self.state = State::Text;
                    self.text(c, shown);
                }
                _ => self.state = State::Text,
            },
            // A string ends with its line at the latest, so that none hides the rest of the log.
            State::String => match c {
                '\u{7}' | '\u{9c}' => self.state = State::Text,
                '\u{1b}' => self.state = State::StringEscape,
                '\n' => {
                    self.state = State::Text;
                    shown.push('\n');
                }
                _ => {}
            },
            State::StringEscape => {
                self.state = State::Text;
                if c != '\\' {
                    self.state = State::Escape;
                    self.take(c, shown);
                }
            }
        }
    }

    fn text(&mut self, c: char, shown: &mut String) {
        match c {
            '\n' | '\t' => shown.push(c),
            '\r' => self.state = State::Return,
            '\u{1b}' => self.state = State::Escape,
            '\u{9b}' => self.control(),
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => self.state = State::String,
            c if c.is_control() || turns_the_line(c) => {}
            c => shown.push(c),
        }
    }

    fn control(&mut self) {
        self.parameters.clear();
        self.state = State::Control { is_plain: true };
    }
}

/// Whether it makes a terminal show a line's characters in another order than they stand.
pub fn turns_the_line(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(log: &str) -> String {
        let mut filter = LogFilter::new(true);
        filter.push(log) + filter.end()
    }

    #[test]
    fn only_colours_pass() {
        for (log, expected) in [
            ("\u{1b}[1;31mred\u{1b}[0m", "\u{1b}[1;31mred\u{1b}[0m"),
            ("\u{1b}[38:2::1:2:3mx\u{1b}[m", "\u{1b}[38:2::1:2:3mx\u{1b}[m"),
            ("a\u{1b}[2Jb\u{1b}[10;10Hc\u{1b}[?1049hd\u{1b}[>4;1me", "abcde"),
            ("a\u{1b}]0;title\u{7}b", "ab"),
            ("a\u{1b}]52;c;aGk=\u{1b}\\b", "ab"),
            ("a\u{1b}P$q\u{1b}\\b\u{1b}_x\u{1b}\\c\u{1b}^y\u{9c}d", "abcd"),
            ("a\u{9b}2Jb\u{9d}0;t\u{7}c", "abc"),
            ("a\u{1b}(0b\u{1b}7c\u{1b}cd", "abcd"),
            ("a\u{8}\u{8}\u{7}\u{0}b", "ab"),
            ("one\r\ntwo\rthree\r", "one\ntwo\nthree"),
            ("a\u{202e}b", "ab"),
            ("gr\u{f6}\u{df}er \u{1f980}\t|", "gr\u{f6}\u{df}er \u{1f980}\t|"),
        ] {
            assert_eq!(shown(log), expected, "{log:?}");
        }
    }

    #[test]
    fn nothing_hides_the_rest_of_the_log_or_colours_what_follows_it() {
        assert_eq!(shown("a\u{1b}]0;title\nb"), "a\nb");
        assert_eq!(shown("a\u{1b}]0;t\u{1b}\nb"), "a\nb");
        assert_eq!(shown("a\u{1b}[31\nb"), "a\nb");
        assert_eq!(shown("\u{1b}[31mred"), "\u{1b}[31mred\u{1b}[0m");
        let long = format!("\u{1b}[{}mb", "1;".repeat(100));
        assert_eq!(shown(&long), "b");
    }

    #[test]
    fn a_log_in_any_pieces_is_the_same() {
        let log = "a\u{1b}[1mb\u{1b}]0;t\u{1b}\\c\r\n\u{1b}[2Kd\r";
        let mut filter = LogFilter::new(true);
        let mut pieces: String = log.chars().map(|c| filter.push(&c.to_string())).collect();
        pieces.push_str(filter.end());
        assert_eq!(pieces, shown(log));
    }

    #[test]
    fn without_colours_only_text_is_left() {
        let mut filter = LogFilter::new(false);
        assert_eq!(filter.push("\u{1b}[1;31mred\u{1b}[0m") + filter.end(), "red");
    }
}
