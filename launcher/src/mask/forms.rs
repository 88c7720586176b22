//! Every form in which a secret is looked for: as it is, in its parts, and as programs spell these.
//!
//! A new part is one line in [`parts`], a new spelling one in [`spelled`].

use zeroize::Zeroizing;

use super::leaves;
use super::secrets::{LONGEST, SHORTEST, Secrets};
use gantry_protocol::check_maskable;

/// One byte string to be looked for.
pub(super) type Pattern = Zeroizing<Vec<u8>>;

/// What is spelled twice over, as JSON within JSON: longer values only once.
const LONGEST_NESTED: usize = 8 * 1024;

/// The forms of all secrets, each once, none shorter than [`SHORTEST`] or longer than [`LONGEST`].
pub(super) fn all(secrets: &Secrets) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    for value in secrets.values() {
        for part in parts(value) {
            for form in spelled(&part) {
                patterns.extend(pieces(&form));
            }
        }
    }
    patterns.retain(|pattern| pattern.len() >= SHORTEST);
    patterns.sort_unstable_by(|a, b| a.as_slice().cmp(b.as_slice()));
    patterns.dedup_by(|a, b| a.as_slice() == b.as_slice());
    patterns
}

/// The value, and what of it is told on its own. Of the latter only what can be masked without hiding
/// ordinary text.
fn parts(value: &[u8]) -> Vec<Pattern> {
    let mut parts = Vec::new();
    // Programs trim what they read.
    parts.push(copy(value.trim_ascii()));
    parts.extend(leaves::of(value));
    let leaves = parts.len();
    for at in 0..leaves {
        let lines = lines(&parts[at]);
        parts.extend(lines);
    }
    parts.retain(|part| check_maskable(part).is_ok());
    let mut whole = vec![copy(value)];
    if value.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        let unix = with_line_ends(value, b"\n");
        whole.push(with_line_ends(&unix, b"\r\n"));
        whole.push(unix);
    }
    whole.append(&mut parts);
    whole
}

/// A part as it is, and as tools print it: in a quoted string, as JSON, in a template,
/// and one within the other.
fn spelled(part: &[u8]) -> Vec<Pattern> {
    let mut forms = vec![copy(part)];
    add(&mut forms, in_template(part));
    let levels = if part.len() <= LONGEST_NESTED { 2 } else { 1 };
    let mut from = 0;
    for _ in 0..levels {
        let to = forms.len();
        for at in from..to {
            let [quoted, json, html_safe] =
                [in_quotes(&forms[at]), in_json(&forms[at], false), in_json(&forms[at], true)];
            for form in [quoted, json, html_safe] {
                add(&mut forms, form);
            }
        }
        from = to;
    }
    forms
}

fn add(forms: &mut Vec<Pattern>, form: Pattern) {
    if forms.iter().all(|known| known.as_slice() != form.as_slice()) {
        forms.push(form);
    }
}

/// A form that is longer than what is looked for as one: pieces that leave out nothing.
fn pieces(form: &[u8]) -> Vec<Pattern> {
    let starts = (0..form.len().saturating_sub(LONGEST)).step_by(LONGEST);
    let mut pieces: Vec<Pattern> = starts.map(|at| copy(&form[at..at + LONGEST])).collect();
    pieces.push(copy(&form[form.len().saturating_sub(LONGEST)..]));
    pieces
}

fn copy(bytes: &[u8]) -> Pattern {
    Zeroizing::new(bytes.to_vec())
}

/// The value with every LF or CRLF replaced by `end`: terminals and Windows tools change them.
fn with_line_ends(value: &[u8], end: &[u8]) -> Pattern {
    let mut changed = Zeroizing::new(Vec::with_capacity(value.len() * 2));
    for (number, line) in value.split(|&byte| byte == b'\n').enumerate() {
        if number > 0 {
            if changed.last() == Some(&b'\r') {
                changed.pop();
            }
            changed.extend_from_slice(end);
        }
        changed.extend_from_slice(line);
    }
    changed
}

/// Each line on its own, without its indentation: tools print blocks indented anew. None of a value of
/// one line.
fn lines(value: &[u8]) -> Vec<Pattern> {
    let lines: Vec<&[u8]> = value.split(|&byte| matches!(byte, b'\n' | b'\r')).collect();
    if lines.len() == 1 {
        return Vec::new();
    }
    lines.into_iter().map(|line| copy(line.trim_ascii())).collect()
}

/// As it stands in a template: `${` and `%{` would begin something there.
fn in_template(part: &[u8]) -> Pattern {
    let mut spelled = with_room(part);
    for (at, &byte) in part.iter().enumerate() {
        if matches!(byte, b'$' | b'%') && part.get(at + 1) == Some(&b'{') {
            spelled.push(byte);
        }
        spelled.push(byte);
    }
    spelled
}

/// As it stands in quotes in a plan.
fn in_quotes(part: &[u8]) -> Pattern {
    escaped(part, |byte, to| match byte {
        0x07 => to.extend_from_slice(b"\\a"),
        0x08 => to.extend_from_slice(b"\\b"),
        0x0b => to.extend_from_slice(b"\\v"),
        0x0c => to.extend_from_slice(b"\\f"),
        0..0x20 | 0x7f => to.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
        byte => to.push(byte),
    })
}

/// As it stands in JSON; `is_html_safe` as some tools write it, so that no HTML can end within it.
fn in_json(part: &[u8], is_html_safe: bool) -> Pattern {
    escaped(part, |byte, to| match byte {
        0x08 => to.extend_from_slice(b"\\b"),
        0x0c => to.extend_from_slice(b"\\f"),
        b'<' | b'>' | b'&' if is_html_safe => {
            to.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        }
        0..0x20 => to.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        byte => to.push(byte),
    })
}

/// With escapes that all have, and `rest` for the others.
fn escaped(part: &[u8], rest: impl Fn(u8, &mut Vec<u8>)) -> Pattern {
    let mut spelled = with_room(part);
    for &byte in part {
        match byte {
            b'"' => spelled.extend_from_slice(b"\\\""),
            b'\\' => spelled.extend_from_slice(b"\\\\"),
            b'\n' => spelled.extend_from_slice(b"\\n"),
            b'\r' => spelled.extend_from_slice(b"\\r"),
            b'\t' => spelled.extend_from_slice(b"\\t"),
            byte => rest(byte, &mut spelled),
        }
    }
    spelled
}

/// Empty, with room for all that may come: a buffer that grows leaves copies behind.
fn with_room(part: &[u8]) -> Pattern {
    Zeroizing::new(Vec::with_capacity(part.len() * 6))
}
