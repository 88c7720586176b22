//! The tokens of a document, in one pass over its text.

use super::Refusal;

/// How large a document may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How many tokens it has.
    pub tokens: usize,
    /// How many brackets of all kinds are open at the same time.
    pub nesting: usize,
    /// How many bytes a name has.
    pub name: usize,
    /// How many directives it has.
    pub directives: usize,
}

/// A token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A name or a keyword.
    Name(&'a str),
    /// A punctuation mark; `.` stands for all three.
    Mark(u8),
    /// A number or a string.
    Literal,
}

/// Cuts a text into tokens. What follows a limit is not looked at.
pub(super) fn scan<'a>(text: &'a str, limits: &Limits) -> Result<Vec<Token<'a>>, Refusal> {
    let bytes = text.as_bytes();
    let (mut tokens, mut nesting, mut directives, mut at) = (Vec::new(), 0_usize, 0_usize, 0);
    while let Some(&byte) = bytes.get(at) {
        let (end, token) = match byte {
            b' ' | b'\t' | b'\r' | b'\n' | b',' => (at + 1, None),
            0xEF if bytes[at..].starts_with("\u{feff}".as_bytes()) => (at + 3, None),
            b'#' => (run(bytes, at, |byte| !matches!(byte, b'\n' | b'\r')), None),
            b'"' => (end_of_string(bytes, at)?, Some(Token::Literal)),
            b'A'..=b'Z' | b'a'..=b'z' | b'_' => {
                let end = run(bytes, at, |byte| byte.is_ascii_alphanumeric() || byte == b'_');
                at_most(end - at, limits.name, "bytes in one name")?;
                (end, Some(Token::Name(&text[at..end])))
            }
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
                (run(bytes, at, is_part), Some(Token::Literal))
            }
            b'.' if bytes[at..].starts_with(b"...") => (at + 3, Some(Token::Mark(b'.'))),
            b'(' | b'[' | b'{' => {
                nesting += 1;
                at_most(nesting, limits.nesting, "brackets in each other")?;
                (at + 1, Some(Token::Mark(byte)))
            }
            b')' | b']' | b'}' => {
                nesting = nesting.saturating_sub(1);
                (at + 1, Some(Token::Mark(byte)))
            }
            b'@' => {
                directives += 1;
                at_most(directives, limits.directives, "directives")?;
                (at + 1, Some(Token::Mark(byte)))
            }
            b'!' | b'$' | b'&' | b':' | b'=' | b'|' => (at + 1, Some(Token::Mark(byte))),
            _ => return Err(Refusal::Malformed(format!("byte {at} of the query begins no token"))),
        };
        if let Some(token) = token {
            at_most(tokens.len() + 1, limits.tokens, "tokens")?;
            tokens.push(token);
        }
        at = end;
    }
    Ok(tokens)
}

fn at_most(count: usize, most: usize, what: &'static str) -> Result<(), Refusal> {
    if count > most { Err(Refusal::TooMuch { what, most: most as u64 }) } else { Ok(()) }
}

/// Behind the bytes like this from `at` on.
fn run(bytes: &[u8], at: usize, is_part: impl Fn(u8) -> bool) -> usize {
    let rest = &bytes[at + 1..];
    at + 1 + rest.iter().position(|byte| !is_part(*byte)).unwrap_or(rest.len())
}

/// Behind the string that begins at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> Result<usize, Refusal> {
    let is_block = bytes[start..].starts_with(b"\"\"\"");
    let mut at = start + if is_block { 3 } else { 1 };
    while let Some(&byte) = bytes.get(at) {
        let rest = &bytes[at..];
        match byte {
            b'"' if !is_block => return Ok(at + 1),
            b'"' if rest.starts_with(b"\"\"\"") => return Ok(at + 3),
            b'\\' if is_block && rest.starts_with(b"\\\"\"\"") => at += 4,
            b'\\' if !is_block => at += 2,
            b'\n' | b'\r' if !is_block => break,
            _ => at += 1,
        }
    }
    Err(Refusal::Malformed(format!("the string at byte {start} of the query does not end")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Limits = Limits { tokens: 20, nesting: 3, name: 8, directives: 1 };

    #[test]
    fn a_text_is_cut_where_the_parser_cuts_it() {
        let text = "\u{feff}query a # {{{{\n{b(c:\"{\\\"\",d:\"\"\"{ \\\"\"\" \"{ \"\"\",e:-1.5e+3)...f@g}";
        let tokens = scan(text, &SOME).unwrap();
        let marks: Vec<u8> = tokens
            .iter()
            .filter_map(|it| if let Token::Mark(it) = it { Some(*it) } else { None })
            .collect();
        assert_eq!(marks, b"{(:::).@}");
        let literals = tokens.iter().filter(|it| **it == Token::Literal).count();
        assert_eq!((tokens.len(), literals), (9 + 8 + 3, 3));
    }

    #[test]
    fn what_is_over_a_limit_or_no_token_is_refused() {
        for (text, what) in [
            ("a ".repeat(21), "tokens"),
            ("[[[[".to_owned(), "brackets in each other"),
            ("a23456789".to_owned(), "bytes in one name"),
            ("@a @b".to_owned(), "directives"),
        ] {
            let refused = scan(&text, &SOME).unwrap_err();
            assert!(
                matches!(refused, Refusal::TooMuch { what: it, .. } if it == what),
                "{refused}"
            );
        }
        for text in ["\"", "\"a\nb\"", "\"\\", "\"\"\" \\\"\"\"", "ä", "..", ";"] {
            assert!(matches!(scan(text, &SOME), Err(Refusal::Malformed(_))), "{text}");
        }
    }
}
