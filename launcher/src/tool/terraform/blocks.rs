//! Finds the blocks of a Terraform file that say where its state is.
//!
//! A source comes from anybody, so this is no parser that would follow a nesting with one of its own: one
//! pass over the bytes, which knows comments, strings, templates and here-documents, and remembers in
//! what it stands.

/// What a text has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Block(&'static str),
    /// It seems to have such a block, and is no text that the language has.
    Doubt,
}

/// The blocks within `terraform`, and what they are called in messages.
pub(super) const BLOCKS: [(&str, &str); 2] = [("backend", "backend"), ("cloud", "cloud block")];

/// In what the pass stands.
enum Within<'a> {
    /// Expressions and blocks, with so many brackets open; in a template it ends with its brace.
    Code {
        open: usize,
        is_template: bool,
    },
    Quotes,
    /// Up to a line with nothing but the marker.
    HereDocument {
        marker: &'a [u8],
        is_new_line: bool,
    },
}

/// Deeper templates than anybody writes: the rest is not looked at.
const MAX_DEPTH: usize = 10_000;

/// Looks through a file.
pub(super) fn look(text: &str) -> Found {
    let mut pass = Pass {
        rest: text.as_bytes(),
        within: vec![Within::Code { open: 0, is_template: false }],
        words: Vec::new(),
        is_in_terraform: false,
        found: None,
        is_broken: false,
    };
    while !pass.rest.is_empty() {
        if pass.within.len() > MAX_DEPTH {
            return Found::Doubt;
        }
        pass.step();
    }
    let is_whole = matches!(pass.within[..], [Within::Code { open: 0, .. }]) && !pass.is_broken;
    match pass.found {
        None => Found::Nothing,
        Some(block) if is_whole => Found::Block(block),
        Some(_) => Found::Doubt,
    }
}

/// Stands among the words for whatever is none.
const OPERATOR: &[u8] = b"=";

struct Pass<'a> {
    rest: &'a [u8],
    within: Vec<Within<'a>>,
    /// The words since the last end of a line or bracket: the head of a block, if one follows. A label in
    /// quotes is an empty word.
    words: Vec<&'a [u8]>,
    is_in_terraform: bool,
    found: Option<&'static str>,
    is_broken: bool,
}

