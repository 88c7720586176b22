//! Seals a source that was uploaded in the clear.
//!
//! The command line seals what it uploads. Who uses the API alone may not, and what lies in the object
//! store is to be read by a pool only: so such an archive is sealed when it is taken in, kept under
//! another key, and the clear one is removed.

use std::io::Write as _;

use bytes::Bytes;
use gantry_protocol::{Digest, Digester, MAX_HEADER, Recipient, seal};

use crate::error::OperationError;
use crate::objects::Objects;

/// The largest archive that is taken in the clear: it is sealed in memory.
const MAX_CLEAR: u64 = 256 << 20;
/// How much of one is read at once.
const PART: u64 = 4 << 20;
/// How every age file begins.
const AGE: &[u8] = b"age-encryption.org/v1\n";

/// A source, sealed.
pub(super) struct Sealed {
    pub(super) file: Bytes,
    pub(super) sha256: String,
}

/// Whether the object is an age file.
pub(super) async fn is_sealed(objects: &dyn Objects, key: &str) -> Result<bool, OperationError> {
    Ok(objects.get_range(key, 0..AGE.len() as u64).await? == AGE)
}

/// Reads an archive of `size` bytes with this hash, and seals it. One at a time: it is held in memory.
pub(super) async fn seal_object(
    objects: &dyn Objects,
    key: &str,
    size: u64,
    sha256: &str,
    recipients: &[String],
) -> Result<Sealed, OperationError> {
    let invalid = |problem: &str| OperationError::invalid("source", problem);
    if size > MAX_CLEAR {
        return Err(invalid(
            "it is not sealed, and larger than the 256 MiB that are sealed here: seal it to the stack's recipients as an age file, as `gantry stack upload` does",
        ));
    }
    let cannot = |error: &dyn std::fmt::Display| OperationError::Conflict(error.to_string());
    let recipients: Vec<_> = recipients
        .iter()
        .map(|pem| Recipient::parse(pem.as_bytes()))
        .collect::<Result<_, _>>()
        .map_err(|error| cannot(&error))?;
    let mut digester = Digester::new();
    // Sized up front for the chunks' tags and the header, so that it is never copied to grow.
    let room = usize::try_from(size + size / 4096).map_err(|error| cannot(&error))? + MAX_HEADER;
    let mut payload = Vec::with_capacity(room);
    let mut sealer = seal(&recipients, &mut payload).map_err(|error| cannot(&error))?;
    let mut at = 0;
    while at < size {
        let part = objects.get_range(key, at..size.min(at + PART)).await?;
        if part.is_empty() {
            return Err(invalid("no object of this length is stored: upload it first"));
        }
        at += part.len() as u64;
        digester.update(&part);
        sealer.write_all(&part).map_err(|error| cannot(&error))?;
    }
    if digester.digest().to_string() != sha256 {
        return Err(invalid("what is stored has another hash: upload it again"));
    }
    let header = sealer.finish().map_err(|error| cannot(&error))?.header;
    drop(payload.splice(0..0, header.as_bytes().iter().copied()));
    let file = Bytes::from(payload);
    let sha256 = Digest::of(&file).to_string();
    Ok(Sealed { file, sha256 })
}
