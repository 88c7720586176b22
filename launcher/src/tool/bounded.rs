//! JSON from a container, on its way to a parser that would keep a string or a nesting of any size.

use std::io::{self, Read};

/// The longest string that is passed on, in bytes.
pub(super) const MAX_STRING: usize = 32 << 20;
/// The deepest nesting that is passed on.
const MAX_DEPTH: usize = 1000;

/// Passes on what another reader gives, and fails at what would take memory without end.
pub(super) struct Bounded<R> {
    inner: R,
    depth: usize,
    /// The length of the string that is being read, if one is.
    string: Option<usize>,
    is_escaped: bool,
}

impl<R> Bounded<R> {
    pub(super) const fn new(inner: R) -> Self {
        Self { inner, depth: 0, string: None, is_escaped: false }
    }

    fn take(&mut self, byte: u8) -> bool {
        match (&mut self.string, byte) {
            (Some(_), _) if self.is_escaped => self.is_escaped = false,
            (Some(_), b'\\') => self.is_escaped = true,
            (Some(_), b'"') => self.string = None,
            (Some(length), _) => {
                *length += 1;
                return *length <= MAX_STRING;
            }
            (None, b'"') => self.string = Some(0),
            (None, b'[' | b'{') => {
                self.depth += 1;
                return self.depth <= MAX_DEPTH;
            }
            (None, b']' | b'}') => self.depth = self.depth.saturating_sub(1),
            (None, _) => {}
        }
        true
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if buffer[..read].iter().all(|byte| self.take(*byte)) {
            Ok(read)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a string or a nesting in it has no end",
            ))
        }
    }
}
