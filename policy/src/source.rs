//! What must be known of a policy's text before it is compiled.
//!
//! Finds every function call with its place, so that a call to a function that does not exist here is
//! refused when the program starts and not, as an engine would, in the middle of a run. Strings and
//! comments are stepped over. What this cannot see (a name put together in brackets) is refused by
//! the functions themselves when they are called.

use std::collections::{BTreeMap, BTreeSet};

use crate::compile::Place;

/// The calls and imports of one source.
#[derive(Debug, Default)]
pub(crate) struct Outline<'a> {
    /// Every `name(` with the place of its first character.
    pub(crate) calls: Vec<(&'a str, Place)>,
    /// The names that imports introduce.
    pub(crate) imports: BTreeSet<&'a str>,
    /// The names that `some` and `every` introduce anywhere.
    pub(crate) locals: BTreeMap<&'a str, Place>,
    /// Whether the text uses `if` or `contains` as Rego v1 does, or imports `rego.v1`.
    pub(crate) looks_like_v1: bool,
    /// Where brackets are nested deeper than [`DEEPEST`] or [`DEEPEST_VALUE`].
    pub(crate) too_deep: Option<Place>,
    /// Where an expression has more than [`MOST_LINKS`]: later steps of the engine would.
    pub(crate) too_long: Option<Place>,
}

/// How deep brackets may be nested: the engine's parser runs out of stack in the end.
pub(crate) const DEEPEST: usize = 64;
/// How deep arrays, sets and objects may be nested: the engine reads the first element of each twice,
/// so every level doubles the time.
pub(crate) const DEEPEST_VALUE: usize = 12;
/// How many operators, dots and brackets may follow each other in one expression, all that it holds
/// included: the engine descends a step for each.
pub(crate) const MOST_LINKS: usize = 128;

/// Words before a parenthesis that are no calls.
const KEYWORDS: [&str; 12] = [
    "as", "contains", "default", "else", "every", "if", "import", "in", "not", "package", "some",
    "with",
];

/// Reads the outline of `source`, which need not be valid Rego.
pub(crate) fn outline(source: &str) -> Outline<'_> {
    let mut outline = Outline::default();
    let mut words = Words::new(source);
    let mut importing: Option<&str> = None;
    let mut renaming = false;
    // Of `if` and `contains`, those that an import made keywords of v0.
    let mut future = (false, false);
    // Where the last name ended that `some` or `every` introduced.
    let mut introduced: Option<usize> = None;
    while let Some((word, place, called)) = words.next() {
        if importing.is_some() && renaming {
            outline.imports.insert(word);
            (importing, renaming) = (None, false);
            continue;
        }
        let start = words.at - word.len();
        let goes_on = introduced.take().is_some_and(|end| goes_on(&source[end..start]));
        if matches!(word, "some" | "every") {
            introduced = Some(words.at);
        } else if goes_on && word != "in" {
            introduced = Some(words.at);
            outline.locals.entry(word).or_insert(place);
        }
        match (importing.take(), word) {
            (Some(""), path) => {
                outline.looks_like_v1 |= path == "rego.v1";
                future.0 |= matches!(path, "future.keywords" | "future.keywords.if");
                future.1 |= matches!(path, "future.keywords" | "future.keywords.contains");
                outline.imports.insert(path.rsplit('.').next().unwrap_or(path));
                importing = Some(path);
                continue;
            }
            (Some(path), "as") => {
                (importing, renaming) = (Some(path), true);
                continue;
            }
            (_, "import") => {
                importing = Some("");
                continue;
            }
            (_, "if") => outline.looks_like_v1 |= !future.0,
            (_, "contains") => {
                let called = source[words.at..].trim_start().starts_with('(');
                outline.looks_like_v1 |= !called && !future.1;
            }
            (_, _) => {}
        }
        if called && !KEYWORDS.contains(&word) {
            outline.calls.push((word, place));
        }
    }
    outline.too_deep = words.too_deep;
    outline.too_long = words.too_long;
    outline
}

