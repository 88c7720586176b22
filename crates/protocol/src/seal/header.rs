//! The header of a sealed thing: an age header (`c2sp.org/age`), version 1.

use std::fmt;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};

use super::SealError;
use super::kdf::FileKey;
use super::open::OpenError;
use super::stanza::{self, KIND, Recipient, Tag};
use crate::{CryptoError, PoolKey};

/// The longest header.
pub const MAX_HEADER: usize = 64 * 1024;
/// The most recipients of one header.
pub const MAX_RECIPIENTS: usize = 32;

const VERSION: &[u8] = b"age-encryption.org/v1\n";
/// How many characters a body's line has; a shorter one ends the body.
const COLUMNS: usize = 64;

/// Bytes that are no header of a sealed thing.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Longer than any header.
    #[error("the sealed header is longer than {MAX_HEADER} bytes: this is not a sealed file")]
    TooLong,
    /// Something else.
    #[error("this is not a sealed file: it does not start as an age file does")]
    NotSealed,
    /// The text form of age files.
    #[error("this is an age file in text form: decode it first, we keep the binary form")]
    Armored,
    /// A format of another version.
    #[error("the sealed file has another version than 1: upgrade this program")]
    OtherVersion,
    /// It ends too early.
    #[error("the sealed header is cut short: fetch the file again")]
    Incomplete,
    /// It breaks the format's rules.
    #[error("the sealed header is malformed in line {line}: the file was damaged, fetch it again")]
    Malformed {
        /// Which line, counted from 1.
        line: usize,
    },
    /// More recipients than we look at.
    #[error("the sealed header has more than {MAX_RECIPIENTS} recipients")]
    TooManyRecipients,
    /// It goes on after its last line.
    #[error("the sealed header goes on after its last line: split header and payload first")]
    Trailing,
    /// No base64.
    #[error("the sealed header is not base64")]
    NotBase64,
    /// The file cannot be read.
    #[error("the sealed file cannot be read")]
    Io(#[from] io::Error),
}

impl HeaderError {
    /// What a header is that ends with `bytes`.
    pub(super) fn incomplete(bytes: &[u8]) -> Self {
        if VERSION.starts_with(bytes) && !bytes.is_empty() {
            return Self::Incomplete;
        }
        match Header::check_version(bytes) {
            Ok(()) => Self::Incomplete,
            Err(error) => error,
        }
    }
}

/// Who can open a sealed thing: its header, up to and including the line that authenticates it.
///
/// Equal headers are equal byte by byte. As text it is base64.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Header {
    bytes: Vec<u8>,
    stanzas: Vec<Stanza>,
    mac: [u8; 32],
    /// How many of `bytes` the code covers.
    covered: usize,
}

#[derive(Clone, PartialEq, Eq)]
struct Stanza {
    /// Who it is for. Stanzas of other kinds than ours are kept in the bytes and never looked at.
    tag: Option<Tag>,
    body: Vec<u8>,
}

