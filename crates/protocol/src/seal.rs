//! Sealed files: age files whose recipients are RSA keys.
//!
//! A sealed thing has a [`Header`], which holds its file key once for each recipient, and a payload,
//! which is encrypted with the file key. They are kept apart, so that [`rewrap`] gives a thing to other
//! recipients without touching its payload. Header and payload one after the other are a file that the
//! stock `age -d -i pool.key` opens.
//!
//! Sealed is not authentic: whoever knows a public key can seal. What must come from the pool is
//! signed as well, see [`crate::Statement`].

mod header;
pub(crate) mod kdf;
mod open;
mod payload;
mod stanza;

use std::io::{self, BufRead, Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

pub use self::header::{Header, HeaderError, MAX_HEADER, MAX_RECIPIENTS};
pub use self::open::{OpenError, Opener};
pub use self::payload::{Sealed, Sealer};
pub use self::stanza::{Recipient, Tag};
use crate::{CryptoError, Digest, PoolKey};

/// The most bytes that [`seal_bytes`] and [`open_bytes`] take; larger things are streamed.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Something could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// There is nobody who could open it.
    #[error("there is nobody to seal to: name at least one recipient")]
    NoRecipients,
    /// More recipients than a header may have.
    #[error("{0} recipients are more than the {MAX_RECIPIENTS} that one header may have")]
    TooManyRecipients(usize),
    /// Larger than what is sealed in memory.
    #[error("{0} bytes are more than the {MAX_BYTES} that are sealed in memory: stream them")]
    TooLong(usize),
    /// The payload could not be written.
    #[error("the sealed payload could not be written")]
    Io(#[from] io::Error),
    /// OpenSSL failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// Starts a sealed payload, which goes to `payload` as it is written.
///
/// Only [`Sealer::finish`] makes it whole: what was dropped before is refused when opened.
///
/// # Errors
/// When the recipients are none or too many, or `payload` fails.
pub fn seal<W: Write>(recipients: &[Recipient], payload: W) -> Result<Sealer<W>, SealError> {
    let file_key = kdf::FileKey::generate()?;
    let header = Header::wrap(&file_key, recipients)?;
    Sealer::start(&file_key, header, payload)
}

/// Opens a sealed payload with the first of `identities` that is a recipient.
///
/// What is read from the answer is authentic chunk by chunk; that nothing is missing at the end is
/// known only when it answers its end.
///
/// # Errors
/// When none of the keys is a recipient, or header or payload were changed.
pub fn open<R: Read>(
    identities: &[&PoolKey],
    header: &Header,
    payload: R,
) -> Result<Opener<R>, OpenError> {
    Opener::start(&header.unwrap(identities)?, payload)
}

/// A header for the same payload and other recipients.
///
/// # Errors
/// When none of `identities` is a recipient, or the header was changed, or the recipients are none
/// or too many.
pub fn rewrap(
    header: &Header,
    identities: &[&PoolKey],
    recipients: &[Recipient],
) -> Result<Header, RewrapError> {
    Ok(Header::wrap(&header.unwrap(identities)?, recipients)?)
}

/// A header could not be made for other recipients.
#[derive(Debug, thiserror::Error)]
pub enum RewrapError {
    /// The present header cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new one cannot be made.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Splits a whole sealed file: the answer's second part stands at the payload's first byte.
///
/// # Errors
/// When the file does not start with a header, or `file` fails.
pub fn split<R: BufRead>(mut file: R) -> Result<(Header, R), HeaderError> {
    let mut bytes = Vec::new();
    loop {
        let line = bytes.len();
        let room = MAX_HEADER.saturating_sub(line);
        let read = (&mut file).take(room as u64).read_until(b'\n', &mut bytes)?;
        if read == 0 || !bytes.ends_with(b"\n") {
            return Err(if room == read {
                HeaderError::TooLong
            } else {
                HeaderError::incomplete(&bytes)
            });
        }
        if bytes[line..].starts_with(b"--- ") {
            return Ok((Header::parse(&bytes)?, file));
        }
        // Whatever else this is, it need not be read to its 65536th byte.
        if line == 0 {
            Header::check_version(&bytes)?;
        }
    }
}

/// A small thing, sealed: header and payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedBytes {
    /// Who can open it.
    pub header: Header,
    /// The encrypted bytes; base64 as text.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub payload: Vec<u8>,
}

impl SealedBytes {
    /// What [`Sealer::finish`] says of the payload.
    #[must_use]
    pub fn payload_sha256(&self) -> Digest {
        Digest::of(&self.payload)
    }

    /// The whole as one age file.
    #[must_use]
    pub fn to_file(&self) -> Vec<u8> {
        [self.header.as_bytes(), &self.payload].concat()
    }

    /// Takes an age file apart.
    ///
    /// # Errors
    /// When it does not start with a header.
    pub fn from_file(file: &[u8]) -> Result<Self, HeaderError> {
        let (header, payload) = split(file)?;
        Ok(Self { header, payload: payload.to_vec() })
    }

    /// Opens it, see [`open_bytes`].
    ///
    /// # Errors
    /// As [`open_bytes`].
    pub fn open(&self, identities: &[&PoolKey]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        open_bytes(identities, &self.header, &self.payload)
    }
}

/// Seals a small thing in memory.
///
/// # Errors
/// As [`seal`], and when it has more than [`MAX_BYTES`].
pub fn seal_bytes(recipients: &[Recipient], plain: &[u8]) -> Result<SealedBytes, SealError> {
    if plain.len() > MAX_BYTES {
        return Err(SealError::TooLong(plain.len()));
    }
    let mut payload = Vec::with_capacity(payload::sealed_len(plain.len()));
    let mut sealer = seal(recipients, &mut payload)?;
    sealer.write_all(plain)?;
    let header = sealer.finish()?.header;
    Ok(SealedBytes { header, payload })
}

/// Opens a small thing in memory, whole or not at all; the answer is zeroed when dropped.
///
/// # Errors
/// As [`open`], when the payload was changed or cut short, and when it is longer than
/// [`MAX_BYTES`] make.
pub fn open_bytes(
    identities: &[&PoolKey],
    header: &Header,
    payload: &[u8],
) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    if payload.len() > payload::sealed_len(MAX_BYTES) {
        return Err(OpenError::TooLong(payload.len()));
    }
    let mut opener = open(identities, header, payload)?;
    // As long as the payload, so that it never moves and leaves a copy behind.
    let mut plain = Zeroizing::new(vec![0; payload.len()]);
    let mut len = 0;
    loop {
        match opener.read(&mut plain[len..]).map_err(OpenError::from_io)? {
            0 => break,
            read => len += read,
        }
    }
    plain.truncate(len);
    Ok(plain)
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map_err(|_| de::Error::custom("the sealed payload is not base64"))
}
