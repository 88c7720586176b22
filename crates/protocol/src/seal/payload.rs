//! The payload of a sealed thing: 16 random bytes, then chunks of 64 KiB, each encrypted by itself.
//!
//! A chunk's nonce is its number and whether it is the last, so that none can be moved, dropped or
//! added. Only the last may be short, and it is empty only when the whole is.

use std::fmt;
use std::io::{self, Write};

use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use openssl::rand::rand_bytes;
use zeroize::Zeroizing;

use super::kdf::{FileKey, Key, NONCE};
use super::{Header, SealError};
use crate::digest::Digester;
use crate::{CryptoError, Digest};

/// How many bytes one chunk holds.
pub(super) const CHUNK: usize = 64 * 1024;
/// How many bytes authenticate a chunk.
pub(super) const TAG: usize = 16;

/// How many bytes the payload of `plain` bytes has.
pub(super) const fn sealed_len(plain: usize) -> usize {
    let chunks = if plain == 0 { 1 } else { plain.div_ceil(CHUNK) };
    NONCE + plain + chunks * TAG
}

/// ChaCha20-Poly1305 with one key and a nonce that counts.
pub(super) struct Chunks {
    context: CipherCtx,
    number: u64,
}

impl Chunks {
    pub(super) fn encrypt(key: &Key) -> Result<Self, ErrorStack> {
        let mut context = CipherCtx::new()?;
        context.encrypt_init(Some(Cipher::chacha20_poly1305()), Some(key.as_slice()), None)?;
        Ok(Self { context, number: 0 })
    }

    pub(super) fn decrypt(key: &Key) -> Result<Self, ErrorStack> {
        let mut context = CipherCtx::new()?;
        context.decrypt_init(Some(Cipher::chacha20_poly1305()), Some(key.as_slice()), None)?;
        Ok(Self { context, number: 0 })
    }

    /// Eleven bytes of number and one that says whether the chunk is the last.
    fn nonce(&mut self, is_last: bool) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.number.to_be_bytes());
        nonce[11] = u8::from(is_last);
        self.number += 1;
        nonce
    }

    /// Encrypts `chunk` in place and answers its tag.
    fn seal(&mut self, chunk: &mut [u8], is_last: bool) -> Result<[u8; TAG], ErrorStack> {
        let nonce = self.nonce(is_last);
        self.context.encrypt_init(None, None, Some(&nonce))?;
        let len = chunk.len();
        if len > 0 {
            self.context.cipher_update_inplace(chunk, len)?;
        }
        self.context.cipher_final(&mut [0; 32])?;
        let mut tag = [0; TAG];
        self.context.tag(&mut tag)?;
        Ok(tag)
    }

    /// Decrypts `chunk` in place. Its content means nothing unless this succeeds.
    pub(super) fn open(
        &mut self,
        chunk: &mut [u8],
        tag: &[u8],
        is_last: bool,
    ) -> Result<(), ErrorStack> {
        let nonce = self.nonce(is_last);
        self.context.decrypt_init(None, None, Some(&nonce))?;
        self.context.set_tag(tag)?;
        let len = chunk.len();
        if len > 0 {
            self.context.cipher_update_inplace(chunk, len)?;
        }
        self.context.cipher_final(&mut [0; 32]).map(drop)
    }
}

/// What came of sealing something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Who can open it; not part of what was written.
    pub header: Header,
    /// The digest of the payload as it was written, encrypted.
    pub payload_sha256: Digest,
    /// How many bytes were written.
    pub payload_len: u64,
}

/// Encrypts what is written to it, in constant memory.
///
/// Flushing cannot bring out what does not fill a chunk; [`Sealer::finish`] does. After an error
/// nothing can be written any more.
pub struct Sealer<W> {
    payload: W,
    header: Header,
    chunks: Chunks,
    /// What waits to become a chunk: the last one is known as such only at the end.
    waiting: Zeroizing<Vec<u8>>,
    written: Digester,
    is_broken: bool,
}

impl<W: Write> Sealer<W> {
    pub(super) fn start(key: &FileKey, header: Header, payload: W) -> Result<Self, SealError> {
        let mut nonce = [0; NONCE];
        rand_bytes(&mut nonce).map_err(CryptoError::from)?;
        let payload_key = key.payload_key(&nonce).map_err(CryptoError::from)?;
        let chunks = Chunks::encrypt(&payload_key).map_err(CryptoError::from)?;
        let waiting = Zeroizing::new(Vec::with_capacity(CHUNK + TAG));
        let written = Digester::new();
        let mut sealer = Self { payload, header, chunks, waiting, written, is_broken: false };
        sealer.put(&nonce)?;
        Ok(sealer)
    }

    /// Writes the last chunk and says what the payload is. What it was written to is flushed, but
    /// not made durable.
    ///
    /// # Errors
    /// When the payload cannot be written, or could not be before.
    pub fn finish(mut self) -> io::Result<Sealed> {
        self.put_chunk(true)?;
        self.payload.flush()?;
        Ok(Sealed {
            header: self.header,
            payload_sha256: self.written.digest(),
            payload_len: self.written.len(),
        })
    }

    fn put_chunk(&mut self, is_last: bool) -> io::Result<()> {
        if self.is_broken {
            return Err(io::Error::other("the sealed payload failed before: start it again"));
        }
        self.is_broken = true;
        let mut chunk = Zeroizing::new(std::mem::take(&mut *self.waiting));
        let tag = self.chunks.seal(&mut chunk, is_last).map_err(CryptoError::from);
        let tag = tag.map_err(io::Error::other)?;
        chunk.extend_from_slice(&tag);
        self.put(&chunk)?;
        chunk.clear();
        *self.waiting = std::mem::take(&mut *chunk);
        self.is_broken = false;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.payload.write_all(bytes)?;
        self.written.update(bytes);
        Ok(())
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.waiting.len() == CHUNK || self.is_broken {
            self.put_chunk(false)?;
        }
        let taken = bytes.len().min(CHUNK - self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.payload.flush()
    }
}

impl<W> fmt::Debug for Sealer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("header", &self.header).finish_non_exhaustive()
    }
}
