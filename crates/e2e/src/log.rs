//! What a log must be, worked out without the launcher's masker.

/// What stands in the place of a secret.
const MASK: &[u8] = b"*****";

/// `text` with every occurrence of `secret` masked. `secret` must not overlap with itself.
#[must_use]
pub fn mask(text: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut masked = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = find(rest, secret) {
        masked.extend_from_slice(&rest[..at]);
        masked.extend_from_slice(MASK);
        rest = &rest[at + secret.len()..];
    }
    masked.extend_from_slice(rest);
    masked
}

/// Where `part` begins in `text`.
#[must_use]
pub fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    assert!(!part.is_empty(), "nothing can be found everywhere");
    // The standard library's search is quick even where this crate is not optimised.
    match (std::str::from_utf8(text), std::str::from_utf8(part)) {
        (Ok(text), Ok(part)) => text.find(part),
        (Err(_), _) | (_, Err(_)) => text.windows(part.len()).position(|window| window == part),
    }
}

/// Holds a log against what its phases wrote, one after the other. Only the launcher's own lines, about image,
/// source, workspace and ending, may stand before, between and behind them; they are given back.
#[must_use]
pub fn stage_log(log: &[u8], phases: &[Vec<u8>]) -> Vec<String> {
    let mut own = Vec::new();
    let mut rest = log;
    for (index, phase) in phases.iter().enumerate() {
        assert!(!phase.is_empty(), "phase {index} wrote nothing");
        let Some(at) = find(rest, phase) else {
            panic!(
                "phase {index} is not in the log as it was written\n== written\n{}\n== log\n{}",
                String::from_utf8_lossy(phase),
                String::from_utf8_lossy(rest)
            );
        };
        own.extend(lines(&rest[..at]));
        rest = &rest[at + phase.len()..];
    }
    own.extend(lines(rest));
    own
}

fn lines(text: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(text).lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_masked_wherever_it_stands() {
        assert_eq!(mask(b"xhushhush!", b"hush"), b"x**********!");
        assert_eq!(mask(b"hus", b"hush"), b"hus");
    }

    #[test]
    fn a_log_is_its_phases_and_the_launchers_lines() {
        let phases = [b"one\n".to_vec(), b"two\n".to_vec()];
        assert_eq!(stage_log(b"source\none\ntwo\nstopped\n", &phases), ["source", "stopped"]);
    }
}