impl Pass<'_> {
    fn step(&mut self) {
        match self.within.last() {
            Some(Within::Quotes) => self.quotes(),
            Some(Within::HereDocument { marker, is_new_line: true }) => self.begin_line(marker),
            Some(Within::HereDocument { is_new_line: false, .. }) => self.here_document(),
            Some(Within::Code { .. }) | None => self.code(),
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn skip_behind(&mut self, end: &[u8]) {
        let at = self.rest.windows(end.len()).position(|window| window == end);
        self.skip(at.map_or(self.rest.len(), |at| at + end.len()));
    }

    fn code(&mut self) {
        match self.rest {
            [b'#', ..] | [b'/', b'/', ..] => self.comment(),
            [b'/', b'*', ..] => self.skip_behind(b"*/"),
            [b'<', b'<', ..] => self.begin_here_document(),
            [b'"', ..] => {
                self.words.push(b"");
                self.within.push(Within::Quotes);
                self.skip(1);
            }
            [b'{' | b'(' | b'[', ..] => self.open(),
            [b'}' | b')' | b']', ..] => self.close(),
            [b'\n', ..] => {
                self.words.clear();
                self.skip(1);
            }
            [first, ..] if is_word(*first) => {
                let end = self.rest.iter().position(|byte| !is_word(*byte));
                let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                self.words.push(word);
                self.rest = rest;
            }
            [b' ' | b'\t' | b'\r', ..] => self.skip(1),
            // What stands before it is no head of a block.
            _ => {
                self.words.push(OPERATOR);
                self.skip(1);
            }
        }
        // More than the head of a block ever has.
        self.words.truncate(8);
    }

    fn comment(&mut self) {
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        self.skip(end.unwrap_or(self.rest.len()));
    }

    fn open(&mut self) {
        let is_first = self.within.len() == 1;
        let is_brace = self.rest.starts_with(b"{");
        if let Some(Within::Code { open, .. }) = self.within.last_mut() {
            *open += 1;
            match (is_first && is_brace, *open, &self.words[..]) {
                (true, 1, [b"terraform"]) => self.is_in_terraform = true,
                (true, 2, [kind, label @ ..])
                    if self.is_in_terraform && !label.contains(&OPERATOR) =>
                {
                    let known = BLOCKS.iter().find(|(block, _)| block.as_bytes() == *kind);
                    self.found = self.found.or(known.map(|(_, name)| *name));
                }
                (_, _, _) => {}
            }
        }
        self.words.clear();
        self.skip(1);
    }

    fn close(&mut self) {
        self.words.clear();
        let is_first = self.within.len() == 1;
        match self.within.last_mut() {
            Some(Within::Code { open: 0, is_template: true }) => drop(self.within.pop()),
            Some(Within::Code { open, .. }) if *open > 0 => {
                *open -= 1;
                if is_first && *open == 0 {
                    self.is_in_terraform = false;
                }
            }
            _ => self.is_broken = true,
        }
        self.skip(1);
    }

    fn begin_here_document(&mut self) {
        self.skip(2);
        if self.rest.starts_with(b"-") {
            self.skip(1);
        }
        let end = self.rest.iter().position(|byte| !is_word(*byte)).unwrap_or(self.rest.len());
        let (marker, rest) = self.rest.split_at(end);
        self.rest = rest;
        if !marker.is_empty() {
            self.comment();
            self.skip(1);
            self.within.push(Within::HereDocument { marker, is_new_line: true });
        }
    }

    fn begin_line(&mut self, marker: &[u8]) {
        let blanks = self.rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
        let line = &self.rest[blanks.count()..];
        let behind = line.strip_prefix(marker).map(|behind| {
            let blanks = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r'));
            &behind[blanks.count()..]
        });
        match behind {
            // The line's end ends the words too.
            Some(behind @ ([] | [b'\n', ..])) => {
                self.rest = behind;
                self.within.pop();
            }
            Some(_) | None => self.is_new_line(false),
        }
    }

    fn is_new_line(&mut self, is: bool) {
        if let Some(Within::HereDocument { is_new_line, .. }) = self.within.last_mut() {
            *is_new_line = is;
        }
    }

    fn here_document(&mut self) {
        if self.rest.starts_with(b"\n") {
            self.skip(1);
            return self.is_new_line(true);
        }
        self.template_or_byte();
    }

    fn quotes(&mut self) {
        match self.rest {
            [b'\\', ..] => self.skip(2),
            [b'"', ..] => {
                self.within.pop();
                self.skip(1);
            }
            // A string ends with its line at the latest.
            [b'\n', ..] => {
                self.within.pop();
                self.is_broken = true;
            }
            _ => self.template_or_byte(),
        }
    }

    /// Doubled signs are no template.
    fn template_or_byte(&mut self) {
        match self.rest {
            [b'$', b'$', b'{', ..] | [b'%', b'%', b'{', ..] => self.skip(3),
            [b'$' | b'%', b'{', ..] => {
                self.skip(2);
                self.within.push(Within::Code { open: 0, is_template: true });
            }
            _ => self.skip(1),
        }
    }
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_found_where_it_is_one() {
        for text in [
            "terraform {\n  backend \"s3\" {\n  bucket = \"b\"\n }\n}\n",
            "terraform { backend local {} }",
            "locals {\n  a = \"${ { b = \"}\" }.b }\"\n}\nterraform {\n backend \"s3\" {}\n}\n",
            "locals {\n  a = <<-E\n  ${ \"x\" } terraform {\n  E\n}\nterraform {\nbackend \"s3\" {}\n}\n",
            "/* { */ terraform { # {\n required_providers {\n a = { b = 1 }\n }\n // {\n backend \"s3\" {}\n}",
            "terraform\t{\r\n\r\n  backend\"s3\"{}\r\n}",
        ] {
            assert_eq!(look(text), Found::Block("backend"), "{text}");
        }
        assert_eq!(look("terraform {\n  cloud {\n }\n}\n"), Found::Block("cloud block"));
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        for text in [
            "resource \"terraform_data\" \"a\" {}\n# terraform { backend \"s3\" {} }\n",
            "resource \"terraform\" \"backend\" {\n  backend \"s3\" {}\n}\n",
            "module \"terraform\" {\n backend \"s3\" {}\n}",
            "locals {\n  terraform = {\n    backend = {}\n }\n}\n",
            "locals {\n  a = <<E\nterraform {\n  backend \"s3\" {}\n}\nE\n}\n",
            "locals { a = \"terraform { backend \\\"s3\\\" {} }\" }",
            "locals { a = \"$${terraform {\" }\nlocals { b = { backend = {} } }",
            "terraform {\n  required_version = \">1\"\n}\nx {\n backend \"s3\" {}\n}\n",
            "terraform {\n  backend = {}\n  a {\n    backend \"s3\" {}\n  }\n}\n",
        ] {
            assert_eq!(look(text), Found::Nothing, "{text}");
        }
    }

    #[test]
    fn a_text_with_a_mistake_leaves_doubt() {
        for text in [
            "terraform {\n  backend \"s3\" {\n}\n",
            "terraform {\n  backend \"s3\" {}\n}\n}\n",
            "terraform {\n  backend \"s3\" {}\n}\nlocals { a = \"\n}",
            "terraform {\n  backend \"s3\" {}\n}\nlocals { a = <<E\n}",
        ] {
            assert_eq!(look(text), Found::Doubt, "{text}");
        }
    }

    /// A parser with a function for each nesting ends with the launcher's stack.
    #[test]
    fn a_nesting_without_end_is_looked_through() {
        for nested in ["(", "[", "{", "a = !", "\"${", "a ? b : ", "<<E\n${", "-"] {
            let found = look(&nested.repeat(1 << 20));
            let is_deep = nested.contains("${");
            assert_eq!(found, if is_deep { Found::Doubt } else { Found::Nothing }, "{nested}");
        }
    }
}
