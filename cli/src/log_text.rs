//! A log as text, for JSON: bytes come in any pieces, characters come out whole.

/// Gives the text of a log's bytes, each character once, in order.
#[derive(Debug)]
pub struct LogText {
    /// Where in the log `held` begins.
    at: u64,
    /// The beginning of a character whose rest has yet to come.
    held: Vec<u8>,
}

impl LogText {
    /// Text of the bytes from byte `at` of a log on.
    pub fn from(at: u64) -> Self {
        Self { at, held: Vec::new() }
    }

    /// Takes the next bytes; gives where in the log the text of all whole characters begins, and that text.
    /// What is not UTF-8 becomes U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> Option<(u64, String)> {
        self.held.extend_from_slice(bytes);
        let whole = self.held.len() - unfinished(&self.held);
        self.take(whole)
    }

    /// Gives what is left at the log's end.
    pub fn end(&mut self) -> Option<(u64, String)> {
        self.take(self.held.len())
    }

    fn take(&mut self, length: usize) -> Option<(u64, String)> {
        if length == 0 {
            return None;
        }
        let rest = self.held.split_off(length);
        let text = String::from_utf8_lossy(&self.held).into_owned();
        let at = self.at;
        self.at += length as u64;
        self.held = rest;
        Some((at, text))
    }
}

/// How many bytes at the end begin a character without ending it: 0 to 3.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    let starts = |at: &usize| tail[*at] >= 0xc0;
    (0..tail.len()).rev().find(starts).map_or(0, |at| match std::str::from_utf8(&tail[at..]) {
        Err(error) if error.error_len().is_none() => tail.len() - at,
        Ok(_) | Err(_) => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_whole_at_any_split() {
        let log = "größer ↵ 🦀 ende".as_bytes();
        for size in 1..=log.len() {
            let mut text = LogText::from(7);
            let mut all = String::new();
            for piece in log.chunks(size) {
                if let Some((at, part)) = text.push(piece) {
                    assert_eq!(at, 7 + all.len() as u64);
                    all += &part;
                }
            }
            assert_eq!(text.end(), None);
            assert_eq!(all.as_bytes(), log, "pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_text_is_not_held_back() {
        let mut text = LogText::from(0);
        assert_eq!(text.push(b"a\xff\xff\xff"), Some((0, "a\u{fffd}\u{fffd}\u{fffd}".into())));
        assert_eq!(text.push(b"\xf0\x9f"), None);
        assert_eq!(text.end(), Some((4, "\u{fffd}".into())));
    }
}