/// Whether what stands between two names lets a declaration by `some` or `every` go on: the space
/// after the keyword itself, or a comma, colon or bracket of a list or pattern.
fn goes_on(between: &str) -> bool {
    between.trim().is_empty() && !between.contains('\n') || between.contains([',', ':', '[', '{'])
}

/// Dotted names in the order of the text.
struct Words<'a> {
    source: &'a str,
    at: usize,
    line: u32,
    /// A byte of the present line, and its column: places are asked for in their order.
    known: (usize, usize),
    depth: usize,
    /// How many of the brackets around are those of arrays, sets and objects.
    values: usize,
    /// The expression at hand, and those around it.
    chains: Vec<Chain>,
    too_deep: Option<Place>,
    too_long: Option<Place>,
}

/// An expression, as far as it was read.
#[derive(Default)]
struct Chain {
    /// Its operators, dots and brackets.
    links: usize,
    /// The most links of an expression within it.
    within: usize,
    /// The most of an expression that stood before it in the same brackets.
    before: usize,
    /// Whether it could end here: another operand would begin another expression.
    is_whole: bool,
    /// Whether it stands in the brackets of an array, a set or an object.
    is_in_value: bool,
}

impl Chain {
    const fn deepest(&self) -> usize {
        self.links + self.within
    }

    fn begin_next(&mut self) {
        let before = self.before.max(self.deepest());
        *self = Self { before, is_in_value: self.is_in_value, ..Self::default() };
    }
}

impl<'a> Words<'a> {
    fn new(source: &'a str) -> Self {
        Self {
            source,
            at: 0,
            line: 1,
            known: (0, 1),
            depth: 0,
            values: 0,
            chains: vec![Chain::default()],
            too_deep: None,
            too_long: None,
        }
    }