impl Header {
    /// Reads a header that is followed by nothing.
    ///
    /// # Errors
    /// One for each way in which it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        if bytes.len() > MAX_HEADER {
            return Err(HeaderError::TooLong);
        }
        Self::check_version(bytes)?;
        let mut lines = Lines { bytes, at: VERSION.len(), number: 1 };
        let mut stanzas = Vec::new();
        loop {
            let start = lines.at;
            let line = lines.next()?;
            if let Some(code) = line.strip_prefix("--- ") {
                let mac = decode(code).and_then(|code| code.try_into().ok());
                let mac = mac.filter(|_| !stanzas.is_empty()).ok_or_else(|| lines.malformed())?;
                if lines.at < bytes.len() {
                    return Err(HeaderError::Trailing);
                }
                return Ok(Self { bytes: bytes.to_vec(), stanzas, mac, covered: start + 3 });
            }
            if stanzas.len() == MAX_RECIPIENTS {
                return Err(HeaderError::TooManyRecipients);
            }
            stanzas.push(Stanza::parse(line, &mut lines)?);
        }
    }

    pub(super) fn check_version(bytes: &[u8]) -> Result<(), HeaderError> {
        if bytes.starts_with(VERSION) {
            Ok(())
        } else if bytes.starts_with(b"age-encryption.org/") {
            Err(HeaderError::OtherVersion)
        } else if bytes.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----") {
            Err(HeaderError::Armored)
        } else {
            Err(HeaderError::NotSealed)
        }
    }

    /// A header that gives `file_key` to each of `recipients`; one that is named twice gets it once.
    pub(super) fn wrap(file_key: &FileKey, recipients: &[Recipient]) -> Result<Self, SealError> {
        let mut chosen: Vec<&Recipient> = Vec::new();
        for recipient in recipients {
            if !chosen.contains(&recipient) {
                chosen.push(recipient);
            }
        }
        match chosen.len() {
            0 => return Err(SealError::NoRecipients),
            1..=MAX_RECIPIENTS => {}
            more => return Err(SealError::TooManyRecipients(more)),
        }
        let mut bytes = VERSION.to_vec();
        let mut stanzas = Vec::new();
        for recipient in chosen {
            let body = recipient.wrap(file_key).map_err(CryptoError::from)?;
            let stanza = Stanza { tag: Some(recipient.tag()), body };
            bytes.extend_from_slice(stanza.to_text(recipient.tag()).as_bytes());
            stanzas.push(stanza);
        }
        bytes.extend_from_slice(b"---");
        let covered = bytes.len();
        let mac = *file_key.mac(&bytes).map_err(CryptoError::from)?;
        bytes.extend_from_slice(format!(" {}\n", STANDARD_NO_PAD.encode(mac)).as_bytes());
        Ok(Self { bytes, stanzas, mac, covered })
    }

    /// The file key, by the first of `identities` that is a recipient.
    pub(super) fn unwrap(&self, identities: &[&PoolKey]) -> Result<FileKey, OpenError> {
        let mut tags = Vec::new();
        let mut is_named = false;
        for identity in identities {
            let tag = Tag::of(identity.public())?;
            for stanza in self.stanzas.iter().filter(|stanza| stanza.tag == Some(tag)) {
                is_named = true;
                if let Some(file_key) = stanza::unwrap(identity, &stanza.body) {
                    return self.check(file_key);
                }
            }
            tags.push(tag);
        }
        if is_named {
            return Err(OpenError::HeaderChanged);
        }
        Err(OpenError::NotARecipient { recipients: self.tags(), keys: tags })
    }

    fn check(&self, file_key: FileKey) -> Result<FileKey, OpenError> {
        let mac = file_key.mac(&self.bytes[..self.covered]).map_err(CryptoError::from)?;
        if openssl::memcmp::eq(mac.as_slice(), &self.mac) {
            Ok(file_key)
        } else {
            Err(OpenError::HeaderChanged)
        }
    }

    /// The header's bytes: what stands before the payload in an age file.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How it names its recipients, in order.
    #[must_use]
    pub fn tags(&self) -> Vec<Tag> {
        self.stanzas.iter().filter_map(|stanza| stanza.tag).collect()
    }

    /// Whether it names `recipient`. A hint, see [`Tag`].
    #[must_use]
    pub fn names(&self, recipient: &Recipient) -> bool {
        self.stanzas.iter().any(|stanza| stanza.tag == Some(recipient.tag()))
    }
}

impl Stanza {
    /// Reads a stanza whose first line is `line`.
    fn parse(line: &str, lines: &mut Lines<'_>) -> Result<Self, HeaderError> {
        let words: Vec<&str> =
            line.strip_prefix("-> ").ok_or_else(|| lines.malformed())?.split(' ').collect();
        let is_word =
            |word: &&str| !word.is_empty() && word.bytes().all(|it| it.is_ascii_graphic());
        if !words.iter().all(is_word) {
            return Err(lines.malformed());
        }
        let mut text = String::new();
        loop {
            let line = lines.next()?;
            text.push_str(line);
            match line.len() {
                COLUMNS => {}
                0..COLUMNS => break,
                _ => return Err(lines.malformed()),
            }
        }
        let body = decode(&text).ok_or_else(|| lines.malformed())?;
        let tag = match words.as_slice() {
            [KIND, tag] => Some(Tag::parse(tag).ok_or_else(|| lines.malformed())?),
            [KIND, ..] => return Err(lines.malformed()),
            _ => None,
        };
        Ok(Self { tag, body })
    }

    fn to_text(&self, tag: Tag) -> String {
        let mut text = format!("-> {KIND} {tag}\n");
        let body = STANDARD_NO_PAD.encode(&self.body);
        let mut rest = body.as_str();
        // A body whose last line is full is followed by an empty one.
        while rest.len() >= COLUMNS {
            let (line, after) = rest.split_at(COLUMNS);
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str(rest);
        text.push('\n');
        text
    }
}

/// Base64 without padding, in its one canonical spelling.
fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD_NO_PAD.decode(text).ok()
}

/// The lines of a header, each of which must end.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    number: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a str, HeaderError> {
        self.number += 1;
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&byte| byte == b'\n').ok_or(HeaderError::Incomplete)?;
        self.at += len + 1;
        str::from_utf8(&rest[..len]).map_err(|_| self.malformed())
    }

    fn malformed(&self) -> HeaderError {
        HeaderError::Malformed { line: self.number }
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(&self.bytes))
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Header").field(&self.tags()).finish()
    }
}

impl std::str::FromStr for Header {
    type Err = HeaderError;

    fn from_str(text: &str) -> Result<Self, HeaderError> {
        if text.len() > MAX_HEADER.div_ceil(3) * 4 {
            return Err(HeaderError::TooLong);
        }
        Self::parse(&STANDARD.decode(text).map_err(|_| HeaderError::NotBase64)?)
    }
}

impl TryFrom<String> for Header {
    type Error = HeaderError;

    fn try_from(text: String) -> Result<Self, HeaderError> {
        text.parse()
    }
}

impl From<Header> for String {
    fn from(header: Header) -> Self {
        header.to_string()
    }
}
