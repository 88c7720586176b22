//! Opens a sealed payload, in constant memory.

use std::fmt;
use std::io::{self, Read};

use zeroize::{Zeroize as _, Zeroizing};

use super::MAX_BYTES;
use super::kdf::{FileKey, NONCE};
use super::payload::{CHUNK, Chunks, TAG};
use super::stanza::Tag;
use crate::CryptoError;

/// A sealed thing could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is sealed to others.
    #[error(
        "it is sealed to {} and the keys at hand are {}: give the pool's former key or the recovery key",
        list(recipients),
        list(keys)
    )]
    NotARecipient {
        /// Whom the header names.
        recipients: Vec<Tag>,
        /// How it would name the keys.
        keys: Vec<Tag>,
    },
    /// The header is not as it was written.
    #[error("the sealed header was changed: do not use it, fetch it again or restore it")]
    HeaderChanged,
    /// The payload is not as it was written.
    #[error(
        "the sealed payload was changed or cut short: do not use it, fetch it again or restore it"
    )]
    PayloadChanged,
    /// Larger than what is opened in memory.
    #[error("{0} sealed bytes are more than {MAX_BYTES} make: stream them")]
    TooLong(usize),
    /// The payload cannot be read.
    #[error("the sealed payload cannot be read")]
    Io(#[source] io::Error),
    /// OpenSSL failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl OpenError {
    /// What [`Opener`] answered as an I/O error.
    #[must_use]
    pub fn from_io(error: io::Error) -> Self {
        match error.get_ref() {
            Some(inner) if inner.is::<Changed>() => Self::PayloadChanged,
            Some(_) | None => Self::Io(error),
        }
    }
}

fn list(tags: &[Tag]) -> String {
    let tags: Vec<String> = tags.iter().map(Tag::to_string).collect();
    if tags.is_empty() { "nobody".to_owned() } else { tags.join(", ") }
}

/// [`OpenError::PayloadChanged`] in the clothes of an I/O error.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("{}", OpenError::PayloadChanged)]
struct Changed;

fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Changed)
}

/// Decrypts what it reads. [`OpenError::from_io`] tells its own errors from those of what it reads.
///
/// No byte is given out whose chunk was not authenticated; after an error nothing is.
pub struct Opener<R> {
    payload: R,
    chunks: Chunks,
    /// A chunk, its tag, and the first byte of the next one, which tells that there is one.
    buffer: Zeroizing<Vec<u8>>,
    /// How much of `buffer` is opened, and how much of that was given out.
    opened: usize,
    given: usize,
    next: Option<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Later,
    Ended,
    Broken,
}

impl<R: Read> Opener<R> {
    pub(super) fn start(key: &FileKey, mut payload: R) -> Result<Self, OpenError> {
        let mut nonce = [0; NONCE];
        payload.read_exact(&mut nonce).map_err(|error| {
            let is_short = error.kind() == io::ErrorKind::UnexpectedEof;
            if is_short { OpenError::PayloadChanged } else { OpenError::Io(error) }
        })?;
        let payload_key = key.payload_key(&nonce).map_err(CryptoError::from)?;
        let chunks = Chunks::decrypt(&payload_key).map_err(CryptoError::from)?;
        let buffer = Zeroizing::new(vec![0; CHUNK + TAG + 1]);
        Ok(Self { payload, chunks, buffer, opened: 0, given: 0, next: None, state: State::First })
    }

    fn open_chunk(&mut self) -> io::Result<()> {
        let len = self.fill()?;
        let is_last = len <= CHUNK + TAG;
        self.next = (!is_last).then(|| self.buffer[CHUNK + TAG]);
        let plain = len.min(CHUNK + TAG).checked_sub(TAG).ok_or_else(changed)?;
        // An empty chunk at the end of a full one says nothing, and would be a second spelling.
        if plain == 0 && self.state != State::First {
            return Err(changed());
        }
        let (chunk, rest) = self.buffer.split_at_mut(plain);
        if self.chunks.open(chunk, &rest[..TAG], is_last).is_err() {
            chunk.zeroize();
            return Err(changed());
        }
        (self.opened, self.given) = (plain, 0);
        self.state = if is_last { State::Ended } else { State::Later };
        Ok(())
    }

    /// Reads until the buffer is full or the payload ends; answers how much is in it.
    fn fill(&mut self) -> io::Result<usize> {
        let mut len = 0;
        if let Some(byte) = self.next.take() {
            self.buffer[0] = byte;
            len = 1;
        }
        while len < self.buffer.len() {
            match self.payload.read(&mut self.buffer[len..]) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(len)
    }
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.given == self.opened && !into.is_empty() {
            match self.state {
                State::First | State::Later => {
                    if let Err(error) = self.open_chunk() {
                        (self.state, self.opened, self.given) = (State::Broken, 0, 0);
                        return Err(error);
                    }
                }
                State::Ended => {}
                State::Broken => return Err(changed()),
            }
        }
        let len = into.len().min(self.opened - self.given);
        into[..len].copy_from_slice(&self.buffer[self.given..self.given + len]);
        self.given += len;
        Ok(len)
    }
}

impl<R> fmt::Debug for Opener<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("state", &self.state).finish_non_exhaustive()
    }
}
