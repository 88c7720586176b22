//! Finds every occurrence of every pattern.
//!
//! An Aho-Corasick automaton is exact but looks at each byte in turn. Before it stands a filter: a
//! bit set of the four-byte pieces that stand at the first `step` places of the patterns. With `step`
//! no larger than lets every pattern have that many pieces, any occurrence that begins at `s` shows
//! one of them at whichever of `s .. s + step` is looked at, so looking at every `step`-th place
//! misses none. Only around a place that shows one does the automaton walk.

use daachorse::DoubleArrayAhoCorasick;

use super::forms::Pattern;
use super::secrets::SHORTEST;

/// The bytes of a piece. No pattern is shorter.
const PIECE: usize = SHORTEST;
/// A longer stride gains nothing: more pieces are in the set, and more text is walked in vain.
const LONGEST_STEP: usize = 8;

pub(super) struct Scanner {
    walk: Option<(DoubleArrayAhoCorasick<u32>, Filter)>,
}

impl Scanner {
    pub(super) fn new(patterns: &[Pattern]) -> Self {
        let Some(shortest) = patterns.iter().map(|pattern| pattern.len()).min() else {
            return Self { walk: None };
        };
        let mut automaton =
            DoubleArrayAhoCorasick::new(patterns.iter().map(|pattern| pattern.as_slice()))
                .expect("the set of secrets is bounded far below what the automaton can number");
        automaton.cache_depths().expect("an automaton that was just built is valid");
        Self { walk: Some((automaton, Filter::new(patterns, shortest))) }
    }

    /// Reports the longest occurrence that ends at each place of `bytes` and begins at `from` or
    /// after it, in the order of their ends; an occurrence may be reported twice. Returns the first
    /// place where one that ends beyond `bytes` may begin.
    pub(super) fn scan(
        &self,
        bytes: &[u8],
        from: usize,
        mut found: impl FnMut(usize, usize),
    ) -> usize {
        let Some((automaton, filter)) = &self.walk else { return bytes.len() };
        let mut from = from;
        'filter: loop {
            let (begin, suspect) = filter.next(bytes, from);
            let mut stepper = automaton.find_overlapping_stepper();
            let mut depth = 0;
            for (place, &byte) in bytes.iter().enumerate().skip(begin) {
                stepper.consume(byte);
                // The first match is the longest, and it covers the others that end here.
                if let Some(hit) = stepper.matches().next() {
                    found(begin + hit.start(), begin + hit.end());
                }
                depth = stepper.depth().map_or(usize::MAX, |depth| depth as usize);
                // Back to the filter once nothing that it pointed to is alive. Not from a deep state:
                // the filter would only send us back over the same bytes.
                if depth < PIECE && suspect.is_some_and(|suspect| place + 1 - depth > suspect) {
                    from = place + 1 - depth;
                    continue 'filter;
                }
            }
            return bytes.len() - depth;
        }
    }
}

/// A bit set of hashed pieces.
struct Filter {
    bits: Vec<u64>,
    shift: u32,
    step: usize,
}

impl Filter {
    fn new(patterns: &[Pattern], shortest: usize) -> Self {
        let step = (shortest + 1 - PIECE).clamp(1, LONGEST_STEP);
        // Of 32 places one is taken, as far as 128 KiB suffice.
        let width = (patterns.len() * step * 32).next_power_of_two().ilog2().clamp(12, 20);
        let mut filter = Self { bits: vec![0; 1 << (width - 6)], shift: 32 - width, step };
        for pattern in patterns {
            for piece in pattern.windows(PIECE).take(step) {
                let slot = filter.slot(piece);
                filter.bits[slot / 64] |= 1 << (slot % 64);
            }
        }
        filter
    }

    fn slot(&self, piece: &[u8]) -> usize {
        let piece = u32::from_le_bytes([piece[0], piece[1], piece[2], piece[3]]);
        (piece.wrapping_mul(0x9E37_79B1) >> self.shift) as usize
    }

    /// Where the automaton must begin to walk so that it misses nothing that begins at `from` or
    /// after, and which place made it so; none if the rest is too short to be looked at.
    fn next(&self, bytes: &[u8], from: usize) -> (usize, Option<usize>) {
        let mut place = from;
        while let Some(piece) = bytes.get(place..place + PIECE) {
            let slot = self.slot(piece);
            if self.bits[slot / 64] >> (slot % 64) & 1 == 1 {
                return (from.max((place + 1).saturating_sub(self.step)), Some(place));
            }
            place += self.step;
        }
        (from.max((place + 1).saturating_sub(self.step)).min(bytes.len()), None)
    }
}
