//! In which order the log and what is said about states reach a terminal: a note never stands within a
//! line of the log.

/// One thing to print.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A part of the log, for standard output.
    Log(&'a [u8]),
    /// A line of ours, for standard error.
    Note(String),
}

/// What was printed, as far as it matters.
#[derive(Debug, Default)]
pub struct Order {
    is_within_line: bool,
    waiting: Vec<String>,
}

impl Order {
    /// Takes a part of the log. What waits is said where its first line ends.
    pub fn log<'a>(&mut self, bytes: &'a [u8]) -> Vec<Piece<'a>> {
        let end = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) if !self.waiting.is_empty() => end + 1,
            Some(_) | None => 0,
        };
        let (line, rest) = bytes.split_at(end);
        let mut pieces = Vec::new();
        if !line.is_empty() {
            pieces.push(Piece::Log(line));
            pieces.extend(self.waiting.drain(..).map(Piece::Note));
        }
        if !rest.is_empty() {
            pieces.push(Piece::Log(rest));
        }
        self.is_within_line = bytes.last().map_or(self.is_within_line, |last| *last != b'\n');
        pieces
    }

    /// Takes a note: it is said now, or when the line has ended.
    pub fn note(&mut self, note: String) -> Vec<Piece<'static>> {
        self.waiting.push(note);
        if self.is_within_line { Vec::new() } else { self.end() }
    }

    /// Says what waits, and ends the line if the log did not.
    pub fn end(&mut self) -> Vec<Piece<'static>> {
        let line = std::mem::take(&mut self.is_within_line).then(String::new);
        line.into_iter().chain(self.waiting.drain(..)).map(Piece::Note).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(pieces: Vec<Piece<'_>>) -> String {
        let text = |piece| match piece {
            Piece::Log(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Piece::Note(note) => format!("{note}\n"),
        };
        pieces.into_iter().map(text).collect()
    }

    #[test]
    fn a_note_never_stands_within_a_line() {
        let mut order = Order::default();
        let mut all = printed(order.note("-- 1".to_owned()));
        all += &printed(order.log(b"a\nb"));
        all += &printed(order.note("-- 2".to_owned()));
        all += &printed(order.note("-- 3".to_owned()));
        all += &printed(order.log(b"c"));
        all += &printed(order.log(b"d\ne\nf"));
        all += &printed(order.note("-- end".to_owned()));
        all += &printed(order.end());
        all += &printed(order.end());
        assert_eq!(all, "-- 1\na\nbcd\n-- 2\n-- 3\ne\nf\n-- end\n");
    }
}
