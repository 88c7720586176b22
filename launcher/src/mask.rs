//! Keeps secrets out of everything that leaves the host.
//!
//! A [`Masker`] stands between the spool and all that reads a log. It replaces every occurrence of
//! every secret in a byte stream by [`MASK`], however the stream is cut into pieces: overlapping
//! occurrences become one mask together, occurrences that only touch become one each. The result
//! depends on the bytes alone, never on where one piece ended and the next began.
//!
//! What always holds: a byte given out is final, and a fresh masker that starts at the resume point
//! (bytes taken in, less [`Masker::held`]) gives out exactly what this one would have given out from
//! there. So a launcher that dies resumes from the spool without a lost, doubled or unmasked byte.
//!
//! Cost does not grow with the number of secrets: [`scan`](self) walks one automaton over the text,
//! and steps over whatever cannot begin a secret without walking at all.

mod forms;
mod leaves;
mod scan;
mod secrets;
mod whole;

use std::fmt;

use zeroize::Zeroizing;

use scan::Scanner;
pub use secrets::{LONGEST, Refusal, RefusalReason, SHORTEST, Secrets, TOTAL};

/// What stands in the log where one secret, or several overlapping ones, stood.
pub const MASK: &[u8] = b"*****";

/// How much is looked at in one go, so that a large write needs no buffer of its size.
const STRIDE: usize = 64 * 1024;

/// Masks one stream: the output of one phase after the other.
pub struct Masker {
    secrets: Secrets,
    scanner: Scanner,
    /// The bytes taken in but not yet decided, less the `dropped` ones before them.
    kept: Zeroizing<Vec<u8>>,
    /// How many undecided bytes stood before `kept`. They are all inside the open union.
    dropped: usize,
    /// The end, within `kept`, of the union that begins at the first undecided byte; 0 if none does.
    open: usize,
    /// The place within `kept` before which no further occurrence can begin.
    live: usize,
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masker")
            .field("secrets", &self.secrets)
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}

impl Masker {
    /// A masker at the begin of a stream, or at the resume point of an earlier one.
    #[must_use]
    pub fn new(secrets: &Secrets) -> Self {
        Self {
            secrets: secrets.clone(),
            scanner: Scanner::new(&forms::all(secrets)),
            kept: Zeroizing::default(),
            dropped: 0,
            open: 0,
            live: 0,
        }
    }

    /// Masks one secret more, in everything that has not been given out yet.
    ///
    /// # Errors
    ///
    /// Refuses a value that [`Secrets::insert`] refuses; the masker goes on as before.
    pub fn add(&mut self, name: &str, value: &[u8]) -> Result<(), Refusal> {
        self.secrets.insert(name, value)?;
        self.scanner = Scanner::new(&forms::all(&self.secrets));
        // The undecided bytes may hold, or end in the begin of, the new value.
        self.live = 0;
        Ok(())
    }

    /// Takes in the next piece of the stream and appends to `out` what is decided by it.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        for piece in input.chunks(STRIDE) {
            if self.held() == 0 {
                let left = self.decide(piece, out, false);
                self.kept.extend_from_slice(&piece[left..]);
            } else {
                let mut bytes = std::mem::take(&mut self.kept);
                bytes.extend_from_slice(piece);
                let left = self.decide(&bytes, out, false);
                bytes.drain(..left);
                self.kept = bytes;
            }
            self.forget_inside_of_open();
        }
    }

    /// Ends the stream here, as at the end of a phase: appends to `out` all that was held, and is
    /// fresh afterwards.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let bytes = std::mem::take(&mut self.kept);
        let left = self.decide(&bytes, out, true);
        debug_assert_eq!(left, bytes.len(), "an ended stream leaves nothing undecided");
        self.dropped = 0;
    }

    /// How many of the bytes taken in are not decided yet.
    ///
    /// Rises while the stream is inside something that is, or may become, a secret. The resume point
    /// in the spool is the number of bytes taken in less this.
    #[must_use]
    pub fn held(&self) -> usize {
        self.dropped + self.kept.len()
    }

    /// Gives out what is decided in `bytes`, which begin as `kept` does; returns where the
    /// undecided part begins. `open` and `live` count from there afterwards.
    fn decide(&mut self, bytes: &[u8], out: &mut Vec<u8>, ended: bool) -> usize {
        let mut unions = Unions::begin(self.open);
        let mut live = self.scanner.scan(bytes, self.live, |start, end| unions.add(start, end));
        if ended {
            live = bytes.len();
        }
        let mut copied = 0;
        for &(start, end) in &unions.list {
            if start >= live {
                break; // Found again when the rest of it, if any, is there.
            }
            out.extend_from_slice(&bytes[copied..start]);
            if end > live {
                // A later occurrence may reach into it, and one mask stands for both.
                self.open = end - start;
                self.live = live - start;
                return start;
            }
            out.extend_from_slice(MASK);
            self.dropped = 0;
            copied = end;
        }
        out.extend_from_slice(&bytes[copied..live]);
        self.open = 0;
        self.live = 0;
        live
    }

    /// Bounds what an endless union costs: a secret of repeated bytes in an endless repetition. No
    /// secret that is added later can reach across [`LONGEST`] bytes.
    fn forget_inside_of_open(&mut self) {
        if self.live > 2 * LONGEST {
            let surplus = self.live - LONGEST;
            self.kept.drain(..surplus);
            self.dropped += surplus;
            self.open -= surplus;
            self.live -= surplus;
        }
    }
}

/// Occurrences, merged where they overlap, in the order of the text.
struct Unions {
    list: Vec<(usize, usize)>,
}

impl Unions {
    fn begin(open: usize) -> Self {
        Self { list: if open > 0 { vec![(0, open)] } else { Vec::new() } }
    }

    /// Occurrences arrive in the order of their ends, but a longer one may begin before several
    /// that were found earlier.
    fn add(&mut self, mut start: usize, mut end: usize) {
        while let Some(&(first, last)) = self.list.last()
            && last > start
        {
            start = start.min(first);
            end = end.max(last);
            self.list.pop();
        }
        self.list.push((start, end));
    }
}