    /// The next name, its place, and whether a parenthesis follows it at once.
    fn next(&mut self) -> Option<(&'a str, Place, bool)> {
        let bytes = self.source.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'#' => self.skip_until(b'\n', false),
                b'"' => {
                    self.operand(0);
                    self.skip_string(b'"', true);
                }
                b'`' => {
                    self.operand(0);
                    self.skip_string(b'`', false);
                }
                b'0'..=b'9' => {
                    self.operand(0);
                    self.skip_number();
                }
                _ if is_name(byte) => return Some(self.name()),
                _ => {
                    self.count(byte);
                    self.step();
                }
            }
        }
        None
    }

    fn count(&mut self, byte: u8) {
        match byte {
            b'(' | b'[' | b'{' => {
                self.depth += 1;
                // Behind an operand it is an index, a call or a body.
                let is_behind = self.chains.last().is_some_and(|chain| chain.is_whole);
                let is_in_value = byte != b'(' && !is_behind;
                if self.depth <= DEEPEST {
                    self.values += usize::from(is_in_value);
                    self.chains.push(Chain { is_in_value, ..Chain::default() });
                }
            }
            b')' | b']' | b'}' => {
                self.depth = self.depth.saturating_sub(1);
                if self.chains.len() > self.depth + 1
                    && let Some(inner) = self.chains.pop()
                {
                    self.values -= usize::from(inner.is_in_value);
                    let inner = inner.before.max(inner.deepest());
                    self.link(|chain| {
                        chain.within = chain.within.max(inner);
                        chain.is_whole = true;
                    });
                }
            }
            b'.' | b'+' | b'-' | b'*' | b'/' | b'%' | b'|' | b'&' | b'=' | b'!' | b'<' | b'>' => {
                self.link(|chain| chain.is_whole = false);
            }
            b',' | b';' | b':' => {
                if let Some(chain) = self.chains.last_mut() {
                    chain.begin_next();
                }
            }
            _ => {}
        }
        let is_too_deep = self.depth > DEEPEST || self.values > DEEPEST_VALUE;
        if is_too_deep && self.too_deep.is_none() {
            self.too_deep = Some(self.place(self.at));
        }
    }

    /// The expression at hand goes on by one link.
    fn link(&mut self, change: impl FnOnce(&mut Chain)) {
        let Some(chain) = self.chains.last_mut() else { return };
        chain.links += 1;
        change(chain);
        if chain.deepest() > MOST_LINKS && self.too_long.is_none() {
            self.too_long = Some(self.place(self.at));
        }
    }

    /// A name or a value, with so many dots in it.
    fn operand(&mut self, dots: usize) {
        if let Some(chain) = self.chains.last_mut() {
            if chain.is_whole {
                chain.begin_next();
            }
            chain.is_whole = true;
        }
        for _ in 0..dots {
            self.link(|_| ());
        }
    }

    fn place(&mut self, at: usize) -> Place {
        let (from, column) = self.known;
        let column = column + self.source.get(from..at).map_or(0, |more| more.chars().count());
        self.known = (at, column);
        Place { line: self.line, column: u32::try_from(column).unwrap_or(u32::MAX) }
    }

    fn step(&mut self) {
        if self.source.as_bytes().get(self.at) == Some(&b'\n') {
            self.line += 1;
            self.known = (self.at + 1, 1);
        }
        self.at += 1;
    }

    fn skip_until(&mut self, end: u8, escapes: bool) {
        while let Some(&byte) = self.source.as_bytes().get(self.at) {
            if byte == end || (escapes && byte == b'\n') {
                return;
            }
            self.step();
            if escapes && byte == b'\\' && self.at < self.source.len() {
                self.step();
            }
        }
    }

    fn skip_string(&mut self, quote: u8, escapes: bool) {
        self.step();
        self.skip_until(quote, escapes);
        if self.at < self.source.len() {
            self.step();
        }
    }

    fn skip_number(&mut self) {
        while self.source.as_bytes().get(self.at).is_some_and(u8::is_ascii_alphanumeric) {
            self.at += 1;
        }
    }

    fn name(&mut self) -> (&'a str, Place, bool) {
        let (bytes, start) = (self.source.as_bytes(), self.at);
        while let Some(&byte) = bytes.get(self.at) {
            let goes_on = byte == b'.' && bytes.get(self.at + 1).is_some_and(|&next| is_name(next));
            if !goes_on && !is_name(byte) && !byte.is_ascii_digit() {
                break;
            }
            self.at += 1;
        }
        let (word, place) = (&self.source[start..self.at], self.place(start));
        if word == "in" {
            self.link(|chain| chain.is_whole = false);
        } else {
            self.operand(word.matches('.').count());
        }
        (word, place, bytes.get(self.at) == Some(&b'('))
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(source: &str) -> Vec<(&str, u32, u32)> {
        outline(source).calls.iter().map(|(name, at)| (*name, at.line, at.column)).collect()
    }

    #[test]
    fn calls_are_found_with_their_place() {
        let source = "deny[m] {\n  x := http.send({\"a\": 1}); f(x)\n  not g.h(1)\n}";
        assert_eq!(calls(source), [("http.send", 2, 8), ("f", 2, 29), ("g.h", 3, 7)]);
    }

    #[test]
    fn strings_comments_and_keywords_hold_no_calls() {
        let source = "# exec(1)\nx = \"exec(\\\"1\\\") exec(\" \ny = `exec(\n\"`\nz = 1 if (x)\nw { not (y) }\nokay(1)";
        assert_eq!(calls(source), [("okay", 7, 1)]);
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(calls("x = \"żółć\"; f(1)"), [("f", 1, 13)]);
    }

    #[test]
    fn an_import_introduces_its_last_part_or_its_new_name() {
        let names =
            outline("import data.lib.a\nimport input.run as r\nimport future.keywords.in\nx = 1")
                .imports;
        assert!(names.contains("a") && names.contains("r"), "{names:?}");
    }

    #[test]
    fn some_and_every_introduce_names() {
        let locals = |source| outline(source).locals.into_keys().collect::<Vec<_>>();
        assert_eq!(locals("a { some run\n commit }"), ["run"]);
        assert_eq!(locals("a { some i, stack in x; run }"), ["i", "stack"]);
        assert_eq!(locals("a { some [i, {\"k\": stack}] in run }"), ["i", "stack"]);
        assert_eq!(locals("a { every run in x { commit } }"), ["run"]);
        assert_eq!(locals("a { some i; f(run, stack) }"), ["i"]);
    }

    #[test]
    fn the_version_shows_in_its_words() {
        assert!(outline("deny contains m if { m := 1 }").looks_like_v1);
        assert!(outline("import rego.v1\n").looks_like_v1);
        assert!(!outline("import future.keywords\ndeny contains m if { m := 1 }").looks_like_v1);
        assert!(
            outline("import future.keywords.in\ndeny contains 1 if { 1 in [1] }").looks_like_v1
        );
        assert!(!outline("deny[m] { contains(m, \"if\"); contains (m, \"if\") }").looks_like_v1);
    }

    #[test]
    fn only_the_brackets_of_values_count_as_such() {
        let is_deep = |source: &str| outline(source).too_deep.is_some();
        let nested = |open: &str, close: &str, depth: usize| {
            format!("x = {}1{}", open.repeat(depth), close.repeat(depth))
        };
        for (open, close) in [("[", "]"), ("{", "}"), ("{\"a\": ", "}"), ("[1, ", "]")] {
            assert!(!is_deep(&nested(open, close, DEEPEST_VALUE)), "{open}");
            assert!(is_deep(&nested(open, close, DEEPEST_VALUE + 1)), "{open}");
            assert!(!is_deep(&format!("[{}]", nested(open, close, 9)).repeat(20)), "{open}");
        }
        for (open, close) in [("(", ")"), ("f(", ")"), ("a[", "]"), ("every x in y {", "}")] {
            assert!(!is_deep(&nested(open, close, DEEPEST)), "{open}");
            assert!(is_deep(&nested(open, close, DEEPEST + 1)), "{open}");
        }
    }

    #[test]
    fn links_are_counted_for_each_expression_with_all_that_it_holds() {
        let is_long = |source: &str| outline(source).too_long.is_some();
        let sum = |links: usize| format!("1{}", " + 1".repeat(links));
        assert!(!is_long(&sum(MOST_LINKS)) && is_long(&sum(MOST_LINKS + 1)));
        for apart in [", ", "; ", "\n", "\nnot ", "\nsome x\n"] {
            assert!(!is_long(&format!("{0}{apart}{0}", sum(MOST_LINKS))), "{apart:?}");
        }
        for joined in [" +\n", "\n+ ", " # x\n| ", " in ", "."] {
            assert!(is_long(&format!("{0}{joined}{0}", sum(MOST_LINKS))), "{joined:?}");
        }
        // The bracket is a link of its own, and its longest expression counts, wherever it stands.
        let within = |outer: usize| format!("[1, {}, 2]{}", sum(99), "[0]".repeat(outer));
        assert!(!is_long(&within(MOST_LINKS - 100)) && is_long(&within(MOST_LINKS - 99)));
        assert!(is_long(&"a.".repeat(MOST_LINKS + 2)));
        assert!(!is_long(&")".repeat(2000)) && !is_long(&"a = 1\n".repeat(2000)));
    }

    #[test]
    fn text_that_ends_anywhere_is_read_to_its_end() {
        let source = "import a.b as c\ndeny[\"x\\\"y\"] { f(`z`) # e\n}";
        for end in 0..=source.len() {
            let _ = outline(&source[..end]);
        }
    }
}
