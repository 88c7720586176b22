//! Every form in which a secret is looked for. A new form is one line in [`of`].

use zeroize::Zeroizing;

use super::secrets::{LONGEST, SHORTEST, Secrets};

/// One byte string to be looked for.
pub(super) type Pattern = Zeroizing<Vec<u8>>;

/// The forms of all secrets, each once, none shorter than [`SHORTEST`] or longer than [`LONGEST`].
pub(super) fn all(secrets: &Secrets) -> Vec<Pattern> {
    let mut patterns: Vec<Pattern> = secrets.values().flat_map(of).collect();
    // The CRLF form of a value near the limit may exceed it; its lines are patterns all the same.
    patterns.retain(|pattern| (SHORTEST..=LONGEST).contains(&pattern.len()));
    patterns.sort_unstable_by(|a, b| a.as_slice().cmp(b.as_slice()));
    patterns.dedup_by(|a, b| a.as_slice() == b.as_slice());
    patterns
}

fn of(value: &[u8]) -> Vec<Pattern> {
    let mut forms = vec![Zeroizing::new(value.to_vec())];
    if value.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        let unix = with_line_ends(value, b"\n");
        forms.extend(lines(&unix));
        forms.push(with_line_ends(&unix, b"\r\n"));
        forms.push(unix);
    }
    forms
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

/// Each line on its own, without its indentation: tools print blocks indented anew.
fn lines(value: &[u8]) -> impl Iterator<Item = Pattern> {
    value
        .split(|&byte| matches!(byte, b'\n' | b'\r'))
        .map(|line| Zeroizing::new(line.trim_ascii().to_vec()))
}
